"""Contexts: ls, use, set, rm."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cli import render
from cli.contexts import Context, Contexts, contexts_path, no_such_context, read_contexts, write_contexts
from cli.errors import CliError, Exit
from cli.grammar import Argument, Group, Option
from cli.options import Output, OutputForm

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ADDRESS = re.compile(r"[^\s,/]+:[0-9]{1,5}(,[^\s,/]+:[0-9]{1,5})*")


def _names(incomplete: str) -> list[str]:
    try:
        return [name for name in read_contexts().known if name.startswith(incomplete)]
    except CliError:
        return []


Name = Annotated[str, Argument(metavar="NAME", autocompletion=_names)]


def register(app: Group) -> None:
    """Adds the group."""
    group = Group("Named sites, so that commands need no --address.")
    app.add_group(group, name="context")
    group.command(epilog="Example: phalanx context ls")(ls)
    group.command(epilog="Example: phalanx context use production")(use)
    group.command(
        name="set",
        epilog="Example: phalanx context set production --address ctl-1:7711,ctl-2:7711 --identity ~/.phalanx/production",
    )(set_)
    group.command(epilog="Example: phalanx context rm production")(rm)


def ls(*, output: OutputForm = Output.TABLE) -> None:
    """List contexts; `*` marks the one in use."""
    contexts = read_contexts()
    if output in (Output.JSON, Output.YAML):
        rows = [
            {"name": name, "current": name == contexts.current, **asdict(one)} for name, one in contexts.known.items()
        ]
        render.document(rows, output.value)
    elif output is Output.NAME:
        render.lines(contexts.known)
    elif contexts.known:
        cells = [
            ["*" if name == contexts.current else "", name, one.address, one.identity or "-"]
            for name, one in contexts.known.items()
        ]
        render.table(("", "NAME", "ADDRESS", "IDENTITY"), cells)
    else:
        render.note(f"no contexts yet in {contexts_path()}")


def use(name: Name) -> None:
    """Use a context from now on. Where --address, PHALANX_ADDRESS or --context say otherwise, they win."""
    contexts = read_contexts()
    if name not in contexts.known:
        raise no_such_context(name, contexts)
    write_contexts(Contexts(name, contexts.known))
    render.note(f"using {name}: {contexts.known[name].address}")


def set_(
    name: Name,
    *,
    address: Annotated[str, Option(help="Controllers, HOST:PORT joined by commas.")] = "",
    identity: Annotated[
        str, Option(help="Folder with identity.key, identity.pem and ca.pem; `none` for no identity.")
    ] = "",
) -> None:
    """Add a context or change one. The first one is used at once."""
    contexts = read_contexts()
    before = contexts.known.get(name)
    if not _NAME.fullmatch(name):
        fix = "use letters, digits, `.`, `_` and `-`, at most 63"
        raise CliError(f"`{name}` is no name for a context", fix=fix, code=Exit.USAGE)
    if not (address or before):
        raise CliError("a new context needs an address", fix="add --address HOST:PORT", code=Exit.USAGE)
    if address and not _ADDRESS.fullmatch(address):
        raise CliError(f"`{address}` is no address", fix="write HOST:PORT, or HOST:PORT,HOST:PORT", code=Exit.USAGE)
    kept = before or Context("")
    folder = str(Path(identity).expanduser().resolve()) if identity and identity != "none" else ""
    made = Context(address or kept.address, folder if identity else kept.identity)
    write_contexts(Contexts(contexts.current or name, {**contexts.known, name: made}))
    render.note(f"{name} {'changed' if before else 'added'}: {made.address}")


def rm(name: Name) -> None:
    """Remove a context. The identity's folder stays."""
    contexts = read_contexts()
    if name not in contexts.known:
        raise no_such_context(name, contexts)
    left = {key: one for key, one in contexts.known.items() if key != name}
    write_contexts(Contexts("" if contexts.current == name else contexts.current, left))
    render.note(f"{name} removed")
