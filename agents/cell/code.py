"""Shipped code on a node: `<NODE_DIR>/code/<digest>/`, unpacked once, checked at every start, swept when unused.

An archive is copied from shared storage and hashed on the way, unpacked beside its place with bounds, and only then
named. A note beside it holds the digest of every file, and the boot in which it was written: what a crash of the
machine may have torn is unpacked again. Whoever uses a folder holds a shared lock on its note for as long as it lives.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import shutil
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

MAX_ARCHIVE_BYTES = 64 << 20
MAX_UNPACKED_BYTES = 512 << 20
MAX_FILES = 20_000
"""The limits of controlplane/core/shipped.py, which says why; a test compares them."""

KEPT_FOLDERS = 16
"""Unused folders beyond these are removed, oldest use first."""
LOCK_LIMIT_S = 90.0
"""Another process of the node unpacks: below the 120 s in which a job's processes must be parked."""
_LOCK_LOOK_S = 0.05
_BLOCK = 1 << 20
_TAR_OVERHEAD_BYTES = 64 << 20
"""Headers and padding of so many files: 20,000 x 3 blocks of 512 bytes, and some air."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class CodeRefused(Exception):
    """Shipped code that must not run; the message says what is wrong and what to do."""


def unpack(archive: str, digest: str, folder: Path) -> dict[str, str]:
    """Unpack the archive into the new folder `folder`; returns the SHA-256 of every file by its path.

    Raises:
        CodeRefused: it is not there, is not what its digest says, or holds what must not be unpacked.
        OSError: the disk does not take it.
    """
    folder.mkdir(mode=0o755)
    packed = folder.with_name(f"{folder.name}.tar.gz")
    try:
        _fetch(archive, digest, packed)
        try:
            return _extract(packed, folder)
        except (gzip.BadGzipFile, zlib.error, tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise CodeRefused(f"{archive} is no gzipped tar archive ({error}): pack the folder again") from error
    finally:
        packed.unlink(missing_ok=True)


@contextmanager
def scratch(parent: Path, digest: str) -> Iterator[Path]:
    """A name for a folder in the making, which is gone afterwards unless it was renamed."""
    folder = parent / f".{digest.removeprefix('sha256:')[:16]}.{os.getpid()}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class NodeCode:
    """The folders of shipped code on one node. Several rank processes may start at the same time."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def acquire(self, archive: str, digest: str) -> Path:
        """The folder with exactly what was shipped, unpacked if need be; it stays while this process lives.

        The lock that keeps it is inherited by the program that replaces this one (exec).

        Raises:
            CodeRefused: the archive is not what its digest says, or another process unpacks for too long.
            OSError: shared storage or the node's disk fail.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = self._root / digest.removeprefix("sha256:")
        note = folder.with_suffix(".json")
        with self._alone():
            if not _intact(folder, note):
                self._unpack_into(archive, digest, folder, note)
                self._sweep(folder.name)
            held = os.open(note, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_SH)
            os.set_inheritable(held, True)
            os.utime(note)
        return folder

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + LOCK_LIMIT_S
            while not _try_lock(lock):
                if time.monotonic() > deadline:
                    raise CodeRefused(f"another process of this node has unpacked code for {LOCK_LIMIT_S:g} s: see it")
                time.sleep(_LOCK_LOOK_S)
            yield
        finally:
            os.close(lock)

    def _unpack_into(self, archive: str, digest: str, folder: Path, note: Path) -> None:
        """Replace the folder. A process that still runs from a damaged one keeps what it has loaded."""
        with scratch(self._root, digest) as fresh:
            shutil.rmtree(fresh, ignore_errors=True)
            digests = unpack(archive, digest, fresh)
            text = json.dumps({"boot": _boot(), "files": digests})
            fresh_note = fresh.with_suffix(".note")
            fresh_note.write_text(text, encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            fresh.rename(folder)
            fresh_note.rename(note)

    def _sweep(self, keep: str) -> None:
        """Remove the least recently used folders beyond the limit that no process holds, and torn remains."""
        notes = sorted(self._root.glob("*.json"), key=lambda note: note.stat().st_mtime, reverse=True)
        for note in notes[KEPT_FOLDERS:]:
            held = os.open(note, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if note.stem != keep and _try_lock(held):
                    shutil.rmtree(note.with_suffix(""), ignore_errors=True)
                    note.unlink()
            finally:
                os.close(held)
        for torn in self._root.glob(".*.*"):  # of processes that were killed while they unpacked: we hold the lock
            if torn.is_dir():
                shutil.rmtree(torn, ignore_errors=True)
            else:
                torn.unlink(missing_ok=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _intact(folder: Path, note: Path) -> bool:
    """Whether the folder holds what was unpacked, nothing less and nothing more, in this life of the machine."""
    try:
        said = json.loads(note.read_text(encoding="utf-8"))
        if said["boot"] != _boot():
            return False
        there = {str(path.relative_to(folder)): path for path in folder.rglob("*") if not path.is_dir()}
        there = {name: path for name, path in there.items() if "__pycache__" not in path.parts}
        files: dict[str, str] = said["files"]
        return there.keys() == files.keys() and all(_digest_of(there[name]) == files[name] for name in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _boot() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(archive: str, digest: str, packed: Path) -> None:
    """Copy the archive to this node's disk: what was hashed is what is unpacked, whatever happens to the original."""
    found, left = hashlib.sha256(), MAX_ARCHIVE_BYTES
    try:
        source = open(archive, "rb")  # noqa: SIM115 - its absence must be told from failures of the copy
    except OSError as error:
        text = f"cannot read the shipped code {archive}: {error.strerror}: is shared storage mounted on this node?"
        raise CodeRefused(text) from error
    with source, packed.open("xb") as copy:
        while block := source.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise CodeRefused(f"{archive} is larger than {MAX_ARCHIVE_BYTES} bytes: ship less")
            found.update(block)
            copy.write(block)
    if f"sha256:{found.hexdigest()}" != digest:
        raise CodeRefused(f"{archive} has digest sha256:{found.hexdigest()}, not {digest}: ship the folder again")


