"""What a shell offers at Tab: kinds, and the names that the site has now.

A controller that does not answer at once offers nothing: a shell must not hang, and an error has no place there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from cli.catalogue import COMMANDS
from cli.grammar import Group

if TYPE_CHECKING:
    from cli.client import Client

LIMIT_S = 1.0
MAX_OFFERED = 500


def answer_shell(build: Callable[..., Group]) -> int:
    """Answers the shell's completion function, which asks through the environment. Errors stay silent.

    The first word is completed from the table of commands; for the others the command's module is loaded.
    """
    words = os.environ.get("COMP_WORDS", "").split()
    named = words[1] if len(words) > 1 else ""
    (build(named) if named in COMMANDS else _overview())([])
    return 0


def _overview() -> Group:
    """Every command by name only, while its name is being typed."""
    tree = Group("")
    for entry in COMMANDS.values():
        tree.click.add_command(click.Command(entry.name, short_help=entry.summary))
    return tree


def kinds(incomplete: str) -> list[str]:
    """Kinds that `get` knows."""
    from cli.kinds import KINDS  # noqa: PLC0415

    return [kind for kind in KINDS if kind.startswith(incomplete)]


def names_of_kind(ctx: Any, incomplete: str) -> list[str]:
    """Names of the kind that was typed before."""
    from cli.errors import CliError  # noqa: PLC0415
    from cli.kinds import kind_named  # noqa: PLC0415

    try:
        kind = kind_named(str(ctx.params.get("kind", "")))
    except CliError:
        return []
    ask = _ASKED.get(kind)
    return _offered(ask, ctx, incomplete) if ask else []


def job_names(ctx: Any, incomplete: str) -> list[str]:
    """Jobs."""
    return _offered(_jobs, ctx, incomplete)


def node_names(ctx: Any, incomplete: str) -> list[str]:
    """Nodes."""
    return _offered(_nodes, ctx, incomplete)


def _offered(ask: Callable[[Client], Sequence[str]], ctx: Any, incomplete: str) -> list[str]:
    import grpc  # noqa: PLC0415

    from cli.errors import CliError  # noqa: PLC0415
    from cli.options import SiteChoice  # noqa: PLC0415

    given = {name: value for name in ("address", "directory", "context") if (value := ctx.params.get(name))}
    try:
        with SiteChoice(**given).connect() as client:
            names = ask(client)
    except (CliError, grpc.RpcError):
        return []
    return [name for name in names if name.startswith(incomplete)][:MAX_OFFERED]


def _jobs(client: Client) -> Sequence[str]:
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    return [job.name for job in client.jobs.ListJobs(job_pb2.ListJobsRequest(), timeout=LIMIT_S).jobs]


def _nodes(client: Client) -> Sequence[str]:
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    answer = client.fleet.ListNodes(fleet_pb2.ListNodesRequest(columns=True), timeout=LIMIT_S)
    return list(answer.columns.names) or [node.name for node in answer.nodes]


def _checkpoints(client: Client) -> Sequence[str]:
    from phalanx.v1 import checkpoint_pb2  # noqa: PLC0415

    request = checkpoint_pb2.ListCheckpointsRequest()
    return [item.id for item in client.checkpoints.ListCheckpoints(request, timeout=LIMIT_S).checkpoints]


_ASKED = {"jobs": _jobs, "nodes": _nodes, "checkpoints": _checkpoints}
