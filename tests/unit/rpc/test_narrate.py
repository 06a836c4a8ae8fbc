"""Every record has a sentence, and the ones that operators read most say what they should."""

from __future__ import annotations

import dataclasses
import typing
from enum import Enum
from typing import Any

import pytest

from controlplane.core import records as r
from controlplane.core.events import AcceleratorRow
from controlplane.core.fleet import Accelerator, NodeFacts
from controlplane.core.health.standstill import Verdict
from controlplane.core.jobs import Exit, Job
from controlplane.core.spec import JobSpec, Workload
from controlplane.core.state import State
from controlplane.core.vocabulary import Blame, JobState, NodeLiveness, RankState, Rung
from controlplane.rpc.explain import job_summary
from controlplane.rpc.narrate import HIDDEN, VISIBLE, Names, narrate, shown


def sample(kind: Any) -> Any:
    """Some value of a declared type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (int, float, str, bool):
        return kind(1)
    if origin is tuple:
        return tuple(sample(argument) for argument in arguments if argument is not Ellipsis)
    if origin is dict:
        return {}
    if origin is not None:
        return None
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind))
    hints = typing.get_type_hints(kind)
    return kind(**{field.name: sample(hints[field.name]) for field in dataclasses.fields(kind) if field.init})


def names() -> Names:
    state = State()
    fleet = state.own_fleet()
    fleet.add(NodeFacts("node-00"))
    fleet.add(NodeFacts("node-01"))
    return Names(state, {"moe-1": {3: 1}})


@pytest.mark.parametrize("name", list(r.TYPES))
def test_every_record_has_a_sentence(name: str) -> None:
    text = narrate(sample(r.TYPES[name]), names())
    assert text
    assert "\n" not in text


def test_what_is_hidden_and_what_is_not() -> None:
    assert HIDDEN.isdisjoint(VISIBLE)
    assert not shown(r.EffectsFinished(("e1",), ok=True))
    assert not shown(r.EffectsFinished(("e1",), ok=False, message="superseded: moe is in generation 3"))
    assert shown(r.EffectsFinished(("e1",), ok=False, message="no space"))
    assert shown(r.RanksLost("moe-1", (), 0, 0, ""))


SENTENCES = [
    (
        r.HostEnded("moe-1", 3, 2, 1, Exit(True, signal=9, sender="unknown")),
        "rank 2 of moe was killed by signal 9 on node-01",
    ),
    (r.HostEnded("moe-1", 3, 2, 1, Exit(True, final_marker=True)), "rank 2 of moe finished on node-01"),
    (r.HostEnded("moe-1", 3, -1, 1, Exit(False)), "process 3 of moe on node-01 is gone, nobody saw how"),
    (r.HostEnded("moe-1", 9, 2, 1, Exit(True, code=1)), "rank 2 of moe exited with code 1"),
    (
        r.LivenessChanged(("node-00",), NodeLiveness.SUSPECT, "silent past its lease"),
        "node-00 is SUSPECT: silent past its lease",
    ),
    (
        r.AcceleratorsChanged("node-01", (AcceleratorRow(1, 4, Accelerator("s", fault_code="XID-79")),)),
        "on node-01 accelerator 1 is FAILED (XID-79)",
    ),
    (
        r.RecoveryDecided("moe-1", Rung.REPLACE_RANK, "it is DEAD", (2,), Blame.USER, True, 5, 0, (), (), ()),
        "recovery of moe: REPLACE_RANK (new processes in another place, the others stay), because it is DEAD, charged to user",
    ),
    (
        r.GenerationStarted("moe-1", 2, ((7, 1),), ((1, 1),), "moe-1/g1/step-50", 50),
        "moe starts generation 2 from step 50 (checkpoint moe-1/g1/step-50), new processes for rank 1",
    ),
    (
        r.GenerationStarted("moe-1", 3, (), (), "", 51, participants=6, keeps_state=True),
        "moe starts generation 3 with 6 ranks from step 51 (what its ranks hold)",
    ),
    (r.ReplicasDropped("moe-1", (2, 3)), "moe goes on without 2 replicas (2, 3)"),
    (
        r.HangSuspected("moe-1", 1, 5, 12_500_000_000, "e7"),
        "moe has made no step for 12.5 s: its agents are asked where its ranks stand",
    ),
    (r.HangJudged("moe-1", 1, Verdict.ODD, "rank 2 sleeps", (2,)), "ranks of moe hang: rank 2 sleeps"),
    (
        r.RungFailed("moe-1", Rung.RESTART_RANK, (1,), "no process parked on node-01 within 30 s"),
        "the way back of moe has failed: no process parked on node-01 within 30 s",
    ),
    (
        r.HostsReached("moe-1", 2, RankState.RUNNING, ((1, 49_600),), 1, 3, "relay-0"),
        "RUNNING, says relay-0: processes 1-49600 of moe",
    ),
    (r.HostsLost("moe-1", ((3, 1),), 1), "lost with their nodes: process 3 of moe"),
    (r.HostsRequested("moe-1", (1, 2), (0, 1)), "2 processes of moe requested on node-00, node-01"),
    (r.NodeSessionChanged("node-00", False, "1", "reset"), "the agent of node-00 lost its session: reset"),
]


@pytest.mark.parametrize(("record", "sentence"), SENTENCES)
def test_sentences(record: r.Record, sentence: str) -> None:
    assert narrate(record, names()) == sentence


@pytest.mark.parametrize(
    ("blocker", "said"),
    [("waits for its turn behind big", "it waits for its turn behind big"), ("no cell", "it waits: no cell")],
)
def test_a_summary_says_once_that_a_job_waits(blocker: str, said: str) -> None:
    job = Job("moe", "moe-1", 1, JobSpec("moe", Workload("m"), ranks=1), JobState.QUEUED, 0, blocker)
    assert said in job_summary(State(), job, 0).split("; ")
