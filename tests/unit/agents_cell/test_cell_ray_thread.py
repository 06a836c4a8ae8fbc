"""Deadlines of the Ray thread."""

from __future__ import annotations

import asyncio
import threading

import pytest

from agents.cell.ray_thread import RayLostError, RayThread


def test_results_errors_and_order() -> None:
    async def run() -> None:
        thread = RayThread()
        names = await asyncio.gather(*(thread.call(60, lambda: threading.current_thread().name) for _ in range(3)))
        assert names == ["ray"] * 3
        with pytest.raises(ZeroDivisionError):
            await thread.call(60, lambda: 1 // 0)
        with pytest.raises(TimeoutError, match="of Ray"):
            await thread.call(60, _raise_timeout)
        assert not thread.lost.done()

    asyncio.run(run())


def _raise_timeout() -> None:
    raise TimeoutError("of Ray itself")


def test_a_call_that_hangs_is_a_loss_for_everyone() -> None:
    async def run() -> None:
        release = threading.Event()
        thread = RayThread()
        hanging = asyncio.create_task(thread.call(0.05, release.wait))
        behind = asyncio.create_task(thread.call(60, lambda: 1))
        with pytest.raises(RayLostError, match="did not return within"):
            await hanging
        with pytest.raises(RayLostError):
            await behind
        assert "did not return" in str(await thread.lost)
        release.set()

    asyncio.run(run())


def test_a_call_that_waits_for_its_turn_is_not_lost() -> None:
    async def run() -> None:
        release = threading.Event()
        thread = RayThread()
        slow = asyncio.create_task(thread.call(60, lambda: release.wait(3.5)))
        behind = asyncio.create_task(thread.call(3.0, lambda: 1))  # a busy machine may stop it for some of them
        assert await behind == 1
        assert not await slow

    asyncio.run(run())
