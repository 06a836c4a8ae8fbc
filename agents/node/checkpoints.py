"""Checkpoint files on shared storage: reading back, and sweeping what the controller no longer needs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from phalanx.v1 import agent_pb2

READ_BYTES = 1 << 20
_GENERATION_FOLDER = re.compile(r"g\d+")


class StoppedError(Exception):
    """The agent ends; the check has no result."""


def verify(order: agent_pb2.VerifyCheckpoint, stop: threading.Event) -> agent_pb2.CheckpointChecked:
    """Read every file of a checkpoint back and compare size and SHA-256. Blocks: run it in a worker thread.

    The result names the first bad file. `order.most_bytes_per_s` is kept over the whole. Raises StoppedError when `stop` is set.
    """
    folder = Path(order.folder)
    pace = _Pace(order.most_bytes_per_s, stop)
    for file in order.files:
        reason = _check_file(folder, file.path, file.bytes, file.sha256, pace)
        if reason:
            return agent_pb2.CheckpointChecked(
                job_uid=order.job_uid, checkpoint_id=order.checkpoint_id, ok=False, file=file.path, reason=reason
            )
    return agent_pb2.CheckpointChecked(job_uid=order.job_uid, checkpoint_id=order.checkpoint_id, ok=True)


class _Pace:
    """Keeps reading below a rate, and ends it when the agent does. `most_bytes_per_s` 0: as fast as it goes."""

    def __init__(self, most_bytes_per_s: int, stop: threading.Event) -> None:
        self._rate = most_bytes_per_s
        self._stop = stop
        self._begun = time.monotonic()
        self._read = 0

    @property
    def slow(self) -> bool:
        """Whether there is a rate."""
        return self._rate > 0

    def read(self, count: int) -> None:
        """So many bytes more were read. Raises StoppedError."""
        self._read += count
        ahead_s = self._begun + self._read / self._rate - time.monotonic() if self._rate else 0.0
        if self._stop.is_set() or (ahead_s > 0 and self._stop.wait(ahead_s)):
            raise StoppedError


def _check_file(folder: Path, relative: str, size: int, sha256: str, pace: _Pace) -> str:
    """Why the file is bad; empty when it is as its rank wrote it."""
    if not relative or Path(relative).is_absolute() or ".." in Path(relative).parts:
        return "the path leaves the checkpoint's folder"
    digest = hashlib.sha256()
    read = 0
    try:
        with open(folder / relative, "rb") as data:
            if pace.slow:  # what this node remembers of the file says nothing of what is stored
                os.posix_fadvise(data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while chunk := data.read(READ_BYTES):
                pace.read(len(chunk))
                digest.update(chunk)
                read += len(chunk)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError:  # a NUL in the name
        return "no file can be called so"
    if read != size:
        return f"{read} bytes, {size} were written"
    if digest.hexdigest() != sha256.lower():
        return "SHA-256 differs from what its rank reported"
    return ""


def sweep_refusal(folder: str, job_folders: Sequence[str], live_folders: Iterable[str], node_folder: Path) -> str:
    """Why `folder` must not be deleted; empty when it may.

    It may when it lies below `<root>/<job_uid>` of an earlier instruction (`job_folders`), or has a `g<digits>` folder
    on its path, and is not a folder that a running generation writes to, nor above one, nor anything of this node's.
    Both the given path and the one behind its symbolic links must pass, and there may be links above the folder of the
    job only: what the job's own code can write must not lead to another's files.
    """
    if "\0" in folder or not os.path.isabs(folder) or os.path.normpath(folder) != folder:
        return "it is not an absolute, normalised path"
    if os.path.islink(folder):
        return "it is a symbolic link"
    protected = [Path(os.path.realpath(path)) for path in live_folders]
    protected.append(Path(os.path.realpath(node_folder)))
    known = [Path(os.path.realpath(path)) for path in job_folders]
    for path in (Path(folder), Path(os.path.realpath(folder))):
        if len(path.parts) < 4:
            return "it lies too near the root of the file system"
        if any(kept == path or kept.is_relative_to(path) for kept in protected):
            return "something in it is in use"
        if path.is_relative_to(protected[-1]):
            return "it belongs to this node"
    real = Path(os.path.realpath(folder))
    if real != _without_own_links(Path(folder), job_folders):
        return "a symbolic link in it leads elsewhere"
    below_known = any(real != root and real.is_relative_to(root) for root in known)
    if not below_known and not any(_GENERATION_FOLDER.fullmatch(part) for part in real.parts[3:]):
        return "it is not below a checkpoint folder of a job"
    return ""


def _without_own_links(folder: Path, job_folders: Sequence[str]) -> Path:
    """Where a folder lies when nothing from its job's folder on is a symbolic link."""
    parts = folder.parts
    generation = next(
        (at for at, part in enumerate(parts) if at > 1 and _GENERATION_FOLDER.fullmatch(part)), len(parts)
    )
    tops = [Path(known) for known in job_folders if folder.is_relative_to(known)]
    top = min([*tops, Path(*parts[:generation])], key=lambda path: len(path.parts))
    return Path(os.path.realpath(top.parent)) / folder.relative_to(top.parent)


def sweep(folder: str) -> None:
    """Delete a folder that passed `sweep_refusal`; one that is not there is fine. Blocks. Raises OSError."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return


def job_folder(checkpoint_folder: str) -> str:
    """`<root>/<job_uid>` of a generation's folder `<root>/<job_uid>/g<generation>`; empty when it is not shaped so."""
    path = Path(checkpoint_folder)
    if path.is_absolute() and _GENERATION_FOLDER.fullmatch(path.name) and len(path.parts) >= 4:
        return str(path.parent)
    return ""
