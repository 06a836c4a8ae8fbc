"""What counts as detected, of which class, and after how long."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controlplane.core import records as r
from controlplane.core.evidence import Reason
from controlplane.core.fleet import Fleet, NodeFacts
from controlplane.core.health.book import FaultNote
from controlplane.core.jobs import Exit
from controlplane.core.state import State
from controlplane.core.vocabulary import Assertion, HandlingLevel, NodeLiveness
from controlplane.engine.ports import JournalEntry
from controlplane.observability.detection import Failure, detected

S = 10**9
AT_NS = 1_000 * S
DURABLE_NS = AT_NS + 2_000_000
NOTE = FaultNote("accelerator/1", "XID-79", HandlingLevel.ISOLATE, raised_ns=AT_NS - S)


def found(*records: r.Record, open_sessions: bool = True) -> list[tuple[Failure, int]]:
    fleet = Fleet()
    for name in ("node-0", "node-1"):
        fleet.add(NodeFacts(name))
    fleet.session = np.array([open_sessions, open_sessions])
    beats = np.array([AT_NS - 4 * S, 0])
    entries = [JournalEntry(1, 1, AT_NS, "", "", 1, "{}") for _ in records]
    return list(detected(records, entries, State(fleet=fleet), lambda size: beats[:size], DURABLE_NS))


@pytest.mark.parametrize(
    ("entity", "failure"),
    [("accelerator/1", Failure.DEVICE), ("port/0", Failure.PORT), ("node", Failure.NODE)],
)
def test_a_fault_counts_from_its_raising_to_its_record(entity: str, failure: Failure) -> None:
    assert found(r.FaultsReported("node-0", (replace(NOTE, entity=entity),))) == [(failure, S + 2_000_000)]


def test_a_hang_counts_from_the_newest_step() -> None:
    hung = r.RanksLost("moe-u", (), AT_NS, 7, "hang", why=Reason.HUNG, since_ns=AT_NS - 11 * S)
    assert found(hung, replace(hung, why=Reason.LATE)) == [(Failure.HANG, 11 * S + 2_000_000)]


def test_an_end_and_a_fault_that_nobody_dated_do_not_count() -> None:
    over = replace(NOTE, assertion=Assertion.RECOVERED)
    undated = replace(NOTE, raised_ns=AT_NS)
    assert found(r.FaultsReported("node-0", (over, undated))) == []


def test_a_process_that_failed_counts_and_one_that_finished_does_not() -> None:
    died = r.HostEnded("moe-u", 1, 0, AT_NS - S // 2, Exit(True, 1))
    finished = replace(died, exit=Exit(True, 0, final_marker=True))
    gone_with_its_node = replace(died, exit=Exit(False))
    assert found(died, finished, gone_with_its_node) == [(Failure.PROCESS, S // 2 + 2_000_000)]


@pytest.mark.parametrize(
    ("verdict", "session", "expected"),
    [
        (NodeLiveness.SUSPECT, True, [Failure.SILENCE]),
        (NodeLiveness.SUSPECT, False, []),
        (NodeLiveness.DEAD, False, [Failure.DEATH]),
        (NodeLiveness.UNKNOWN, True, []),
        (NodeLiveness.ALIVE, True, []),
    ],
)
def test_silence_and_death_count_from_the_last_beat(
    verdict: NodeLiveness, session: bool, expected: list[Failure]
) -> None:
    told = found(r.LivenessChanged(("node-0", "node-1"), verdict, "silent"), open_sessions=session)
    assert told == [(failure, 4 * S + 2_000_000) for failure in expected], "node-1 has never beaten for this process"
