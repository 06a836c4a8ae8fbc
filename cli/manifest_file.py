"""Manifest files: YAML to a specification, every violation with the line it stands on."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cli.code import PackedFolder, take_folder
from cli.errors import CliError, Exit, ManifestRefused
from controlplane.core.manifest import parse_manifest
from controlplane.core.spec import JobSpec, RestartPolicy

if TYPE_CHECKING:
    from yaml.nodes import Node

MAX_BYTES = 1024 * 1024


class Flaw(Protocol):
    """A violation, ours or the server's message."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def fix(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A file that was read and holds no violation that can be seen here."""

    name: str
    spec: JobSpec
    root: Node
    code: PackedFolder | None = None

    def refuse(self, flaws: tuple[Flaw, ...]) -> ManifestRefused:
        """The error for violations that the server found, with this file's lines."""
        return _refusal(self.name, self.root, flaws)

    def placed(self, flaws: Iterable[Flaw]) -> tuple[str, ...]:
        """What the server remarked, with this file's lines."""
        return _placed(self.name, self.root, tuple(flaws))


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A YAML document, and the places in it that YAML reads otherwise than people do."""

    name: str
    root: Node
    document: object
    misread: tuple[Flaw, ...]
    base: Path


def read_manifest(path: str) -> ManifestFile:
    """Reads and checks a file (`-`: standard input). Raises `ManifestRefused` with all problems at once."""
    loaded = _load(path)
    _absolute(loaded.document, loaded.base)
    code, unpackable = take_folder(loaded.document, loaded.base)
    parsed = parse_manifest(loaded.document)
    told = {flaw.path for flaw in loaded.misread}
    flaws = (*loaded.misread, *unpackable, *(flaw for flaw in parsed.violations if flaw.path not in told))
    if parsed.spec is None or flaws:
        raise _refusal(loaded.name, loaded.root, flaws)
    return ManifestFile(loaded.name, parsed.spec, loaded.root, code)


def read_policy(path: str) -> tuple[RestartPolicy, tuple[str, ...]]:
    """The `restartPolicy` of a file, alone or of a whole manifest, and warnings about it with their lines. Raises
    `ManifestRefused` with all problems at once."""
    from controlplane.core.manifest_restart import parse_policy  # noqa: PLC0415
    from controlplane.core.recovery.review import review_policy  # noqa: PLC0415

    loaded = _load(path)
    policy, violations = parse_policy(loaded.document)
    flaws = (*loaded.misread, *violations)
    if policy is None or flaws:
        raise _refusal(loaded.name, loaded.root, flaws)
    alone = isinstance(loaded.document, dict) and "restartPolicy" in loaded.document
    warnings = review_policy(policy, "restartPolicy" if alone else "spec.restartPolicy")
    return policy, _placed(loaded.name, loaded.root, warnings)


def _load(path: str) -> _Loaded:
    import yaml  # noqa: PLC0415 - not needed by most commands

    from cli.yaml_pitfalls import check_extent, hint, pitfalls  # noqa: PLC0415

    name, text, base = _read(path)
    try:
        check_extent(name, text)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            raise ManifestRefused((f"{name}:1: the file is empty. write a TrainingJob manifest",))
        misread = pitfalls(root)
        document = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or error.context or "is no YAML"
        raise ManifestRefused((f"{name}:{line}: {problem}. {hint(problem)}",)) from error
    except yaml.YAMLError as error:  # the reader's errors, for example control characters
        raise ManifestRefused((f"{name}:1: {' '.join(str(error).split())}. correct the YAML",)) from error
    except (RecursionError, ValueError) as error:  # nesting without end; a date like 2020-99-99
        raise ManifestRefused((f"{name}:1: {error}. correct the YAML",)) from error
    return _Loaded(name, root, document, tuple(misread), base)


def _read(path: str) -> tuple[str, str, Path]:
    try:
        if path == "-":
            text = sys.stdin.read(MAX_BYTES + 1)
            if len(text) > MAX_BYTES:
                raise CliError("standard input is larger than 1 MiB", fix="is this a manifest?", code=Exit.USAGE)
            return "stdin", text, Path.cwd()
        file = Path(path)
        if file.stat().st_size > MAX_BYTES:
            raise CliError(f"{path} is larger than 1 MiB", fix="is this a manifest?", code=Exit.USAGE)
        return path, file.read_text(encoding="utf-8"), file.resolve().parent
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CliError(f"cannot read {path}", why=str(reason), fix="check the path", code=Exit.USAGE) from error


def _absolute(document: object, base: Path) -> None:
    """Folders in a file are relative to the file, as its author sees them; the site only takes full paths."""
    for section, field in (("workload", "path"), ("checkpoint", "folder")):
        spec = document.get("spec") if isinstance(document, dict) else None
        values = spec.get(section) if isinstance(spec, dict) else None
        if (
            isinstance(values, dict)
            and isinstance(values.get(field), str)
            and values[field]
            and values[field].isprintable()
        ):
            values[field] = str((base / values[field]).resolve())


def _refusal(name: str, root: Node, flaws: tuple[Flaw, ...]) -> ManifestRefused:
    return ManifestRefused(_placed(name, root, flaws))


def _placed(name: str, root: Node, flaws: tuple[Flaw, ...]) -> tuple[str, ...]:
    placed = sorted(
        ((line_of(root, flaw.path), index, flaw) for index, flaw in enumerate(flaws)), key=lambda at: at[:2]
    )
    return tuple(f"{name}:{line}: {_sentence(flaw)}" for line, _, flaw in placed)


def _sentence(flaw: Flaw) -> str:
    reason = f"{flaw.path}: {flaw.reason}" if flaw.path else flaw.reason
    return f"{reason}. {flaw.fix}" if flaw.fix else reason


def line_of(root: Node, path: str) -> int:
    """The line of a field, or of the nearest section around it when the field is not there."""
    from yaml.nodes import MappingNode, ScalarNode, SequenceNode  # noqa: PLC0415

    node, rest, line = root, path, root.start_mark.line + 1
    while rest:
        if isinstance(node, MappingNode):
            for key, value in node.value:
                text = key.value if isinstance(key, ScalarNode) else None
                if text is not None and (rest == text or (rest.startswith(text) and rest[len(text)] in ".[")):
                    node, rest, line = value, rest[len(text) :].removeprefix("."), key.start_mark.line + 1
                    break
            else:
                return line
        elif isinstance(node, SequenceNode) and rest.startswith("["):
            index, _, rest = rest[1:].partition("]")
            if not index.isdecimal() or int(index) >= len(node.value):
                return line
            node, rest = node.value[int(index)], rest.removeprefix(".")
            line = node.start_mark.line + 1
        else:
            return line
    return line
