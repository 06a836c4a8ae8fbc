"""What the state has forgotten and the journal still knows: where a process ran, and who last held a rank.

Reads run in worker threads. The node of a process never changes, so what was read once is kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from typing import cast

from controlplane.core import records as r
from controlplane.core.jobs import NONE
from controlplane.engine.ports import Journal, JournalEntry

REMEMBERED_JOBS = 256
READ_LIMIT = 5_000
"""Records of one kind and one job that are looked through."""


def decode(entry: JournalEntry) -> r.Record:
    """The record of an entry."""
    return r.decode(entry.type, entry.version, entry.body)


class History:
    """Look-ups in the journal. One event loop; reads in threads."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._nodes: OrderedDict[str, dict[int, int]] = OrderedDict()
        self._reading = asyncio.Lock()

    def observe(self, records: Iterable[r.Record]) -> None:
        """Note where new processes are to run."""
        for record in records:
            if isinstance(record, r.HostsRequested) and record.job in self._nodes:
                self._nodes[record.job].update(zip(record.serials, record.nodes, strict=True))

    async def nodes(self, uid: str) -> dict[int, int]:
        """Node number by serial, for all processes of a job that the journal still knows."""
        async with self._reading:
            if uid not in self._nodes:
                self._nodes[uid] = {}  # before the read, so that what commits during it is not missed
                self.observe(await self._read(uid, r.HostsRequested))
                while len(self._nodes) > REMEMBERED_JOBS:
                    self._nodes.popitem(last=False)
            self._nodes.move_to_end(uid)
            return self._nodes[uid]

    async def node_of(self, uid: str, serial: int) -> int | None:
        """Number of the node that a process was started on."""
        return (await self.nodes(uid)).get(serial)

    async def newest_on(self, uid: str, node: int) -> int:
        """Serial of the newest process of a job on a node, NONE when there was none."""
        found = [serial for serial, number in (await self.nodes(uid)).items() if number == node]
        return max(found, default=NONE)

    async def last_holder(self, uid: str, rank: int) -> int:
        """Serial of the process that held a rank in the newest generation, NONE when there was none."""
        return next(iter(await self._holders(uid, rank)), NONE)

    async def holder_before(self, uid: str, rank: int) -> int:
        """Serial of the process that held a rank before its last holder, NONE when none is known."""
        return next(iter((await self._holders(uid, rank))[1:]), NONE)

    async def _holders(self, uid: str, rank: int) -> list[int]:
        """Serials of the processes that have held a rank, newest first, as far back as is looked."""
        started = cast("list[r.GenerationStarted]", await self._read(uid, r.GenerationStarted))
        holders = (record.holder(rank) for record in reversed(started))
        return [serial for serial in holders if serial != NONE]

    async def _read(self, uid: str, kind: type[object]) -> list[r.Record]:
        entries = await asyncio.to_thread(self._journal.newest, READ_LIMIT, job=uid, types=(kind.__name__,))
        return [decode(entry) for entry in entries]
