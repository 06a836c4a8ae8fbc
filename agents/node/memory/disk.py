"""States on the node's own disk: what is left of them when the machine has lost its memory.

The agent's own thread copies every so many steps' version from memory to disk, beside the steps: a rank never waits for it, and a
version that is overtaken while it is copied is left out. Two versions of each rank, in the format of those in memory; one that was
half written when the power went has no digest that fits. What a job's folder belongs to stands in its `job.json`, so that a node
that comes back can say what it holds before anything runs on it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from phalanx.v1 import agent_pb2

from agents.memory.places import disk_folder, disk_path
from agents.memory.state_file import MAX_STEP, Line, NotAState, StateFile, Version, Word
from agents.node.durable import replace_file
from agents.node.memory.store import MAX_FILES, MAX_RANK, REPLICATED, Row
from agents.node.observability import Counters

SHARE = 0.25
"""Of the file system: what states may take of it in all."""
RESERVE = 0.05
"""Of the file system: what they leave free for others."""
PIECE_BYTES = 8 << 20
MAX_WAITING = 1_024
GRACE_S = 6 * 3_600.0
"""States of a job that has no process here are kept so long: machines come back, and jobs wait for them."""
JOB_FILE = "job.json"

log = structlog.get_logger(__name__)


class Overtaken(Exception):
    """The rank has begun to write over the version, or a generation has begun before it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of a job: the newest generation that this node was told of, its line, and when the job was submitted."""

    generation: int
    line: Line
    born_ns: int


@dataclass(frozen=True, slots=True)
class _Held:
    """What the file of a rank holds. `alike`: as in the kind of a row."""

    alike: int
    versions: tuple[Version, ...]


class LocalDisk:
    """The folder and the thread that writes to it. `refused`: why there is none, for people; empty when there is.

    Only the thread, `find` and the start touch the disk: one that hangs does not keep the agent from its beats.
    """

    def __init__(self, folder: Path | None, counters: Counters) -> None:
        self.folder = folder
        self.refused = "" if folder is not None else "no folder is given (--disk-folder)"
        self._counters = counters
        self._jobs: dict[str, Kept] = {}
        self._recorded: dict[str, Kept] = {}
        self._files: dict[tuple[str, int], StateFile] = {}
        self._held: dict[tuple[str, int], _Held] = {}
        self._left: dict[str, float] = {}
        self._waiting: dict[tuple[str, int], tuple[int, StateFile]] = {}
        self._begun: dict[str, Kept] = {}
        self._gone: list[Path] = []
        self._changed = threading.Condition()
        self._closed = False
        self.written_bytes = 0
        self.written_s = 0.0
        self._thread: threading.Thread | None = None
        if folder is None:
            return
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._load(folder)
        except OSError as error:
            self.folder, self.refused = None, f"{folder}: {error.strerror}"
            return
        self._thread = threading.Thread(target=self._run, name="phalanx-disk", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write no more; what is on disk stays."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    # What the controller says

    def begin(self, job_uid: str, generation: int, line: Line, born_ns: int) -> None:
        """A generation has begun here. What there is of a job of the same uid that was submitted at another time is another
        job's."""
        if self.folder is None:
            return
        if self.born_ns(job_uid) not in {0, born_ns}:
            self._forget(job_uid)
        if generation >= self.generation(job_uid):
            kept = self._jobs[job_uid] = Kept(generation, tuple(line), born_ns)
            if job_uid in self._recorded:
                with self._changed:
                    self._begun[job_uid] = kept
                    self._changed.notify()

    def generation(self, job_uid: str) -> int:
        """The newest generation of a job that this node was told of; 0: none."""
        kept = self._jobs.get(job_uid)
        return 0 if kept is None else kept.generation

    def born_ns(self, job_uid: str) -> int:
        """When a job was submitted; 0: it is not known here."""
        kept = self._jobs.get(job_uid)
        return 0 if kept is None else kept.born_ns

    def job_uids(self) -> Collection[str]:
        """Jobs that this node has something of, or had."""
        return tuple(self._jobs)

    def folder_of(self, job_uid: str) -> Path | None:
        """Where ranks find their states."""
        return None if self.folder is None else disk_folder(self.folder, job_uid)

    # What is held

    def rows(self, job_uid: str) -> Iterator[Row]:
        """Versions of a job that count."""
        kept = self._jobs.get(job_uid)
        if kept is None:
            return
        for (uid, rank), held in sorted(self._held.copy().items(), key=lambda item: item[0]):
            for version in held.versions if uid == job_uid else ():
                if version.step <= MAX_STEP and version.counts(kept.line):
                    yield Row(rank, version.step, agent_pb2.HELD_KIND_DISK | held.alike)

    def holds(self, job_uid: str, rank: int, step: int) -> bool:
        """Whether the state of a rank after a step is there, as far as is known without a look at the disk."""
        return any(row.rank == rank and row.step == step for row in self.rows(job_uid))

    def find(self, job_uid: str, rank: int, step: int) -> tuple[StateFile, Version] | None:
        """The state of a rank after a step."""
        file = self._file(job_uid, rank) if self.holds(job_uid, rank, step) else None
        version = file.find(step) if file is not None else None
        return None if file is None or version is None else (file, version)

    # What ranks say

    def offer(self, job_uid: str, rank: int, step: int, source: StateFile) -> None:
        """A complete version in memory is to be written; a newer one takes the place of one that still waits."""
        if self.folder is None or job_uid not in self._jobs:
            return
        with self._changed:
            if (job_uid, rank) in self._waiting or len(self._waiting) < MAX_WAITING:
                self._waiting[job_uid, rank] = step, source
                self._changed.notify()

    def sweep(self, here: Collection[str], now: float) -> None:
        """Forget jobs that have had no process here for `GRACE_S`."""
        for uid in here:
            self._left.pop(uid, None)
        for uid in [uid for uid in list(self._jobs) if uid not in here]:
            if now - self._left.setdefault(uid, now) >= GRACE_S:
                self._forget(uid)

    def _forget(self, job_uid: str) -> None:
        self._jobs.pop(job_uid, None)
        self._recorded.pop(job_uid, None)
        self._left.pop(job_uid, None)
        for key in [key for key in list(self._held) if key[0] == job_uid]:
            self._held.pop(key, None)
            self._files.pop(key, None)
        with self._changed:
            for key in [key for key in self._waiting if key[0] == job_uid]:
                self._waiting.pop(key)
            self._begun.pop(job_uid, None)
            if self.folder is not None:
                self._gone.append(disk_folder(self.folder, job_uid))
            self._changed.notify()

    # The thread

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._gone or self._begun or self._closed):
                    self._changed.wait()
                if self._closed:
                    return
                begun, self._begun = self._begun, {}
                item = self._waiting.pop(key := next(iter(self._waiting))) if self._waiting else None
            self._remove_gone()
            try:
                for uid, kept in begun.items():
                    self._record(uid, kept)
                    self._look_again(uid)
                if item is not None:
                    self._write_timed(*key, *item)
            except Overtaken:
                self._counters.add("disk_versions_overtaken")
            except (OSError, ValueError) as error:
                self._failed(error)

    def _remove_gone(self) -> None:
        with self._changed:
            gone, self._gone = self._gone, []
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)

    def _look_again(self, job_uid: str) -> None:
        """A rank may have found a version damaged, and dropped it."""
        for (uid, rank), file in self._files.copy().items():
            if uid == job_uid:
                self._held[uid, rank] = _held(file)

    def _write_timed(self, job_uid: str, rank: int, step: int, source: StateFile) -> None:
        begun, born_ns = time.monotonic(), self.born_ns(job_uid)
        try:
            size = self._write(job_uid, rank, step, source)
        finally:
            if self.born_ns(job_uid) != born_ns:  # forgotten meanwhile
                self._files.pop((job_uid, rank), None)
            elif (file := self._files.get((job_uid, rank))) is not None:
                self._held[job_uid, rank] = _held(file)
        self._counters.add("disk_versions_written")
        self.written_bytes += size
        self.written_s += time.monotonic() - begun

    def _write(self, job_uid: str, rank: int, step: int, source: StateFile) -> int:
        """One version; bytes that it has. Its step is written last, after all else is on the disk."""
        version, kept = source.find(step), self._jobs.get(job_uid)
        if version is None or kept is None or not version.counts(kept.line):
            raise Overtaken
        self._record(job_uid, kept)
        file = self._file_for(job_uid, rank, source)
        file.forget_outside(kept.line)
        slot = file.begin(step)
        digests = source.digests(version.slot)
        descriptor = os.open(file.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            at, end = file.place_of(slot)
            data = source.bytes_of(version.slot)
            size = end - at
            for begin in range(0, size, PIECE_BYTES):
                piece = data[begin : begin + PIECE_BYTES]
                while piece:
                    written = os.pwrite(descriptor, piece, at)
                    at, piece = at + written, piece[written:]
                if source.find(step) != version:
                    raise Overtaken
            os.fdatasync(descriptor)
            if source.find(step) != version:
                raise Overtaken
            file.finish_copy(slot, step, version.generation, digests)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        return size

    def _record(self, job_uid: str, kept: Kept) -> None:
        """Say in the job's folder what it belongs to."""
        if self._recorded.get(job_uid) == kept:
            return
        assert self.folder is not None
        folder = disk_folder(self.folder, job_uid)
        if not folder.exists():
            folder.mkdir(mode=0o700)
            _sync(self.folder)
        document = {
            "uid": job_uid, "generation": kept.generation, "line": [*map(list, kept.line)], "born_ns": kept.born_ns,
        }  # fmt: skip
        replace_file(folder / JOB_FILE, json.dumps(document).encode(), sync=True)
        self._recorded[job_uid] = kept

    def _file_for(self, job_uid: str, rank: int, source: StateFile) -> StateFile:
        file = self._file(job_uid, rank)
        if file is not None and file.layout == source.layout:
            return file
        assert self.folder is not None
        path = disk_path(disk_folder(self.folder, job_uid), rank)
        path.unlink(missing_ok=True)
        self._make_room(source.layout.file_bytes, job_uid)
        file = self._files[job_uid, rank] = StateFile.create(path, source.layout, rank)
        _sync(path.parent)
        return file

    def _make_room(self, needed: int, job_uid: str) -> None:
        """States of jobs that have gone from here make room, those that went first, first.

        Raises:
            OSError: there is none.
        """
        for other in (*sorted(self._left, key=lambda uid: self._left.get(uid, 0.0)), None):
            left = self._room()
            if needed <= left:
                return
            if other is not None and other != job_uid:
                self._forget(other)
                self._remove_gone()
        raise OSError(
            errno.ENOSPC, f"{needed >> 20} MiB do not fit the {max(0, left) >> 20} MiB that states may still take"
        )

    def _room(self) -> int:
        """Bytes that states may still take."""
        assert self.folder is not None
        found = os.statvfs(self.folder)
        size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        taken = 0
        for path in self.folder.glob("*/*.state"):
            with suppress(OSError):
                taken += path.stat().st_blocks * 512
        return int(min(size * SHARE - taken, free - size * RESERVE))

    def _failed(self, error: Exception) -> None:
        self._counters.add("disk_versions_failed")
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if self._counters.first("disk", reason):
            log.warning("disk.not_written", folder=str(self.folder), reason=reason[:300])

    # Files

    def _load(self, folder: Path) -> None:
        """What a former life of this agent, or of the machine, has left."""
        for entry in sorted(folder.iterdir())[:MAX_FILES]:
            try:
                document = json.loads((entry / JOB_FILE).read_bytes())
                uid, generation, born_ns = str(document["uid"]), int(document["generation"]), int(document["born_ns"])
                line = tuple((int(number), int(step)) for number, step in document["line"])
                if disk_folder(folder, uid) != entry:
                    raise ValueError(f"{entry.name} is not the folder of {uid}")  # noqa: TRY301
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("disk.removed", folder=entry.name, reason=str(error)[:300])
                shutil.rmtree(entry, ignore_errors=True)
                continue
            self._jobs[uid] = self._recorded[uid] = Kept(generation, line, born_ns)
            for path in sorted(entry.glob("*.state"))[:MAX_FILES]:
                rank = int(path.stem) if path.stem.isdecimal() and len(path.stem) <= 10 else MAX_RANK + 1
                file = self._file(uid, rank) if rank <= MAX_RANK else None
                if file is not None:
                    self._held[uid, rank] = _held(file)

    def _file(self, job_uid: str, rank: int) -> StateFile | None:
        if self.folder is None:
            return None
        known = self._files.get((job_uid, rank))
        if known is None:
            try:
                known = StateFile.open(disk_path(disk_folder(self.folder, job_uid), rank))
            except NotAState:
                return None
            if known.get(Word.RANK) != rank:
                return None
            self._files[job_uid, rank] = known
        return known


def _held(file: StateFile) -> _Held:
    return _Held(0 if file.layout.unique_bytes else REPLICATED, tuple(file.versions()))


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
