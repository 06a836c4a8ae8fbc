"""A backup: one gzip file of JSON lines. A header, the newest snapshot, all records, and a last line with their digest.

{"format": "phalanx-backup", "version": 1, "phalanx": ..., "epoch": ..., "archived": ..., "kept": ..., ...}
{"revision": ..., "digest": ..., "body": ...}     the snapshot, or null
[revision, epoch, at_ns, cause, type, version, body, job, node]     archived ones first, then the journal's
{"sha256": "of all lines before"}
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import IO, Any

from controlplane.engine.ports import Content, JournalEntry, Snapshot

FORMAT = "phalanx-backup"
VERSION = 1
LEVEL = 3
"""Of gzip: JSON shrinks to a tenth already; higher levels cost several times the processor for a few per cent."""
TOLD_EVERY = 2_000
MAX_HEADER = 4_096
"""Characters of a header line; more is another file."""


class BadBackup(Exception):
    """The file is no backup that this version can restore; the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a backup says of itself. `revision`: its newest record; `epoch`: the highest that had led."""

    phalanx: str
    epoch: int
    revision: int
    archived: int
    kept: int


class _Digested:
    """Lines into a stream, with the digest of all of them."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def write(self, value: object) -> None:
        line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        self.sha256.update(line)
        self._stream.write(line)


def write_backup(
    content: Content, phalanx: str, file: IO[bytes], told: Callable[[int], None] = lambda done: None
) -> None:
    """Write a backup. `told` hears now and then how many records are done."""
    header = Header(phalanx, content.epoch, content.newest, content.archived, content.kept)
    with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=LEVEL, mtime=0) as packed:
        lines = _Digested(packed)  # type: ignore[arg-type]
        lines.write({"format": FORMAT, "version": VERSION, **asdict(header)})
        lines.write(None if content.snapshot is None else asdict(content.snapshot))
        for done, entry in enumerate(content.entries, start=1):
            lines.write(astuple(entry))
            if done % TOLD_EVERY == 0:
                told(done)
        packed.write(json.dumps({"sha256": lines.sha256.hexdigest()}).encode() + b"\n")


def check_backup(path: Path) -> Header:
    """Read a whole file and return its header when it is complete and undamaged.

    Raises:
        BadBackup: it is not; or it is of a version that this one does not know.
        OSError: it cannot be read.
    """
    sha256, previous, count = hashlib.sha256(), b"", 0
    with _open(path) as lines:
        first = next(lines, b"")
        header = _header(first, path)
        for line in lines:
            if count:
                sha256.update(previous)
            else:
                sha256.update(first)
            previous, count = line, count + 1
    try:
        said = json.loads(previous)["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise BadBackup(f"{path} ends too early: take another backup, this one is cut off") from error
    if said != sha256.hexdigest() or count != header.archived + header.kept + 2:
        raise BadBackup(f"{path} is damaged: its digest does not match; use another backup")
    return header


@contextmanager
def open_backup(path: Path) -> Iterator[Content]:
    """The content of a file that was checked.

    Raises:
        BadBackup, OSError: see `check_backup`.
    """
    with _open(path) as lines:
        header = _header(next(lines, b""), path)
        stored = json.loads(next(lines))
        snapshot = None if stored is None else Snapshot(**stored)
        entries = (
            JournalEntry(*json.loads(line))
            for _, line in zip(range(header.archived + header.kept), lines, strict=False)
        )
        yield Content(header.epoch, header.revision, snapshot, header.archived, header.kept, entries)


@contextmanager
def _open(path: Path) -> Iterator[Iterator[bytes]]:
    try:
        with gzip.open(path, "rb") as packed:
            yield iter(packed)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadBackup(f"{path} is damaged or no backup ({error}); use another one") from error


def _header(line: bytes, path: Path) -> Header:
    try:
        body: dict[str, Any] = json.loads(line[:MAX_HEADER])
        kind, version = body.pop("format"), body.pop("version")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadBackup(f"{path} is no backup of Phalanx") from error
    if kind != FORMAT or not isinstance(version, int):
        raise BadBackup(f"{path} is no backup of Phalanx")
    if version > VERSION:
        wrote = body.get("phalanx", "a newer version")
        raise BadBackup(
            f"{path} has format {version} and was written by Phalanx {wrote}, this one reads up to {VERSION}"
        )
    try:
        return Header(**body)
    except TypeError as error:
        raise BadBackup(f"the header of {path} lacks or has too many fields") from error
