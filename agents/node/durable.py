"""Small files in NODE_DIR: atomic replacement, the host key, the lock, and what must outlive the agent."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from pathlib import Path

KERNEL_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class AlreadyRunningError(Exception):
    """Another agent owns this folder or this socket."""


def kernel_boot_id() -> str:
    """Identity of this boot of the machine; process ids and monotonic times mean nothing in another one."""
    return KERNEL_BOOT_ID.read_text(encoding="ascii").strip()


def replace_file(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Write `data` to `path` (mode 0600) so that a reader sees the old or the new content, never a part.

    `sync` also survives a power cut. What describes processes does not need it: they do not survive one either.
    """
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)  # what lay there before may have been open to others
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if sync:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load_or_create_key(path: Path) -> bytes:
    """Content of the host key file, created with mode 0600 when missing.

    The file is 64 hexadecimal characters without a line end; the HMAC key is these bytes as they stand in the file.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path.read_bytes()
    key = secrets.token_hex(32).encode("ascii")
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
    return key


def lock_folder(directory: Path) -> int:
    """Take the folder's lock for the life of this process; the kernel drops it however the process ends."""
    descriptor = os.open(directory / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunningError(
            f"another node agent owns {directory}; stop it first, or give this one its own --dir"
        ) from None
    return descriptor


class AgentMemory:
    """The highest controller epoch obeyed and the last dictated orphan grace, kept in NODE_DIR.

    The epoch is synced to disk before it is obeyed: after a power cut an older controller must still be refused.
    """

    def __init__(self, path: Path, default_orphan_grace_ms: int) -> None:
        self._path = path
        self.highest_epoch = 0
        self.orphan_grace_ms = default_orphan_grace_ms
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return
        self.highest_epoch = int(document["highest_epoch"])
        self.orphan_grace_ms = int(document["orphan_grace_ms"])

    def obey(self, epoch: int, orphan_grace_ms: int = 0) -> None:
        """Remember what a controller of `epoch` dictated; 0 leaves the grace as it is. Epochs never go back."""
        if epoch < self.highest_epoch:
            raise ValueError(f"epoch {epoch} is lower than {self.highest_epoch}, which was already obeyed")
        grace_ms = orphan_grace_ms or self.orphan_grace_ms
        if (epoch, grace_ms) == (self.highest_epoch, self.orphan_grace_ms):
            return
        document = {"highest_epoch": epoch, "orphan_grace_ms": grace_ms}
        replace_file(self._path, json.dumps(document).encode(), sync=True)
        self.highest_epoch = epoch
        self.orphan_grace_ms = grace_ms
