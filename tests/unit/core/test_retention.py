"""What compaction may take."""

from __future__ import annotations

import pytest

from controlplane.adapters.journal.memory import MemoryJournal
from controlplane.core import records as r
from controlplane.core.machine import Machine
from controlplane.core.retention import BOOKKEEPING, Kept, Retention, compact_before
from controlplane.engine.ports import JournalEntry
from controlplane.engine.recover import lead
from controlplane.follower import compact, store

PLENTY = Retention(records=1_000, age_ns=10**18, bytes=10**12, decisions_ns=10**18)


@pytest.mark.parametrize(
    ("retention", "kept", "expected"),
    [
        (PLENTY, Kept(1, 500, 400, 1, 10), 1),
        (PLENTY, Kept(1, 1_500, 1_400, 1, 10), 501),
        (PLENTY, Kept(1, 1_500, 300, 1, 10), 300),
        (PLENTY, Kept(1, 500, 400, 250, 10), 250),
        (PLENTY, Kept(1, 500, 400, 501, 10), 400),
        (PLENTY, Kept(1, 500, 400, 1, 10**12 + 1), 400),
    ],
    ids=["all fits", "too many", "snapshot limits", "too old", "all too old", "too large"],
)
def test_the_first_revision_that_stays(retention: Retention, kept: Kept, expected: int) -> None:
    assert compact_before(retention, kept) == expected


def test_bookkeeping_names_records() -> None:
    assert {*r.TYPES, *r.FORMER} >= BOOKKEEPING


def test_the_follower_finds_the_age_by_bisection() -> None:
    journal = MemoryJournal()
    state = lead(journal, Machine(), "a", "0", 1_000)
    journal.append(
        [JournalEntry(n, 1, n * 1_000, "c", "NodeUncordoned", 1, '{"node":"n","owner":"o"}') for n in range(2, 101)]
    )
    state.revision = 100
    store(journal, state)
    assert compact(journal, Retention(1_000, 40_500, 10**12, 80_500), 100_000) == 59, "older than 59.5 us"
    assert journal.bounds() == (60, 100)
    assert journal.newest(1_000)[0].revision == 20, "archived ones older than 19.5 us are forgotten"
    assert compact(journal, PLENTY, 100_000) == 0
    assert compact(journal, PLENTY, 100_000, before=10**9) == 40, "as far as the snapshot"
    assert journal.bounds() == (100, 100)


def test_nothing_goes_without_a_snapshot() -> None:
    journal = MemoryJournal()
    lead(journal, Machine(), "a", "0", 1_000)
    assert compact(journal, Retention(1, 1, 1, 1), 10**15) == 0
