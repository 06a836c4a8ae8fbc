"""The turn: durable before anything is sent or answered; an append that fails leaves nothing behind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from controlplane.adapters.journal.memory import MemoryJournal
from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Answer, Draft, Refusal
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.fleet import Accelerator
from controlplane.core.machine import Decision, Machine
from controlplane.core.softstate import SoftState
from controlplane.core.spec import JobSpec
from controlplane.core.state import State
from controlplane.core.units import NS_PER_S
from controlplane.core.vocabulary import JobState
from controlplane.engine import turn as turn_module
from controlplane.engine.ports import EpochLost, JournalEntry, JournalUnavailable
from controlplane.engine.recover import lead, load
from controlplane.engine.soft import SoftColumns
from controlplane.engine.turn import PROBE_NS, Engine, Request, RunawayDecision
from tests.support.world import spec

NOW = 1_800_000_000 * NS_PER_S
Said = list[tuple[str, object]]


class Bench:
    """An engine over a journal in memory; `said` is what left it, in order, with the revision that was durable then."""

    def __init__(self, machine: Machine | None = None, journal: MemoryJournal | None = None) -> None:
        self.journal = journal or MemoryJournal()
        self.said: Said = []
        machine = machine or Machine()
        state = lead(self.journal, machine, "test", "0", NOW)
        self.engine = Engine(machine, self.journal, SoftColumns(NOW), self._submit, state)
        self.engine.on_commit = lambda result: self.said.append(("commit", len(result.records)))

    def _submit(self, effects: Sequence[Effect]) -> None:
        durable = {
            effect.id
            for entry in self.journal.read(0)
            if entry.type == "EffectsIssued"
            for effect in getattr(r.decode(entry.type, entry.version, entry.body), "effects", ())
        }
        assert {effect.id for effect in effects} <= durable, "S7: an effect left before its record was durable"
        self.said.append(("effects", [effect.kind for effect in effects]))

    def reply(self, answer: Answer | Refusal | None) -> None:
        self.said.append(("reply", answer))
        if isinstance(answer, Answer):
            assert self.journal.bounds()[1] == self.engine.state.revision, "answered before it was durable"

    def tell(self, *events: ev.Event) -> None:
        self.engine.turn([Request(event, self.reply) for event in events], NOW)


def hello(node: str = "n0", **changes: object) -> ev.NodeHello:
    rows = tuple(ev.AcceleratorRow(i, 1, Accelerator(f"{node}-{i}", vendor="simulated")) for i in range(2))
    return ev.NodeHello(node, str(changes.get("boot_id", "1")), (("rack", "r0"),), "127.0.0.1", "0", (), rows)


def ready(bench: Bench) -> Bench:
    bench.tell(hello("n0"), hello("n1"))
    bench.tell(ev.CellHello("c", "1", "ray-1", "127.0.0.1:1", (("n0", True), ("n1", True))))
    bench.said.clear()
    return bench


def submit(name: str = "moe", request_id: str = "q1", **changes: object) -> ev.SubmitJob:
    base: JobSpec = spec(name, 2, **changes)
    return ev.SubmitJob(request_id, base)


def test_order_of_a_turn() -> None:
    bench = ready(Bench())
    bench.tell(submit())
    assert [what for what, _ in bench.said] == ["effects", "reply", "commit"]
    assert bench.said[0][1] == [EffectKind.START_HOSTS]


def test_nothing_leaves_and_nothing_changes_when_the_append_fails() -> None:
    bench = ready(Bench())
    before, digest = bench.engine.state, bench.engine.state.digest()
    bench.journal.fail_next()
    bench.tell(submit())
    assert bench.engine.state is before
    assert bench.engine.state.digest() == digest
    assert bench.engine.blocked == "failed on request"
    [(what, answer)] = bench.said
    assert what == "reply"
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.reason) == ("unavailable", "JOURNAL_UNAVAILABLE")
    bench.tell(submit())
    assert bench.engine.blocked == ""
    assert bench.engine.state.jobs["moe-1"].state is JobState.PLACING, "the repeat is taken as new"


def test_a_batch_is_all_or_nothing() -> None:
    bench = ready(Bench())
    bench.journal.fail_next()
    bench.tell(submit("a", "q1"), ev.CordonNode("q2", "n0", "", "look"))
    assert [isinstance(answer, Refusal) for _, answer in bench.said] == [True, True]
    assert bench.engine.state.jobs == {}
    assert load(bench.journal).digest() == bench.engine.state.digest()


def test_events_of_a_batch_see_each_other() -> None:
    bench = ready(Bench())
    bench.tell(submit("moe", "q1"), submit("moe", "q2"), submit("moe", "q1"))
    answers = [answer for what, answer in bench.said if what == "reply"]
    assert answers[0] == answers[2], "the same request id gets the first answer"
    assert isinstance(answers[1], Refusal)
    assert answers[1].reason == "JOB_EXISTS"
    assert len(bench.engine.state.jobs) == 1


def test_a_request_id_is_remembered_over_a_restart() -> None:
    bench = ready(Bench())
    bench.tell(submit())
    first = bench.said[1]
    again = Engine(
        Machine(), bench.journal, SoftColumns(NOW), bench._submit, lead(bench.journal, Machine(), "b", "0", NOW)
    )
    bench.engine, bench.said = again, []
    bench.tell(submit())
    assert bench.said == [first]
    assert len(again.state.jobs) == 1


def test_a_dry_run_answers_and_stores_nothing() -> None:
    bench = ready(Bench())
    before = bench.engine.state
    bench.tell(ev.SubmitJob("q1", spec("moe", 2), dry_run=True))
    assert bench.engine.state is before
    [(_, answer)] = bench.said
    assert isinstance(answer, Answer)
    assert answer.fields["nodes"] == "0 0"
    bench.tell(submit())
    assert len(bench.engine.state.jobs) == 1, "the dry run's id is not taken"


def test_a_refusal_is_not_remembered() -> None:
    bench = ready(Bench())
    bench.tell(ev.CordonNode("q1", "nowhere", "", ""))
    bench.tell(ev.CordonNode("q1", "n0", "", ""))
    assert [type(answer) for what, answer in bench.said if what == "reply"] == [Refusal, Answer]


def test_losing_the_epoch_ends_everything() -> None:
    bench = ready(Bench())
    before = bench.engine.state
    bench.journal.lose_leadership()
    with pytest.raises(EpochLost):
        bench.tell(submit())
    assert bench.said == [], "nobody is answered, nothing is sent"
    assert bench.engine.state is before


def test_a_published_state_never_changes() -> None:
    bench = ready(Bench())
    kept, digest = bench.engine.state, bench.engine.state.digest()
    bench.tell(submit())
    bench.tell(ev.CordonNode("q2", "n1", "", "look"), ev.CancelJob("q3", "moe", ""))
    assert bench.engine.state is not kept
    assert kept.digest() == digest


class Restless(Machine):
    """A machine whose looks at a job never end."""

    def step(self, state: State, event: ev.Event, now_ns: int, soft: SoftState, draw: float = 0.0) -> Decision:
        draft = Draft(state, now_ns, soft, self.policy, draw)
        draft.write(r.NodeUncordoned("n0", "nobody"))
        draft.settle("moe-1")
        return Decision(tuple(draft.records), tuple(draft.follow))


def test_decisions_that_chase_each_other_are_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = ready(Bench())
    monkeypatch.setattr(turn_module, "MAX_FOLLOW_UPS", 50)
    calm = bench.engine.state
    bench.engine.machine = Restless()
    revision = bench.journal.bounds()
    with pytest.raises(RunawayDecision, match="moe-1"):
        bench.tell(ev.Tick())
    assert bench.journal.bounds() == revision, "nothing of it was written"
    assert bench.engine.state is calm
    assert bench.said == []


def test_step_is_pure() -> None:
    bench = ready(Bench())
    state, machine = bench.engine.state, bench.engine.machine
    digest = state.digest()
    for event in (
        submit(),
        ev.Tick(),
        hello("n2"),
        ev.CordonNode("q", "n0", "", ""),
        ev.NodeSessionLost("n0", "1", "reset"),
    ):
        once = machine.step(state, event, NOW + 5, bench.engine.soft)
        assert machine.step(state, event, NOW + 5, bench.engine.soft) == once
    assert state.digest() == digest


def test_beats_are_read_in_bulk() -> None:
    soft = SoftColumns(NOW)
    soft.beat(3, NOW + 7)
    assert soft.last_beat_ns(5).tolist() == [0, 0, 0, NOW + 7, 0]
    assert soft.last_beat_ns(200)[199] == 0
    soft.beat(1_000, NOW)
    assert np.count_nonzero(soft.last_beat_ns(1_001)) == 2


@pytest.mark.parametrize(("late_ms", "distrust"), [(0, False), (399, False), (400, True), (5_000, True)])
def test_our_own_lag_moves_every_deadline(late_ms: int, distrust: bool) -> None:
    soft = SoftColumns(NOW)
    assert soft.stalled(late_ms * 1_000_000, NOW + NS_PER_S) is distrust
    assert soft.excused_ns(np.array([NOW - 60 * NS_PER_S])).tolist() == [late_ms * 1_000_000 if distrust else 0]
    assert (soft.vitals().lag_at_ns > 0) is distrust


def test_a_blocked_journal_is_probed_until_it_takes_something() -> None:
    bench = ready(Bench())
    bench.journal.fail_next(3)
    bench.tell(submit())
    for at_ns in (NOW, NOW + 1, NOW + 400_000_000):
        bench.engine.turn([Request(ev.Tick())], at_ns)
        assert bench.engine.blocked == "failed on request"
    bench.said.clear()
    bench.engine.turn([Request(submit(), bench.reply)], NOW + 400_000_001)
    [(_, answer)] = bench.said
    assert isinstance(answer, Refusal)
    assert answer.reason == "JOURNAL_UNAVAILABLE"
    bench.engine.turn([Request(ev.Tick())], NOW + 500_000_001)
    assert bench.engine.blocked == "failed on request", "the second probe failed too"
    bench.engine.turn([Request(ev.Tick())], NOW + 1_100_000_000)
    assert bench.engine.blocked == "", "a tick alone finds out"


class Narrow(MemoryJournal):
    """A journal with little room, in characters of bodies."""

    room = 1_000_000

    def append(self, entries: Sequence[JournalEntry]) -> None:
        self._take(entries)
        super().append(entries)

    def probe(self, epoch: int, entries: Sequence[JournalEntry] = ()) -> None:
        self._take(entries)
        super().probe(epoch, entries)

    def _take(self, entries: Sequence[JournalEntry]) -> None:
        if sum(len(entry.body) for entry in entries) > self.room:
            raise JournalUnavailable("no room for that much")


def test_a_blockade_ends_when_there_is_room_for_what_had_none() -> None:
    journal = Narrow()
    bench = ready(Bench(journal=journal))
    journal.room = 100
    bench.tell(submit())
    for at_ns in range(NOW, NOW + 10 * NS_PER_S, PROBE_NS):
        bench.engine.turn([Request(ev.Tick())], at_ns)
        assert bench.engine.blocked == "no room for that much", "room for a little is no reason to go on"
    journal.room = 1_000_000
    bench.engine.turn([Request(ev.Tick())], NOW + 20 * NS_PER_S)
    assert bench.engine.blocked == ""
    bench.engine.turn([Request(ev.Tick())], NOW + 21 * NS_PER_S)
    assert bench.engine.blocked == "", "what could not be stored then is of no interest now"


def test_an_uncertain_commit_that_was_durable_is_published_later_and_once() -> None:
    bench = ready(Bench())
    before = bench.engine.state
    bench.journal.cut_next_commit(kept=True)
    bench.tell(submit())
    [(_, answer)] = bench.said
    assert isinstance(answer, Refusal)
    assert answer.reason == "JOURNAL_UNCERTAIN"
    assert bench.engine.state is before, "neither published nor acted on while it is not known"
    bench.said.clear()
    bench.tell(submit())
    assert [what for what, _ in bench.said] == ["effects", "commit", "reply"], "what was durable acts now"
    assert isinstance(bench.said[2][1], Answer)
    assert len(bench.engine.state.jobs) == 1, "the repeat of the request id got the first answer"
    assert load(bench.journal).digest() == bench.engine.state.digest()


def test_an_uncertain_commit_that_was_lost_leaves_nothing() -> None:
    bench = ready(Bench())
    bench.journal.cut_next_commit(kept=False)
    bench.tell(submit())
    bench.said.clear()
    bench.tell(ev.CordonNode("q2", "n0", "", "look"))
    assert bench.engine.blocked == ""
    assert bench.engine.state.jobs == {}
    assert load(bench.journal).digest() == bench.engine.state.digest()


def test_a_commit_stays_uncertain_while_nobody_can_say() -> None:
    bench = ready(Bench())
    before = bench.engine.state
    bench.journal.cut_next_commit(kept=True)
    bench.tell(submit())
    bench.journal.fail_next()
    bench.tell(ev.CordonNode("q2", "n0", "", "look"))
    assert bench.engine.state is before
    bench.engine.turn([], NOW + 10**9)
    assert len(bench.engine.state.jobs) == 1
    assert bench.engine.blocked == ""
