"""A caller who leaves in the middle of a backup: its thread has stopped before the file and the lock are given back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from phalanx.v1 import admin_pb2

from controlplane.backup import TOLD_EVERY
from controlplane.engine.ports import Content, Extent, JournalEntry
from controlplane.rpc.admin_service import AdminService


class EndlessJournal:
    """A journal whose backup never ends by itself."""

    def __init__(self) -> None:
        self.reading = threading.Event()
        self.left = threading.Event()

    def extent(self) -> Extent:
        return Extent("memory", 1, 10, 0, 0, 0)

    def _entries(self) -> Iterator[JournalEntry]:
        number = 0
        while number < 1_000 * TOLD_EVERY:
            number += 1
            self.reading.set()
            yield JournalEntry(number, 1, 0, "", "T", 1, "{}")

    @contextmanager
    def content(self) -> Iterator[Content]:
        try:
            yield Content(1, 10, None, 0, 10, self._entries())
        finally:
            self.left.set()


def test_a_caller_who_leaves_stops_the_thread_first(tmp_path: Path) -> None:
    journal = EndlessJournal()
    site: Any = SimpleNamespace(journal=journal, settings=SimpleNamespace(dir=tmp_path), version="0")
    problems: list[dict[str, Any]] = []

    async def leave() -> AdminService:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        service = AdminService(site, SimpleNamespace())  # type: ignore[arg-type]
        answers = service.Backup(admin_pb2.BackupRequest(), None)
        await anext(answers)
        await asyncio.to_thread(journal.reading.wait, 30)
        await answers.aclose()  # type: ignore[attr-defined]
        assert journal.left.is_set(), "the thread still writes to a closed file"
        assert not service._busy.locked()
        return service

    asyncio.run(leave())
    assert not problems