class _Bounded:
    """A reader that refuses to hand out more than an honest archive holds: a bomb ends here, not on the disk."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._left = MAX_UNPACKED_BYTES + _TAR_OVERHEAD_BYTES

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise CodeRefused(f"unpacked, the archive holds more than {MAX_UNPACKED_BYTES} bytes: ship less")
        return data


def _extract(packed: Path, folder: Path) -> dict[str, str]:
    digests: dict[str, str] = {}
    total = count = 0
    with gzip.open(packed, "rb") as plain:
        bounded = cast("BinaryIO", _Bounded(cast("BinaryIO", plain)))
        with tarfile.open(fileobj=bounded, mode="r|") as tar:
            for member in tar:
                count += 1
                total += member.size
                if count > MAX_FILES or total > MAX_UNPACKED_BYTES:
                    limits = f"{MAX_FILES} files or {MAX_UNPACKED_BYTES} bytes"
                    raise CodeRefused(f"unpacked, the archive holds more than {limits}: ship less")
                _extract_one(tar, member, folder, digests)
    return digests


def _extract_one(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, digests: dict[str, str]) -> None:
    name = _safe_name(member)
    place = folder / name
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
        return
    if str(name) in digests:
        raise CodeRefused(f"{member.name!r} stands in the archive twice: pack the folder again")
    source = tar.extractfile(member)
    assert source is not None  # _safe_name lets only files and folders through
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("xb") as file, source:
        shutil.copyfileobj(source, file, _BLOCK)
    place.chmod(0o555 if member.mode & 0o100 else 0o444)
    digests[str(name)] = _digest_of(place)


def _safe_name(member: tarfile.TarInfo) -> PurePosixPath:
    """The member's path inside the folder: no way out, no links, no devices, nothing that hides."""
    path = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()):
        raise CodeRefused(f"{member.name!r} is neither a file nor a folder: links and devices are not unpacked")
    if path.is_absolute() or ".." in path.parts or "\0" in member.name or not path.parts:
        raise CodeRefused(f"{member.name!r} leads out of the folder: pack it with `phalanx submit`")
    with suppress(ValueError):
        member.name.encode("utf-8")
        return path
    raise CodeRefused(f"{member.name!r} is no valid file name: rename the file")
