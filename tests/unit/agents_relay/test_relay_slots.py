"""What a relay keeps: the newest beat of each node as columns, and slots that are free only when both sides have let go."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from functools import wraps

import grpc
from phalanx.v1 import agent_pb2, relay_pb2

from agents.relay.fold import STEPS_OF_A_NODE, Fold
from agents.relay.slots import SLOTS, UNREAD_MESSAGES, UNSENT_BYTES, Ending, NodeStream, Slots

ENDING = Ending(grpc.StatusCode.UNAVAILABLE, "a test", "TEST")


def in_loop(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def progress(rank: int, step: int, *, generation: int = 1, age_ms: int = 0) -> agent_pb2.StepProgress:
    return agent_pb2.StepProgress(
        job_uid="j", rank=rank, generation=generation, step=step, age_ms=age_ms, loss=math.nan, step_time_s=0.5
    )


def opened(table: Slots, node: str) -> NodeStream:
    stream = table.open(agent_pb2.AgentHello(node=node), b"pem")
    assert stream is not None
    return stream


def sent(table: Slots) -> list[relay_pb2.RelayMessage]:
    found = []
    while (message := table.next_message()) is not None:
        found.append(message)
    return found


def test_only_the_newest_beat_of_each_node_is_told_with_its_age() -> None:
    clock = Clock()
    fold = Fold(clock)
    fold.heard(3, agent_pb2.Beat())
    clock.now += 0.05
    fold.heard(5, agent_pb2.Beat())
    clock.now += 0.02
    fold.heard(3, agent_pb2.Beat())
    clock.now += 0.01
    beats = fold.take()
    assert beats is not None
    assert dict(zip(beats.slots, beats.ages_ms, strict=True)) == {3: 10, 5: 30}
    assert fold.take() is None, "what was told is told once"


def test_steps_are_columns_by_job_and_generation_and_age_while_they_wait() -> None:
    clock = Clock()
    fold = Fold(clock)
    fold.heard(0, agent_pb2.Beat(progress=[progress(0, 7, age_ms=40), progress(1, 7), progress(2, 0)]))
    fold.heard(1, agent_pb2.Beat(progress=[progress(8, 3, generation=2)]))
    clock.now += 0.06
    fold.heard(0, agent_pb2.Beat(progress=[progress(1, 8)]))
    beats = fold.take()
    assert beats is not None
    first, second = sorted(beats.steps, key=lambda columns: columns.generation)
    assert (list(first.ranks), list(first.steps), list(first.slots)) == ([0, 1], [7, 8], [0, 0])
    assert list(first.ages_ms) == [100, 0]
    assert (list(second.ranks), list(second.slots), list(second.ages_ms)) == ([8], [1], [60])


def test_steps_of_one_node_are_bounded() -> None:
    fold = Fold(Clock())
    fold.heard(0, agent_pb2.Beat(progress=[progress(rank, 1) for rank in range(STEPS_OF_A_NODE + 5)]))
    beats = fold.take()
    assert beats is not None
    assert len(beats.steps[0].ranks) == STEPS_OF_A_NODE
    assert fold.dropped_steps == 5


@in_loop
async def test_a_slot_is_free_when_both_sides_have_ended_it() -> None:
    table = Slots(lambda: None)
    first = opened(table, "a")
    table.leave(first, "gone")
    assert opened(table, "b").slot != first.slot, "the controller may still send to the former node"
    table.ended_above(first.slot, ENDING)
    assert opened(table, "c").slot == first.slot


@in_loop
async def test_what_the_controller_ends_is_answered_and_free_at_once() -> None:
    table = Slots(lambda: None)
    stream = opened(table, "a")
    sent(table)
    table.ended_above(stream.slot, ENDING)
    assert stream.closing.result() == ENDING
    table.leave(stream, "ended")
    assert [message.WhichOneof("body") for message in sent(table)] == ["end"]
    assert opened(table, "b").slot == stream.slot


@in_loop
async def test_a_full_relay_takes_no_more_nodes() -> None:
    table = Slots(lambda: None)
    for number in range(SLOTS):
        opened(table, f"n{number}")
    assert table.open(agent_pb2.AgentHello(node="one-more"), b"") is None


@in_loop
async def test_an_agent_that_does_not_read_is_cut_and_its_neighbours_are_not() -> None:
    table = Slots(lambda: None)
    slow, other = opened(table, "slow"), opened(table, "other")
    row = relay_pb2.RelayedInstruction(slots=[slow.slot], instruction=b"x")
    for _ in range(UNREAD_MESSAGES + 1):
        table.deliver(relay_pb2.RelayedInstructions(rows=[row]))
    assert slow.closing.result().reason == "SLOW_READER"
    assert not other.closing.done()
    table.deliver(relay_pb2.RelayedInstructions(rows=[relay_pb2.RelayedInstruction(slots=[0, 1], instruction=b"y")]))
    assert list(other.unread) == [b"y"]


@in_loop
async def test_agents_are_not_read_from_while_too_much_is_on_its_way_up() -> None:
    table = Slots(lambda: None)
    stream = opened(table, "a")
    sent(table)
    large = b"x" * (UNSENT_BYTES - 1)
    await table.pass_on(stream, large)
    waiting = asyncio.create_task(table.pass_on(stream, b"more"))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert table.next_message() is not None
    await waiting
    message = table.next_message()
    assert message is not None
    assert message.message.message == b"more"


@in_loop
async def test_the_table_ends_with_the_upward_session() -> None:
    table = Slots(lambda: None)
    stream = opened(table, "a")
    table.close(ENDING)
    assert stream.closing.result() == ENDING
    table.leave(stream, "the controller is gone")
    assert sent(table) == [], "nothing of the former session goes into the next one"
