"""Writes that last too long are told of once, the others never; one timer for all."""

from __future__ import annotations

import asyncio
import time

from controlplane.rpc.write_watch import WriteWatch

LIMIT_S = 0.05


def test_only_what_lasts_too_long_is_told_of() -> None:
    async def check() -> None:
        told: list[str] = []
        watch = WriteWatch(asyncio.get_running_loop(), LIMIT_S)
        first = watch.watch(lambda _: told.append("first"))
        done = watch.watch(lambda _: told.append("done"))
        watch.done(done)
        await asyncio.sleep(LIMIT_S / 2)
        second = watch.watch(lambda limit_s: told.append(f"second {limit_s:g}"))
        while len(told) < 2:
            await asyncio.sleep(LIMIT_S)
        assert told == ["first", f"second {LIMIT_S:g}"]
        watch.done(first)
        watch.done(second)
        later = watch.watch(lambda _: told.append("later"))
        while len(told) < 3:
            await asyncio.sleep(LIMIT_S)
        watch.done(later)
        await asyncio.sleep(3 * LIMIT_S)
        assert told[2:] == ["later"], "once, and the timer of before does not stand in the way"

    asyncio.run(asyncio.wait_for(check(), 60))


def test_a_loop_that_stands_still_makes_nobody_slow() -> None:
    async def check() -> None:
        told: list[str] = []
        loop = asyncio.get_running_loop()
        watch = WriteWatch(loop, LIMIT_S)
        number = watch.watch(lambda _: told.append("a write whose end nobody could hear of"))
        for _ in range(4):
            loop.call_soon(time.sleep, LIMIT_S)
        for _ in range(5):  # the end is heard of some rounds later, after the timers that are due
            await asyncio.sleep(0)
        watch.done(number)
        await asyncio.sleep(3 * LIMIT_S)
        assert told == []

    asyncio.run(asyncio.wait_for(check(), 60))
