"""The brain's thread: lateness before judgement, a bounded inbox, defects end the process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn

import pytest

from controlplane.adapters.journal.memory import MemoryJournal
from controlplane.brain import (
    JUST_PAST_NS,
    LEAST_PAUSE_NS,
    REST,
    Brain,
    BrainLimits,
    Clock,
    ExitCode,
    paused,
    rested,
)
from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Answer, Policy, Refusal
from controlplane.core.health.suspicion import SuspicionPolicy
from controlplane.core.machine import Decision, Machine
from controlplane.core.softstate import SoftState
from controlplane.core.state import State
from controlplane.core.vocabulary import NodeLiveness
from controlplane.engine.recover import lead
from controlplane.engine.soft import SoftColumns
from controlplane.engine.turn import Engine, Request, TurnResult
from controlplane.observability import Metrics
from controlplane.observability.processor import ProcessorWait
from controlplane.strain import StrainWatch
from tests.fixtures.controller_process import until

MS = 1_000_000


HOUR_NS = 3_600_000 * MS


class Bench:
    """A brain over a journal in memory; its thread is started by the test."""

    def __init__(self, machine: Machine, *, inbox: int = 8, tick_ns: int = 20 * MS) -> None:
        self.journal = MemoryJournal()
        state = lead(self.journal, machine, "test", "test", time.time_ns())
        self.clock = Clock(state.at_ns)
        self.soft = SoftColumns(self.clock.now_ns())
        self.engine = Engine(machine, self.journal, self.soft, lambda effects: None, state)
        self.engine.on_commit = lambda result: self.soft.beat(0, self.clock.now_ns())
        self.codes: list[ExitCode] = []
        limits = BrainLimits(inbox=inbox, batch=4, tick_ns=tick_ns, lease_ns=800 * MS)
        strain = StrainWatch(self.soft, 100 * MS, ProcessorWait())
        self.brain = Brain(
            self.engine, self.soft, self.clock, limits, metrics=Metrics(), strain=strain, fatal=self.fatal
        )

    def fatal(self, code: ExitCode) -> NoReturn:
        self.codes.append(code)
        raise SystemExit  # ends this thread without a trace

    def ask(self, event: ev.Event) -> Answer | Refusal | None:
        answered = threading.Event()
        answers: list[Answer | Refusal | None] = []

        def reply(answer: Answer | Refusal | None) -> None:
            answers.append(answer)
            answered.set()

        assert self.brain.post(event, reply)
        assert answered.wait(60)
        return answers[0]


def policy() -> Policy:
    return Policy(suspicion=SuspicionPolicy(lease_s=0.8))


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(Machine(policy()))
    bench.brain.start()
    yield bench
    assert bench.brain.stop(60)


def hello(node: str = "n") -> ev.NodeHello:
    return ev.NodeHello(node, "1", (), "127.0.0.1", "test", (), ())


def test_a_node_is_not_judged_in_the_turn_of_its_hello(bench: Bench) -> None:
    until(lambda: bench.clock.now_ns() - bench.soft.trusted_since_ns() > 900 * MS, "longer than a lease")
    assert isinstance(bench.ask(hello()), Answer)
    entries = bench.journal.read(0, 1_000)
    (turn_ns,) = {entry.at_ns for entry in entries if entry.type == r.NodeRegistered.__name__}
    verdicts = [json.loads(entry.body)["liveness"] for entry in entries
                if entry.type == r.LivenessChanged.__name__ and entry.at_ns < turn_ns + 800 * MS]  # fmt: skip
    assert {*verdicts} <= {int(NodeLiveness.ALIVE)}, "a lease had not passed since"


def test_silence_is_judged_when_a_lease_runs_out_and_not_at_the_next_interval() -> None:
    bench = Bench(Machine(policy()), tick_ns=HOUR_NS)
    bench.engine.turn([Request(hello())], bench.clock.now_ns())
    bench.brain.start()
    until(lambda: bench.brain.state.fleet.liveness[0] != NodeLiveness.ALIVE, "the silent node is doubted")
    assert bench.brain.stop(60)


def test_costly_turns_put_the_next_lease_off_and_never_the_interval() -> None:
    assert rested(1_010, 1_000, 1, 100) == 1_010, "as planned"
    assert rested(1_010, 1_000, 10, 100) == 1_000 + (1 + REST) * 10
    assert rested(1_010, 1_000, 90, 100) == 1_100, "the interval stands"
    assert rested(1_100, 1_000, 10, 100) == 1_100
    assert rested(1_110, 1_000, 1, 100) == 1_110, "leases that end together are waited for beyond it"


def test_leases_that_end_together_and_jobs_that_wait_bring_the_next_tick() -> None:
    now_ns, far_ns = 1_000 * MS, 10_000 * MS
    interval_ns = 100 * MS

    def pause(first: int, last: int, waits: int = 9_000) -> float:
        moments = (now_ns + first * MS, now_ns + last * MS)
        return (paused(now_ns, interval_ns, moments, now_ns + waits * MS) - JUST_PAST_NS) / MS

    assert paused(now_ns, interval_ns, (far_ns, far_ns), far_ns) == interval_ns
    assert pause(40, 62) == 62, "one look at all of them"
    assert pause(95, 118) == 118, "the interval does not come between them"
    assert paused(now_ns, interval_ns, (now_ns + 101 * MS, now_ns + 120 * MS), far_ns) == interval_ns
    assert paused(now_ns, interval_ns, (far_ns, far_ns), now_ns + 30 * MS) == 30 * MS, (
        "failures are collected until then"
    )
    assert paused(now_ns, interval_ns, (now_ns + 1, now_ns + 1), far_ns) == LEAST_PAUSE_NS
    assert paused(now_ns, 5 * MS, (now_ns + 1, now_ns + 1), far_ns) == 5 * MS, "no rarer than the interval"


def test_a_late_edge_makes_silence_untrusted(bench: Bench) -> None:
    now_ns = time.monotonic_ns()
    bench.brain.edge_alive(now_ns, now_ns)  # and never again: beats wait unread from here on
    assert isinstance(bench.ask(hello()), Answer)
    until(bench.brain.degraded, "degraded")
    until(lambda: bench.soft.stalls > 60, "each tick is late, for more than a lease")
    assert bench.brain.lag_s() > 0.4
    assert bench.brain.state.fleet.liveness[0] == NodeLiveness.ALIVE, "many leases of silence, and nobody is blamed"


def test_a_full_inbox_takes_nothing_and_a_stop_answers_everybody() -> None:
    bench = Bench(Machine(policy()), inbox=3)
    answers: list[Answer | Refusal | None] = []
    taken = [bench.brain.post(hello(f"n{number}"), answers.append) for number in range(5)]
    assert taken == [True, True, True, False, False]
    assert bench.brain.depth == 3
    bench.brain.start()
    until(lambda: len(answers) == 3, "all that was taken is answered")
    assert bench.brain.stop(60)
    assert not bench.brain.post(hello())


def test_time_never_goes_back_and_continues_after_the_journal() -> None:
    future_ns = time.time_ns() + 3_600_000 * MS
    clock = Clock(future_ns)
    seen = [clock.now_ns() for _ in range(1_000)]
    assert seen == sorted(seen)
    assert seen[0] >= future_ns


class BrokenMachine(Machine):
    """A machine with a defect."""

    def step(self, state: State, event: ev.Event, now_ns: int, soft: SoftState, draw: float = 0.0) -> Decision:
        if isinstance(event, ev.CordonNode):
            raise IndexError("a defect")
        return Machine.step(self, state, event, now_ns, soft)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_ends_the_process_and_leaves_the_journal_alone() -> None:
    bench = Bench(BrokenMachine(policy()))
    bench.brain.start()
    assert isinstance(bench.ask(hello()), Answer)
    revision = bench.brain.state.revision
    bench.brain.post(ev.CordonNode("r", "n", "me", "test"))
    until(lambda: bench.codes, "the end")
    assert bench.codes == [ExitCode.DEFECT]
    assert bench.brain.stop(60), "its thread has ended, and does so in no other test"
    assert bench.journal.bounds()[1] == revision


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lost_epoch_ends_the_process() -> None:
    bench = Bench(Machine(policy()))
    bench.brain.start()
    bench.journal.lose_leadership()
    bench.brain.post(hello())
    until(lambda: bench.codes, "the end")
    assert bench.codes == [ExitCode.EPOCH_LOST]
    assert bench.brain.stop(60), "its thread has ended, and does so in no other test"


def test_a_blocked_journal_refuses_and_recovers(bench: Bench) -> None:
    assert isinstance(bench.ask(hello()), Answer)
    bench.journal.set_full(True)
    refused = bench.ask(ev.CordonNode("r", "n", "me", "test"))
    assert isinstance(refused, Refusal)
    assert refused.reason == "JOURNAL_UNAVAILABLE"
    assert "disk is full" in bench.brain.blocked
    bench.journal.set_full(False)
    cordon = ev.CordonNode("r", "n", "me", "test")
    until(lambda: isinstance(bench.ask(cordon), Answer), "the next probe has found that it can write")
    assert bench.brain.blocked == ""


def test_hellos_wait_for_each_other_and_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    turn = Engine.turn

    def counted(engine: Engine, requests: Sequence[Request], now_ns: int) -> TurnResult:
        turns.append(len(requests))
        return turn(engine, requests, now_ns)

    monkeypatch.setattr(Engine, "turn", counted)
    bench = Bench(Machine(policy()), inbox=64, tick_ns=HOUR_NS)
    for number in range(3):
        assert bench.brain.post(hello(f"n{number}"))
    bench.brain.start()
    until(lambda: bench.brain.state.fleet.size == 3, "all hellos are recorded")
    assert turns == [3], "one turn for what came together"
    assert bench.brain.post(hello("n4"))
    bench.ask(ev.Tick())
    assert sum(turns) == 5
    assert bench.brain.state.fleet.size == 4, "what presses takes waiting hellos along"
    assert bench.brain.stop(60)
