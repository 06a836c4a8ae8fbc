"""The watch over ranks without a controller."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from agents.node.orphans import OrphanWatch


def test_it_ends_when_it_is_cancelled_just_as_a_controller_comes() -> None:
    """Else an agent that gets its SIGTERM with the welcome of a session runs on until it is killed."""

    async def main() -> None:
        memory: Any = SimpleNamespace(orphan_grace_ms=600_000)
        watch = OrphanWatch(memory, cast("Any", None), lambda: 0)
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        watch.controller_here()
        await asyncio.sleep(0)  # what is waited for has come, and the watch does not know yet
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        assert done
        assert task.cancelled()

    asyncio.run(main())
