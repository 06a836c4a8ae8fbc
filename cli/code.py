"""Shipping a folder of code: packed so that equal files make equal archives, uploaded unless the site has it."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli import render
from cli.errors import CliError, Exit
from controlplane.core.shipped import MAX_ARCHIVE_BYTES, MAX_FILES, MAX_UNPACKED_BYTES
from controlplane.core.spec import Violation

if TYPE_CHECKING:
    from phalanx.v1 import code_pb2, code_pb2_grpc

FIELD = "spec.workload.folder"
IGNORE_FILE = ".phalanxignore"
ALWAYS_IGNORED = (
    "__pycache__/",
    "*.pyc",
    ".git/",
    ".venv/",
    ".phalanx/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".DS_Store",
)
"""Never part of a program: caches, a history that could hold what was deleted on purpose, a site with its private keys."""
MAX_PATTERNS = 1_000
CHUNK_BYTES = 64 << 10
CALL_TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class PackedFolder:
    """A folder as it is shipped."""

    folder: str
    digest: str
    data: bytes
    files: int


class CannotPack(Exception):
    """A folder that is not shipped; the message says why, `fix` what to do."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


def take_folder(document: object, base: Path) -> tuple[PackedFolder | None, tuple[Violation, ...]]:
    """Packs `spec.workload.folder` of a manifest, relative to `base`, and puts its digest in its place."""
    spec = document.get("spec") if isinstance(document, dict) else None
    workload = spec.get("workload") if isinstance(spec, dict) else None
    if not isinstance(workload, dict) or "folder" not in workload:
        return None, ()
    folder = workload.pop("folder")
    if not isinstance(folder, str) or not folder:
        return None, (Violation(FIELD, "must be the path of a folder", "write for example `folder: ./src`"),)
    for other in ("path", "codeDigest", "image"):
        if workload.get(other):
            reason = f"stands beside spec.workload.{other}"
            return None, (Violation(FIELD, reason, "keep one of them: code comes from one place"),)
    try:
        packed = pack(base / folder)
    except CannotPack as error:
        return None, (Violation(FIELD, str(error), error.fix),)
    workload["codeDigest"] = packed.digest
    return packed, ()


