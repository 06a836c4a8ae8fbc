"""CodeService: archives of user code, kept on shared storage under their digests.

An archive is written beside its place, hashed on the way, flushed, and only then named: what has a name is whole.
The controller never opens one; unpacking foreign archives is done where the code will run (agents/cell/code.py).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, ParamSpec, TypeVar

import structlog
from phalanx.v1 import code_pb2, code_pb2_grpc

from controlplane.core.draft import Refusal
from controlplane.core.events import KeepCode
from controlplane.core.shipped import MAX_ARCHIVE_BYTES, archive_name, is_digest
from controlplane.core.spec import Violation
from controlplane.rpc.errors import RequestRefused, refuse
from controlplane.rpc.guard import Context, read_message
from controlplane.rpc.site import Site

UPLOADS_AT_ONCE = 4
UPLOAD_LIMIT_S = 300.0
"""64 MiB at 2 Mbit/s; a peer that dribbles must not hold one of the few places for ever."""
STORAGE_LIMIT_S = 20.0
"""Shared storage that takes longer for one call is away."""
KEEP_UNUSED_S = 7 * 86_400.0
"""Code that no listed job names stays so long after its last use, so that submitting again uploads nothing."""
SWEEP_EVERY_S = 3_600.0
SWEEP_LIMIT = 1_000
"""Files that one sweep removes at most."""
_PARTIAL = ".upload-"

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


class CodeStore:
    """The folder of archives. Every touch of the storage is made off the event loop and has a time limit."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._root = Path(site.settings.code_root)
        self._uploads = 0

    async def has(self, digest: str) -> bool:
        """Whether the archive is there; renews its time of last use, so that it stays long enough to be submitted."""
        return await self._storage(_touch, self._root / archive_name(digest))

    async def require(self, digest: str) -> None:
        """Refuse a job whose code was never uploaded.

        Raises:
            RequestRefused: the archive is not there, or the storage cannot be read.
        """
        if digest and not await self.has(digest):
            path = "spec.workload.codeDigest"
            reason, fix = f"{digest} is not on this site", "upload it first: `phalanx submit` with `folder:` does both"
            text = f"{path} {reason}: {fix}"
            raise RequestRefused(Refusal("conflict", "CODE_MISSING", text, (Violation(path, reason, fix),)))

    async def receive(self, context: Context) -> str:
        """Take one archive from a stream; returns its digest once it is durable.

        Raises:
            RequestRefused: it is too large, not what it was said to be, too slow, or cannot be stored.
        """
        if self._uploads >= UPLOADS_AT_ONCE:
            refuse("exhausted", "TOO_MANY_UPLOADS", f"{UPLOADS_AT_ONCE} uploads are under way: try again in a moment")
        self._uploads += 1
        copying = asyncio.create_task(self._copy(context))
        copying.add_done_callback(self._upload_ended)
        await asyncio.wait({copying}, timeout=UPLOAD_LIMIT_S)
        if not copying.done():
            # The read under way is not cancelled (that leaks): it returns when this call ends.
            refuse("too_late", "UPLOAD_TOO_SLOW", f"the upload took longer than {UPLOAD_LIMIT_S:g} s: try again")
        return copying.result()

    async def sweep(self) -> None:
        """Remove archives that no listed job names and nobody has used for a time, again and again."""
        while not self._site.stopping:
            wanted = {archive_name(job.spec.workload.code_digest) for job in self._site.state.jobs.values()}
            try:
                removed = await self._storage(_sweep, self._root, wanted, time.time() - KEEP_UNUSED_S)
            except RequestRefused as error:
                log.warning("code_sweep_failed", reason=error.refusal.message)
            else:
                if removed:
                    log.info("code_swept", files=removed)
            await asyncio.sleep(SWEEP_EVERY_S)

    def _upload_ended(self, copying: asyncio.Task[str]) -> None:
        self._uploads -= 1
        if not copying.cancelled():
            copying.exception()  # the caller may have left

    async def _copy(self, context: Context) -> str:
        first = await read_message(context)
        digest, size = (first.digest, first.bytes) if first is not None else ("", 0)
        if not is_digest(digest):
            refuse("invalid", "NOT_A_DIGEST", "the first message must name the archive as sha256:<64 hex digits>")
        if not 0 < size <= MAX_ARCHIVE_BYTES:
            text = (
                f"an archive of {size} bytes is not taken, 1 to {MAX_ARCHIVE_BYTES} are: data belongs on shared storage"
            )
            refuse("invalid", "CODE_TOO_LARGE", text)
        partial = self._root / f"{_PARTIAL}{secrets.token_hex(8)}"
        file = await self._storage(_create, partial)
        try:
            await self._fill(context, file, first.data, digest, size)
            await self._storage(_publish, file, partial, self._root / archive_name(digest))
        finally:
            with suppress(RequestRefused):
                await self._storage(_discard, file, partial)
        log.info("code_stored", digest=digest, bytes=size)
        return digest

    async def _fill(self, context: Context, file: BinaryIO, data: bytes, digest: str, size: int) -> None:
        found, received = hashlib.sha256(), 0
        while True:
            received += len(data)
            if received > size:
                refuse(
                    "invalid", "CODE_SIZE_DIFFERS", f"more than the announced {size} bytes came: pack and send again"
                )
            found.update(data)
            await self._storage(file.write, data)
            if received == size:
                break
            message = await read_message(context)
            if message is None:
                text = f"the stream ended after {received} of {size} bytes: send the whole archive"
                refuse("invalid", "CODE_SIZE_DIFFERS", text)
            if not message.data:
                refuse("invalid", "EMPTY_CHUNK", "a message after the first must carry data")
            data = message.data
        if f"sha256:{found.hexdigest()}" != digest:
            text = f"what came is sha256:{found.hexdigest()}, not {digest}: pack the folder and send it again"
            refuse("invalid", "CODE_DIGEST_DIFFERS", text)

    async def _storage(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        try:
            async with asyncio.timeout(STORAGE_LIMIT_S):
                return await asyncio.to_thread(work, *arguments, **options)
        except TimeoutError:
            text = f"shared storage did not answer within {STORAGE_LIMIT_S:g} s ({self._root}): is it mounted?"
            raise RequestRefused(Refusal("unavailable", "CODE_STORAGE", text)) from None
        except OSError as error:
            _storage_failed(error, self._root)


def _storage_failed(error: OSError, root: Path) -> NoReturn:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        refuse("exhausted", "CODE_STORAGE_FULL", f"no room for code in {root}: free some, then submit again")
    refuse("unavailable", "CODE_STORAGE", f"code cannot be kept in {root}: {error.strerror}: look at that folder")


def _touch(path: Path) -> bool:
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _create(partial: Path) -> BinaryIO:
    partial.parent.mkdir(parents=True, exist_ok=True)
    return partial.open("xb")


def _publish(file: BinaryIO, partial: Path, place: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    partial.replace(place)
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _discard(file: BinaryIO, partial: Path) -> None:
    file.close()
    partial.unlink(missing_ok=True)


def _sweep(root: Path, wanted: set[str], older_than: float) -> int:
    """Old archives that nobody wants, and what broken uploads have left; returns how many were removed."""
    removed = 0
    if not root.is_dir():
        return 0
    with os.scandir(root) as entries:
        for entry in entries:
            ours = entry.name.endswith(".tar.gz") or entry.name.startswith(_PARTIAL)
            if removed >= SWEEP_LIMIT or not ours or entry.name in wanted:
                continue
            with suppress(FileNotFoundError):
                if entry.stat().st_mtime < older_than:
                    os.unlink(entry.path)
                    removed += 1
    return removed


class CodeService(code_pb2_grpc.CodeServiceServicer):
    """See proto/phalanx/v1/code.proto."""

    def __init__(self, site: Site, store: CodeStore) -> None:
        self._site = site
        self._store = store

    async def FindCode(self, request: code_pb2.FindCodeRequest, context: Any) -> code_pb2.FindCodeResponse:
        """Whether the site has an archive already."""
        if not is_digest(request.digest):
            refuse("invalid", "NOT_A_DIGEST", "send the digest as sha256:<64 lower-case hex digits>")
        return code_pb2.FindCodeResponse(found=await self._store.has(request.digest), max_bytes=MAX_ARCHIVE_BYTES)

    async def UploadCode(self, request_iterator: Any, context: Any) -> code_pb2.UploadCodeResponse:
        """Take an archive, and note who sent it."""
        digest = await self._store.receive(context)
        await self._site.command(KeepCode("", digest))
        return code_pb2.UploadCodeResponse(digest=digest)
