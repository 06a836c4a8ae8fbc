"""What a workload may do with `progress`, and what of it an agent hears: steps that go back, floods, a finish right behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from phalanx.v1 import agent_pb2, local_pb2, types_pb2

from agents.rank.assignment import assignment_from
from agents.rank.context import RankContext
from agents.rank.link import FINAL_KEY
from agents.rank.outbox import PROGRESS_EVERY_S, RESEND_S, Outbox, RankFacts
from agents.rank.settings import RankSettings

FLOOD = 20_000


@pytest.fixture
def context(tmp_path: Path) -> RankContext:
    """In its first generation, with an agent that is away."""
    context = RankContext(RankSettings("n", str(tmp_path / "socket"), tmp_path, "u-1", "job", "m", "", {}))
    announce(context, 1)
    return context


def announce(context: RankContext, generation: int) -> None:
    body = agent_pb2.ApplyGeneration(
        job_uid="u",
        generation=generation,
        world_size=1,
        rows=[agent_pb2.RankRow(rank=0, node="n", address="127.0.0.1")],
    )
    context._control.offer(assignment_from(local_pb2.Assignment(generation=body)))
    next(iter(context.generations()))


def told(context: RankContext, now: float) -> list[agent_pb2.StepProgress]:
    return [message.progress for message in context._outbox.due("u-1", now) if message.HasField("progress")]


def test_a_flood_is_told_in_its_newest_step_with_the_time_of_all(context: RankContext) -> None:
    for step in range(1, FLOOD + 1):
        context.progress(step)
    (newest,) = told(context, 100.0)
    assert newest.step == newest.times.steps == FLOOD
    assert told(context, 200.0) == []


def test_a_step_that_goes_back_is_noted_once_and_told_never(
    context: RankContext, capsys: pytest.CaptureFixture[str]
) -> None:
    context.progress(7)
    for step in (6, 1, 0, -5):
        context.progress(step)
    context.progress(8)
    (newest,) = told(context, 100.0)
    assert newest.step == 8
    assert newest.times.steps == 6, "their time is not lost"
    assert context.refused_steps == 4
    assert capsys.readouterr().err.count("step 6 is refused: step 7 was told before") == 1


def test_a_new_generation_may_begin_below_and_counts_its_own_time(context: RankContext) -> None:
    context.progress(500)
    announce(context, 2)
    context.progress(450)
    (newest,) = told(context, 100.0)
    assert (newest.step, newest.generation, newest.times.steps) == (450, 2, 1)
    assert not context.refused_steps


@pytest.mark.parametrize("load", [-1.0, float("nan"), float("inf")])
def test_a_load_that_is_none_is_not_told(context: RankContext, load: float) -> None:
    context.note_load(5.0)
    context.note_load(load)
    context.progress(1)
    assert told(context, 100.0)[0].load == 0.0


def outbox_with(step: int) -> Outbox:
    outbox = Outbox(RankFacts(types_pb2.RANK_STATE_RUNNING))
    outbox.progress(lambda _now: local_pb2.LocalRequest(progress=agent_pb2.StepProgress(step=step)))
    return outbox


def test_the_first_step_leaves_at_once_and_the_next_not_before_its_time() -> None:
    outbox = outbox_with(1)
    assert outbox.wait_s(50.0) == 0.0
    assert len(outbox.due("h", 50.0)) == 1
    assert outbox.wait_s(50.0) == RESEND_S
    again = lambda _now: local_pb2.LocalRequest(progress=agent_pb2.StepProgress(step=2))  # noqa: E731  a message
    assert outbox.progress(again), "nothing waited: whoever sends may sleep"
    assert not outbox.progress(again), "it is awake already"
    assert outbox.due("h", 50.0 + PROGRESS_EVERY_S / 2) == []
    assert 0 < outbox.wait_s(50.0 + PROGRESS_EVERY_S / 2) <= PROGRESS_EVERY_S
    assert len(outbox.due("h", 50.0 + 2 * PROGRESS_EVERY_S)) == 1


def test_the_last_step_is_told_before_what_ends_it() -> None:
    outbox = outbox_with(1)
    outbox.due("h", 50.0)
    outbox.progress(lambda _now: local_pb2.LocalRequest(progress=agent_pb2.StepProgress(step=2)))
    outbox.reliable(FINAL_KEY, lambda _now: local_pb2.LocalRequest(final_marker=local_pb2.FinalMarker()))
    sent = [message.WhichOneof("body") for message in outbox.due("h", 50.0)]
    assert sent == ["progress", "final_marker"]
