"""A watch that ends leaves nothing behind: no step that runs on, and no exception that nobody has looked at."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controlplane.core.draft import Refusal
from controlplane.rpc.errors import RequestRefused, refuse
from controlplane.rpc.guard import _until

GONE = Refusal("unauthenticated", "REVOKED", "by a test")


async def refusing() -> AsyncIterator[int]:
    """A watch of something that is not there."""
    refuse("not_found", "NO_SUCH_JOB", "no job is named so")
    yield 1


async def endless() -> AsyncIterator[int]:
    while True:
        yield 1
        await asyncio.sleep(3_600)


def complaints(work: Any) -> list[str]:
    """What the loop says of tasks that were left behind by `work`."""
    found: list[str] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: found.append(str(about["message"])))
        await work()
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(run())
    return found


def test_a_call_that_is_cancelled_while_its_watch_is_refused() -> None:
    async def cancelled() -> None:
        ending: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()
        reading = asyncio.ensure_future(anext(_until(ending, refusing())))
        await asyncio.sleep(0)  # it waits for the first step
        await asyncio.sleep(0)  # which is refused in this turn of the loop
        reading.cancel()
        with pytest.raises((asyncio.CancelledError, RequestRefused)):
            await reading

    assert complaints(cancelled) == []


def test_a_watch_that_is_ended_while_it_is_refused() -> None:
    async def ended() -> None:
        ending: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()
        ending.set_result(GONE)
        with pytest.raises(RequestRefused) as caught:
            await anext(_until(ending, refusing()))
        assert caught.value.refusal is GONE

    assert complaints(ended) == []


def test_a_watch_that_waits_is_ended() -> None:
    async def ended() -> None:
        ending: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()
        watch = _until(ending, endless())
        assert await anext(watch) == 1
        reading = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        ending.set_result(GONE)
        with pytest.raises(RequestRefused):
            await reading
        assert len(asyncio.all_tasks()) == 1, "only this test is left"

    assert complaints(ended) == []
