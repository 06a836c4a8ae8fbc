"""Units for systemd."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cli import render
from cli.errors import CliError, Exit
from cli.grammar import Group, Option
from cli.systemd.units import Place, Role, files


def register(app: Group) -> None:
    """Adds the command."""
    app.command(epilog="Example: phalanx systemd --role node-agent -o units")(systemd)


def systemd(
    *,
    role: Annotated[Role, Option(help="What this machine is.")],
    output: Annotated[Path | None, Option("--output", "-o", help="Folder to write to; default: print.")] = None,
    user: Annotated[str, Option(help="User that runs it; ranks and their node agent share one.")] = "phalanx",
    shared: Annotated[str, Option(help="Where the storage is mounted that every node shares.")] = "/shared",
) -> None:
    """Write systemd units and their environment files. Nothing is installed: docs/operating.md says where they go."""
    texts = files(role, Place(user=user, shared=shared))
    if output is None:
        for name, text in texts.items():
            render.out(f"# --- {name}")
            render.out(text.rstrip())
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            path = output / name
            if path.exists() and path.read_text(encoding="utf-8") != text:
                raise CliError(
                    f"{path} exists and is different", fix="remove it, or name another folder", code=Exit.CONFLICT
                )
            path.write_text(text, encoding="utf-8")
            render.out(str(path))
    except OSError as error:
        raise CliError(f"cannot write to {output}", why=str(error.strerror), fix="name another folder") from error
