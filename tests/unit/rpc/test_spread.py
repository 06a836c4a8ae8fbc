"""Many small things on a loop: in order, a few at a time, and others have their turn between them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

from controlplane.rpc.spread import AT_ONCE, DISTANCE_S, PRESSED_NS, Spread, Step


def calm() -> int:
    """Beats do not wait."""
    return 0


def test_few_steps_are_taken_at_once_and_many_leave_room_for_others() -> None:
    done: list[object] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        spread = Spread(loop, calm)
        spread.add([partial(done.append, "one")])
        assert done == ["one"], "nothing waits: at once"
        spread.add(partial(done.append, number) for number in range(3 * AT_ONCE))
        spread.add([partial(done.append, "last")])
        assert len(done) == 1 + AT_ONCE, "one round, and what comes later keeps its place"
        loop.call_soon(done.append, "another's turn")
        while "last" not in done:
            await asyncio.sleep(0)

    asyncio.run(scene())
    assert done.index("another's turn") < 1 + 3 * AT_ONCE, "nobody waits for all of them"
    assert [step for step in done if step != "another's turn"] == ["one", *range(3 * AT_ONCE), "last"]


def test_what_is_added_is_looked_at_when_its_turn_comes() -> None:
    wanted, done = [True], []

    def steps() -> Iterator[Step]:
        for number in range(4 * AT_ONCE):
            if not wanted[0]:
                return
            yield partial(done.append, number)

    async def scene() -> None:
        spread = Spread(asyncio.get_running_loop(), calm)
        spread.add(steps())
        wanted[0] = False  # superseded while it is being told
        spread.add([partial(done.append, "next")])
        while "next" not in done:
            await asyncio.sleep(0)

    asyncio.run(scene())
    assert done == [*range(AT_ONCE), "next"]


def broken() -> None:
    raise ValueError("a defect")


def test_a_step_that_raises_holds_nobody_up() -> None:
    done: list[int] = []

    def steps() -> Iterator[Step]:
        yield from (partial(done.append, number) for number in range(AT_ONCE))
        yield broken

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: done.append(-1))
        spread = Spread(asyncio.get_running_loop(), calm)
        spread.add(steps())
        spread.add([partial(done.append, AT_ONCE)])
        while AT_ONCE not in done:
            await asyncio.sleep(0)

    asyncio.run(scene())
    assert done == [*range(AT_ONCE), -1, AT_ONCE], "the loop reports it, and what waits is taken"


def test_rounds_keep_a_distance_while_beats_wait() -> None:
    waits_ns, done = [2 * PRESSED_NS], []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        spread = Spread(loop, lambda: waits_ns[0])
        spread.add(partial(done.append, number) for number in range(4 * AT_ONCE))
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(done) == AT_ONCE, "the others wait, and not for a round of the loop"
        while len(done) < 2 * AT_ONCE:
            await asyncio.sleep(0)
        assert loop.time() - began >= DISTANCE_S
        waits_ns[0] = 0
        while len(done) < 4 * AT_ONCE:
            await asyncio.sleep(0)

    asyncio.run(scene())
    assert done == [*range(4 * AT_ONCE)]
