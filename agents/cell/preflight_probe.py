"""Looks at a workload or a checkpoint folder in a process of its own: either may hang, and the first runs foreign code.

`python -P -m agents.cell.preflight_probe workload MODULE PATH`, `... code MODULE ARCHIVE DIGEST SCRATCH` or `... folder FOLDER`.
The last line of standard output is JSON: a list of {"path", "reason", "fix"}, empty when nothing is wrong.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import os
import pkgutil
import secrets
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from agents.cell.code import CodeRefused, unpack

MODULE_FIELD = "spec.workload.module"
PATH_FIELD = "spec.workload.path"
FOLDER_FIELD = "spec.checkpoint.folder"
CODE_FIELD = "spec.workload.codeDigest"

Violation = dict[str, str]


def violation(path: str, reason: str, fix: str) -> Violation:
    """One refused field."""
    return {"path": path, "reason": reason, "fix": fix}


def check_workload(module: str, path: str, *, shipped: bool = False) -> list[Violation]:
    """Whether `module` can be found with `path` in front. Imports its parent packages, not the module itself."""
    where = "the shipped folder" if shipped else path
    if path:
        if not os.path.isabs(path):
            return [violation(PATH_FIELD, f"{path!r} is not an absolute path", "give the absolute path of the folder")]
        if not os.path.isdir(path):
            reason = "is not a folder" if os.path.exists(path) else "does not exist"
            return [violation(PATH_FIELD, f"{path} {reason} in this cell", "give the folder that holds the module")]
        sys.path.insert(0, path)
    if not module or not all(part.isidentifier() for part in module.split(".")):
        return [violation(MODULE_FIELD, f"{module!r} is not a module name", "give a dotted name such as package.train")]
    parts = module.split(".")
    folders: list[str] | None = [path] if path else None
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        try:
            found = importlib.util.find_spec(name)
        except Exception as error:  # noqa: BLE001  foreign code: a parent package may raise anything
            reason = f"importing {'.'.join(parts[: depth - 1])} failed: {type(error).__name__}: {error}"
            return [violation(MODULE_FIELD, reason, "make the package importable, then try again")]
        if found is None:
            return [
                violation(MODULE_FIELD, f"no module named {name}{_where(where)}", did_you_mean(parts, depth, folders))
            ]
        if found.submodule_search_locations is None and depth < len(parts):
            return [violation(MODULE_FIELD, f"{name} is a module, not a package", f"use {name}")]
        folders = list(found.submodule_search_locations or [])
    return []


def check_code(module: str, archive: str, digest: str, scratch: str) -> list[Violation]:
    """Whether the archive is what it is said to be, and its module can be imported and has `main`.

    It is unpacked in `scratch`, which the caller removes: this process may be killed while foreign code hangs.
    """
    folder = Path(scratch) / "code"
    try:
        unpack(archive, digest, folder)
    except CodeRefused as error:
        return [violation(CODE_FIELD, str(error), "pack the folder and submit again")]
    except OSError as error:
        fix = "free some room in this cell, then submit again"
        return [violation(CODE_FIELD, f"cannot be unpacked in this cell: {error}", fix)]
    return check_workload(module, str(folder), shipped=True) or _import_from(module, folder)


def _import_from(module: str, folder: Path) -> list[Violation]:
    sys.dont_write_bytecode = True
    try:
        imported = importlib.import_module(module)
    except BaseException as error:  # noqa: BLE001  foreign code may raise anything, SystemExit too
        reason = f"importing {module} failed{_place_in(error, folder)}: {type(error).__name__}: {error}"
        return [violation(MODULE_FIELD, reason, _import_fix(error))]
    if not callable(getattr(imported, "main", None)):
        file = os.path.relpath(imported.__file__ or module, folder)
        reason = f"{module} ({file} in the shipped folder) has no main(context)"
        return [violation(MODULE_FIELD, reason, "define `def main(context):` there, see docs/writing-a-workload.md")]
    return []


def _place_in(error: BaseException, folder: Path) -> str:
    """The last line of the user's own files that was reached: what he can look at."""
    if isinstance(error, SyntaxError) and error.filename and error.filename.startswith(str(folder)):
        return f" at {os.path.relpath(error.filename, folder)} line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        if frame.filename.startswith(str(folder)):
            return f" at {os.path.relpath(frame.filename, folder)} line {frame.lineno}"
    return ""


def _import_fix(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"put {error.name} into the folder, or install it in the cell's environment"
    return "correct the file, or install what it needs in the cell's environment; nothing was stored"


def did_you_mean(parts: list[str], depth: int, folders: list[str] | None) -> str:
    """Names next to the one that was not found. `folders` None: everything on sys.path."""
    prefix = ".".join([*parts[: depth - 1], ""])
    near = sorted({info.name for info in pkgutil.iter_modules(folders)})
    close = difflib.get_close_matches(parts[depth - 1], near, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(prefix + name for name in close)}?"
    if folders is not None and near:
        shown = ", ".join(prefix + name for name in near[:8])
        return f"modules there: {shown}{', ...' if len(near) > 8 else ''}"
    return "check the name, or set spec.workload.path to the folder that holds it"


def _where(path: str) -> str:
    return f" in {path} or the installed packages" if path else " in the installed packages"


def check_folder(folder: str) -> list[Violation]:
    """Whether a file can be written to disk in `folder`. Folders that had to be made are removed again."""
    if not os.path.isabs(folder):
        fix = "give the absolute path of a folder on shared storage"
        return [violation(FOLDER_FIELD, f"{folder!r} is not an absolute path", fix)]
    made: list[str] = []
    try:
        _make(folder, made)
        _write_probe(folder)
    except OSError as error:
        at = error.filename or folder
        reason = f"cannot be written from this cell: {error.strerror or error} ({at})"
        return [violation(FOLDER_FIELD, reason, "use a folder on shared storage that this site's user may write")]
    finally:
        for name in reversed(made):
            with suppress(OSError):  # in use by somebody else meanwhile
                os.rmdir(name)
    return []


def _make(folder: str, made: list[str]) -> None:
    missing = []
    current = os.path.normpath(folder)
    while not os.path.lexists(current):
        missing.append(current)
        current = os.path.dirname(current)
    for name in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(name)
            made.append(name)


def _write_probe(folder: str) -> None:
    probe = os.path.join(folder, f".phalanx-preflight-{secrets.token_hex(8)}")
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, b"phalanx")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        os.unlink(probe)


def main() -> int:
    """Entry point; the answer is the last line of standard output, after whatever foreign code printed."""
    match sys.argv[1:]:
        case ["workload", module, path]:
            found = check_workload(module, path)
        case ["code", module, archive, digest, scratch]:
            found = check_code(module, archive, digest, scratch)
        case ["folder", folder]:
            found = check_folder(folder)
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)  # threads or exit handlers of foreign packages must not hold up the answer


if __name__ == "__main__":
    sys.exit(main())
