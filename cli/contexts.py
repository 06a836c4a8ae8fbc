"""Contexts: named sites in a file of the user's own, so that commands need no --address. No secret is in it, only where
the identity's folder is.

The file is `$XDG_CONFIG_HOME/phalanx/contexts.json` (default `~/.config`), mode 0600, replaced whole.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cli.errors import CliError, Exit

CONTEXT_VARIABLE = "PHALANX_CONTEXT"
MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Context:
    """One site: its controllers' addresses joined by commas, and the folder with the identity to show there ("": none)."""

    address: str
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the file says. `current` is "" when none is in use."""

    current: str = ""
    known: dict[str, Context] = field(default_factory=dict)


def contexts_path() -> Path:
    """Where the file is."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "phalanx" / "contexts.json"


def read_contexts() -> Contexts:
    """The contexts; none when there is no file, an error when it is damaged."""
    path = contexts_path()
    try:
        with path.open(encoding="utf-8") as file:
            document = json.loads(file.read(MAX_BYTES))
        known = {
            str(name): Context(str(one["address"]), str(one["identity"])) for name, one in document["contexts"].items()
        }
        return Contexts(str(document["current"]), known)
    except FileNotFoundError:
        return Contexts()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CliError(f"cannot read {path}", why=str(error), fix="correct it, or remove it") from error


def write_contexts(contexts: Contexts) -> None:
    """Replaces the file; a crash leaves the old one or the new one."""
    path = contexts_path()
    body = {
        "current": contexts.current,
        "contexts": {name: asdict(one) for name, one in sorted(contexts.known.items())},
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(body, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise CliError(f"cannot write {path}", why=str(error), fix="check the folder's owner and free space") from error


def chosen_context(name: str) -> Context:
    """The context of a name; a `CliError` (not found) with the nearest name."""
    contexts = read_contexts()
    if name not in contexts.known:
        raise no_such_context(name, contexts)
    return contexts.known[name]


def no_such_context(name: str, contexts: Contexts) -> CliError:
    """There is no context of that name; names the ones that there are."""
    import difflib  # noqa: PLC0415

    near = difflib.get_close_matches(name, contexts.known, n=1)
    fix = f"did you mean `{near[0]}`?" if near else "`phalanx context ls` lists them, `phalanx context set` adds one"
    return CliError(f"there is no context `{name}`", fix=fix, code=Exit.NOT_FOUND)