def pack(folder: Path) -> PackedFolder:
    """The archive of a folder: sorted, without owners, times or ignored files, so that its digest is that of its content.

    Raises:
        CannotPack: there is nothing to pack, too much, or something that would not arrive as it is.
    """
    import gzip  # noqa: PLC0415 - only a manifest with a folder needs it
    import tarfile  # noqa: PLC0415

    if not folder.is_dir():
        raise CannotPack(f"{folder} is no folder", "give the folder that holds the module, relative to the manifest")
    try:
        patterns = _patterns(folder)
        buffer, total, count = io.BytesIO(), 0, 0
        with (
            gzip.GzipFile(filename="", fileobj=buffer, mode="wb", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name, path in _files(folder, folder.resolve(), "", patterns):
                facts = path.stat()
                total, count = total + facts.st_size, count + 1
                _check_size(folder, total, count)
                content = path.read_bytes()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                member.mode = 0o755 if facts.st_mode & stat.S_IXUSR else 0o644
                tar.addfile(member, io.BytesIO(content))
    except OSError as error:
        raise CannotPack(f"cannot read {error.filename}: {error.strerror}", "correct its permissions") from error
    except UnicodeEncodeError as error:
        raise CannotPack(f"a file name is no valid text: {error.object!r}", "rename the file") from error
    if count == 0:
        raise CannotPack(f"{folder} holds no file that is not ignored", f"look at its {IGNORE_FILE}")
    data = buffer.getvalue()
    if len(data) > MAX_ARCHIVE_BYTES:
        _too_large(folder, f"packs to {len(data) >> 20} MiB, the limit is {MAX_ARCHIVE_BYTES >> 20} MiB")
    return PackedFolder(str(folder), f"sha256:{hashlib.sha256(data).hexdigest()}", data, count)


def is_shipped(stub: code_pb2_grpc.CodeServiceStub, packed: PackedFolder) -> bool:
    """Whether the site has the archive; an error when it would not take it. gRPC errors pass."""
    from phalanx.v1 import code_pb2  # noqa: PLC0415

    found = stub.FindCode(code_pb2.FindCodeRequest(digest=packed.digest), timeout=CALL_TIMEOUT_S)
    if not found.found and found.max_bytes and len(packed.data) > found.max_bytes:
        what = f"{packed.folder} packs to {len(packed.data)} bytes, this site takes {found.max_bytes}"
        raise CliError(what, fix=f"name in {IGNORE_FILE} what the job does not need", code=Exit.USAGE)
    return found.found


def upload(stub: code_pb2_grpc.CodeServiceStub, packed: PackedFolder) -> bool:
    """Sends the archive unless the site has it; returns whether it was sent. gRPC errors pass."""
    if is_shipped(stub, packed):
        return False
    stub.UploadCode(_chunks(packed), timeout=UPLOAD_TIMEOUT_S)
    return True


def _chunks(packed: PackedFolder) -> Iterator[code_pb2.UploadCodeRequest]:
    from phalanx.v1 import code_pb2  # noqa: PLC0415

    size = len(packed.data)
    yield code_pb2.UploadCodeRequest(digest=packed.digest, bytes=size)
    for start in range(0, size, CHUNK_BYTES):
        yield code_pb2.UploadCodeRequest(data=packed.data[start : start + CHUNK_BYTES])
        render.transfer(f"shipping {packed.folder}", min(size, start + CHUNK_BYTES), size)


def _patterns(folder: Path) -> tuple[str, ...]:
    file = folder / IGNORE_FILE
    if not file.exists():
        return ALWAYS_IGNORED
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise CannotPack(f"{file} is no text: {error}", "write one pattern per line") from error
    patterns = [line for line in lines if line and not line.startswith("#")]
    if any(pattern.startswith("!") for pattern in patterns) or len(patterns) > MAX_PATTERNS:
        raise CannotPack(
            f"{file} has a pattern with `!`, or more than {MAX_PATTERNS} of them", "name what is to be left out, only"
        )
    return (*ALWAYS_IGNORED, *patterns)


def _ignored(name: str, patterns: tuple[str, ...], *, folder: bool) -> bool:
    """Whether a path relative to the packed folder is left out.

    `*.log`: files and folders of that name anywhere; `data/`: folders only; `/data` or `a/b`: at that place only.
    """
    for pattern in patterns:
        if pattern.endswith("/") and not folder:
            continue
        wanted = pattern.rstrip("/")
        subject = name if "/" in wanted else name.rpartition("/")[2]
        if fnmatch.fnmatchcase(subject, wanted.removeprefix("/")):
            return True
    return False


def _files(folder: Path, root: Path, prefix: str, patterns: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Names and paths of the files to ship, sorted. A link to a file inside the folder is shipped as that file."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = f"{prefix}{entry.name}"
        is_folder = entry.is_dir(follow_symlinks=False)
        if _ignored(name, patterns, folder=is_folder or entry.is_dir()):
            continue
        if entry.is_symlink():
            yield name, _inside(Path(entry.path), name, root)
        elif is_folder:
            yield from _files(Path(entry.path), root, f"{name}/", patterns)
        elif entry.is_file():
            yield name, Path(entry.path)
        else:
            raise CannotPack(f"{name} is neither a file nor a folder", f"name it in {IGNORE_FILE}")


def _inside(link: Path, name: str, root: Path) -> Path:
    target = Path(os.path.realpath(link))
    if not target.is_relative_to(root) or not target.is_file():
        reason = f"{name} is a link to {os.readlink(link)}, which is no file of the folder"
        raise CannotPack(reason, f"copy what it points to, or name it in {IGNORE_FILE}")
    return target


def _check_size(folder: Path, total: int, count: int) -> None:
    if total > MAX_UNPACKED_BYTES:
        _too_large(folder, f"holds more than {MAX_UNPACKED_BYTES >> 20} MiB")
    if count > MAX_FILES:
        _too_large(folder, f"holds more than {MAX_FILES} files")


def _too_large(folder: Path, what: str) -> None:
    fix = f"name data and build output in {IGNORE_FILE}; data belongs on shared storage, by its path in `args`"
    raise CannotPack(f"{folder} {what}", fix)
