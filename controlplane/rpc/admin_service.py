"""AdminService: the journal's storage. The work runs in worker threads; a backup goes through a file without a name."""

from __future__ import annotations

import asyncio
import gzip
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import IO, Any

import structlog
from phalanx.v1 import admin_pb2, admin_pb2_grpc

from controlplane.backup import write_backup
from controlplane.core.draft import Policy
from controlplane.core.events import CompactJournal
from controlplane.core.export import Export, JobProgress
from controlplane.core.site_policy import fault_table, values
from controlplane.engine.ports import Extent, JournalUnavailable, Lease
from controlplane.rpc.codec import check_request
from controlplane.rpc.errors import refuse
from controlplane.rpc.site import Site

log = structlog.get_logger(__name__)

CHUNK = 256 << 10
TOLD_S = 0.5
"""Between two messages of progress."""


@dataclass(frozen=True, slots=True)
class Storage:
    """What this service needs besides the journal.

    `compact`: stores a snapshot, then removes what retention does not want: (now_ns, before_revision) -> entries removed;
    raises `JournalUnavailable`. `leader`: the lease as this process saw it last. `policy`: by which the machine decides.
    """

    compact: Callable[[int, int], int]
    leader: Callable[[], Lease]
    policy: Policy


class BackupAbandoned(Exception):
    """The one who asked for a backup has left: its thread stops."""


@dataclass(slots=True)
class Progress:
    """How far a backup is; written by its thread. `abandoned`: nobody waits for it any more."""

    done: int = 0
    abandoned: bool = False

    def tell(self, done: int) -> None:
        """Note the number of records that are done.

        Raises:
            BackupAbandoned: the one who asked has left.
        """
        if self.abandoned:
            raise BackupAbandoned
        self.done = done


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """See proto/phalanx/v1/admin.proto."""

    def __init__(self, site: Site, storage: Storage) -> None:
        self._site = site
        self._storage = storage
        self._busy = asyncio.Lock()

    async def GetStorage(self, request: admin_pb2.GetStorageRequest, context: Any) -> admin_pb2.GetStorageResponse:
        """The journal's kind, extent and what it takes on disk."""
        extent = await self._extent()
        leader = self._storage.leader()
        return admin_pb2.GetStorageResponse(
            revision=self._site.state.revision,
            kind=extent.kind,
            oldest_revision=extent.oldest,
            newest_revision=extent.newest,
            archived_records=extent.archived,
            bytes=extent.bytes,
            snapshot_revision=extent.snapshot,
            state=self._site.brain.blocked or "ok",
            leader=leader.holder,
            controllers=[leader.address],
        )

    async def Compact(self, request: admin_pb2.CompactRequest, context: Any) -> admin_pb2.CompactResponse:
        """Snapshot now, then remove what retention no longer wants. A repeat finds less to remove, or nothing."""
        check_request(request.request_id)
        await self._site.command(CompactJournal(request.request_id, request.before_revision))
        self._not_busy()
        async with self._busy:
            try:
                compact = self._storage.compact
                removed = await asyncio.to_thread(compact, self._site.now_ns(), request.before_revision)
            except JournalUnavailable as error:
                refuse("unavailable", "JOURNAL_UNAVAILABLE", f"the rest was not removed: {error}")
        extent = await self._extent()
        return admin_pb2.CompactResponse(
            revision=self._site.state.revision, removed=removed, oldest_revision=extent.oldest
        )

    async def Backup(self, request: admin_pb2.BackupRequest, context: Any) -> AsyncIterator[admin_pb2.BackupResponse]:
        """Everything as it is now. It is written to a file first, so that a slow reader holds no transaction open."""
        self._not_busy()
        async with self._busy:
            extent = await self._extent()
            total = extent.archived + extent.newest - extent.oldest + 1
            progress = Progress()
            with tempfile.TemporaryFile(dir=self._site.settings.dir) as file:
                work = asyncio.create_task(asyncio.to_thread(self._write, file, progress))
                try:
                    while not work.done():
                        await asyncio.wait({work}, timeout=TOLD_S)
                        yield admin_pb2.BackupResponse(records_done=progress.done, records_total=total)
                finally:  # the caller may leave at any time: the thread must be done with the file before it is closed
                    progress.abandoned = True
                    await asyncio.wait({work})
                    work.exception()
                records = self._result(work)
                file.seek(0)
                while data := await asyncio.to_thread(file.read, CHUNK):
                    yield admin_pb2.BackupResponse(data=data, records_done=records, records_total=records)

    async def ExportState(
        self, request: admin_pb2.ExportStateRequest, context: Any
    ) -> AsyncIterator[admin_pb2.ExportStateResponse]:
        """The published state as it is now; it is never changed, so that a thread may write it down."""
        site = self._site
        state = site.state
        views = {job.uid: site.progress.view(job.uid) for job in state.active_jobs()}
        steps = {uid: JobProgress(view.step, view.at_ns, view.step_time_s) for uid, view in views.items()}
        export = Export(state, steps, self._storage.policy, site.now_ns(), site.version)
        data = await asyncio.to_thread(lambda: gzip.compress(export.to_json().encode()))
        for start in range(0, len(data), CHUNK):
            yield admin_pb2.ExportStateResponse(revision=state.revision, data=data[start : start + CHUNK])

    async def GetPolicy(self, request: admin_pb2.GetPolicyRequest, context: Any) -> admin_pb2.GetPolicyResponse:
        """The numbers by which this controller decides."""
        policy = self._storage.policy
        return admin_pb2.GetPolicyResponse(
            revision=self._site.state.revision, settings=values(policy), fault_table=fault_table(policy)
        )

    def _write(self, file: IO[bytes], progress: Progress) -> int:
        with self._site.journal.content() as content:
            write_backup(content, self._site.version, file, progress.tell)
            log.info("backup_taken", revision=content.newest, records=content.archived + content.kept)
            return content.archived + content.kept

    def _result(self, work: asyncio.Task[int]) -> int:
        try:
            return work.result()
        except JournalUnavailable as error:
            refuse("unavailable", "JOURNAL_UNAVAILABLE", f"no backup was made: {error}")
        except OSError as error:
            refuse("unavailable", "NO_SPACE", f"no backup was made: {self._site.settings.dir}: {error.strerror}")

    def _not_busy(self) -> None:
        if self._busy.locked():
            refuse("unavailable", "STORAGE_BUSY", "a backup or compaction is under way: try again when it has ended")

    async def _extent(self) -> Extent:
        try:
            return await asyncio.to_thread(self._site.journal.extent)
        except JournalUnavailable as error:
            refuse("unavailable", "JOURNAL_UNAVAILABLE", str(error))
