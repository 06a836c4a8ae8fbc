"""The simulated journal keeps the same promises as the tested one in memory, operation by operation, and crashes where asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from controlplane.adapters.journal.memory import MemoryJournal
from controlplane.engine.ports import JournalEntry, Snapshot
from controlplane.sim.journal import ControllerCrashed, CrashPoint, SimJournal

Either = SimJournal | MemoryJournal
TYPES = ("HostsObserved", "RecoveryDecided", "EffectsIssued")


def entry(revision: int, epoch: int, draw: Random) -> JournalEntry:
    job, node = draw.choice(["", "moe-1"]), draw.choice(["", "node-1"])
    return JournalEntry(revision, epoch, revision * 10, "Tick", draw.choice(TYPES), 1, "{}", job, node)


def snapshot(revision: int) -> Snapshot:
    return Snapshot(revision, hashlib.sha256(b"{}").hexdigest(), "{}")


def set_full(journal: Either, *, full: bool) -> None:
    if isinstance(journal, SimJournal):
        journal.storage.full = full
    else:
        journal.set_full(full)


def operation(draw: Random, newest: int, epoch: int) -> Callable[[Either], Any]:
    """One thing to do with a journal, the same for both."""
    entries = [entry(newest + 1 + at, epoch, draw) for at in range(draw.randint(1, 4))]
    kept, full, times = draw.random() < 0.5, draw.random() < 0.2, draw.randint(1, 2)
    revision, limit = draw.randint(0, newest + 1), draw.randint(1, 9)
    job, node, types = draw.choice(["", "moe-1"]), draw.choice(["", "node-1"]), draw.choice([(), TYPES[:1]])
    return draw.choice(
        [
            lambda journal: journal.append(entries),
            lambda journal: journal.append(entries),
            lambda journal: journal.append([entry(newest + 5, epoch, Random(1))]),
            lambda journal: journal.append([entry(newest + 1, max(1, epoch - 1), Random(1))]),
            lambda journal: journal.stored(entries),
            lambda journal: journal.probe(epoch),
            lambda journal: journal.acquire("other"),
            lambda journal: journal.fail_next(times),
            lambda journal: journal.cut_next_commit(kept=kept),
            lambda journal: set_full(journal, full=full),
            lambda journal: journal.store_snapshot(snapshot(revision)),
            lambda journal: journal.compact(revision),
            lambda journal: journal.forget(revision * 5),
            lambda journal: journal.read(revision, limit),
            lambda journal: journal.newest(limit, after=revision, job=job, node=node, types=types),
            lambda journal: journal.oldest(limit, after=revision, types=types),
            lambda journal: (journal.bounds(), journal.latest_snapshot(), journal.extent().archived),
            lambda journal: journal.open_again().bounds(),
        ]
    )


def outcome(act: Callable[[Either], Any], journal: Either) -> object:
    try:
        return act(journal)
    except Exception as error:  # noqa: BLE001 - what is compared is the kind of the error
        return type(error)


@pytest.mark.parametrize("seed", range(12))
def test_both_answer_the_same(seed: int) -> None:
    draw, memory, simulated = Random(seed), MemoryJournal(), SimJournal()
    epoch = memory.acquire("a")
    assert simulated.acquire("a") == epoch
    for number in range(250):
        newest = memory.open_again().bounds()[1]
        act = operation(draw, newest, max(1, epoch - (draw.random() < 0.05)))
        found = [outcome(act, memory), outcome(act, simulated)]
        assert found[0] == found[1], f"operation {number} of seed {seed}"
        epoch = simulated.storage.epoch
    assert memory.open_again().read(memory.bounds()[0] - 1, 10_000) == simulated.storage.entries


@pytest.mark.parametrize(
    ("point", "stored"), [(CrashPoint.BEFORE_APPEND, 0), (CrashPoint.AFTER_APPEND, 1), (CrashPoint.BEFORE_EFFECTS, 1)]
)
def test_a_crash_leaves_what_was_durable(point: CrashPoint, stored: int) -> None:
    journal = SimJournal()
    journal.acquire("a")
    journal.crash = point
    if point is CrashPoint.BEFORE_EFFECTS:
        journal.append([entry(1, 1, Random(0))])
    else:
        with pytest.raises(ControllerCrashed):
            journal.append([entry(1, 1, Random(0))])
    assert len(journal.open_again().read(0)) == stored
