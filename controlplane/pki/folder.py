"""Private files: written whole, readable by their owner only, and refused when they are not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

FOLDER_MODE, FILE_MODE = 0o700, 0o600


class UnsafeFile(Exception):
    """A secret that others can read, or a file that is not there; the message says what to do."""


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner enters; an existing one must be like that.

    Raises:
        UnsafeFile: others can enter it, or it cannot be made.
    """
    try:
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise UnsafeFile(f"cannot make the folder {path}: {error.strerror}") from error
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise UnsafeFile(
            f"{path} holds keys and has mode {mode:04o}: `chmod 700 {path}`, and make new keys if others read them"
        )


def write_private(path: Path, data: bytes) -> None:
    """Replace a file as a whole, mode 0600, on disk before it has its name."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def read_private(path: Path) -> bytes:
    """The content of a secret.

    Raises:
        UnsafeFile: it is not there, or others can read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise UnsafeFile(f"cannot read {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise UnsafeFile(
                f"{path} is a secret and has mode {mode:04o}: `chmod 600 {path}`, and make a new one if others read it"
            )
        return file.read()
