"""Files of a checkpoint: hashing what a rank wrote and checking what a manifest names. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from agents.rank.assignment import RestorePoint, ShardFile

CHUNK_BYTES = 1 << 20


class BadFile(Exception):
    """A file of the manifest is missing, unreadable or not what was written. `file` is its manifest path."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


def describe_files(folder: Path, part: str) -> list[ShardFile]:
    """Every file below `folder/part`, sorted, with size and SHA-256, flushed to the disk. Raises OSError."""
    files = []
    for path in sorted((folder / part).rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                digest = _sha256(stream.fileno())
            files.append(ShardFile(path.relative_to(folder).as_posix(), path.stat().st_size, digest))
    for directory in {folder, folder / part, *(path for path in (folder / part).rglob("*") if path.is_dir())}:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return files


def verify_files(restore: RestorePoint, parts: Iterable[str]) -> None:
    """Check size and digest of every manifest file in the given parts (first path components).

    Raises BadFile for the first bad one, and for a part of which the manifest names no file.
    """
    for part in parts:
        files = [file for file in restore.files if file.path.split("/", 1)[0] == part]
        if not files:
            raise BadFile(part, "the manifest names no file of this part")
        for file in files:
            _verify(restore.folder / file.path, file)


def _verify(path: Path, file: ShardFile) -> None:
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            digest = _sha256(stream.fileno())
    except OSError as error:
        raise BadFile(file.path, f"cannot be read: {error.strerror}") from error
    if size != file.bytes:
        raise BadFile(file.path, f"has {size} bytes, the manifest says {file.bytes}")
    if digest != file.sha256:
        raise BadFile(file.path, f"SHA-256 is {digest}, the manifest says {file.sha256}")


def _sha256(descriptor: int) -> str:
    digest = hashlib.sha256()
    while chunk := os.read(descriptor, CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
