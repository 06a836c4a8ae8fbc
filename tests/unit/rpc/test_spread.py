"""Many small things on a loop: in order, a few at a time, and others have their turn between them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

from controlplane.rpc.spread import AT_ONCE, Spread, Step


def test_few_steps_are_taken_at_once_and_many_leave_room_for_others() -> None:
    done: list[object] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        spread = Spread(loop)
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
        spread = Spread(asyncio.get_running_loop())
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
        spread = Spread(asyncio.get_running_loop())
        spread.add(steps())
        spread.add([partial(done.append, AT_ONCE)])
        while AT_ONCE not in done:
            await asyncio.sleep(0)

    asyncio.run(scene())
    assert done == [*range(AT_ONCE), -1, AT_ONCE], "the loop reports it, and what waits is taken"
