"""Nodes out of service and back: cordon, uncordon, drain; and out for good: retire."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S, Client, new_request_id, status_of
from cli.completing import node_names
from cli.confirm import Yes, agreed
from cli.durations import Timeout, Wait
from cli.errors import CliError, Exit
from cli.grammar import Argument, Group, Option
from cli.names import node_names_of
from cli.options import SiteChoice, for_site

POLL_S = 0.5

NodeNames = Annotated[
    list[str],
    Argument(metavar="NODE...", help="Names; ranges as node-[1-4,7].", autocompletion=node_names),
]
Owner = Annotated[str, Option(help="Whose reason it is; only the same owner removes it. Default: your own name.")]
Reason = Annotated[str, Option(help="Why; shown with the node.")]


def register(app: Group) -> None:
    """Adds the commands."""
    app.command(epilog="Example: phalanx cordon 'node-[1-4]' --reason 'fan replacement'")(cordon)
    app.command(epilog="Example: phalanx uncordon 'node-[1-4]'")(uncordon)
    app.command(epilog="Example: phalanx drain node-7 --reason 'fan replacement' --wait --yes")(drain)
    app.command(epilog="Example: phalanx retire node-7 --reason 'sent back' --yes")(retire)


@for_site
def cordon(names: NodeNames, *, reason: Reason, owner: Owner = "", site: SiteChoice) -> None:
    """Keep new work off nodes. What runs there goes on."""
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    with site.connect() as client:

        def one(name: str) -> str:
            request = fleet_pb2.CordonNodeRequest(request_id=new_request_id(), name=name, owner=owner, reason=reason)
            return f"{name} cordoned at revision {client.fleet.CordonNode(request, timeout=CALL_TIMEOUT_S).revision}"

        _each(client, node_names_of(names), one)


@for_site
def uncordon(names: NodeNames, *, owner: Owner = "", site: SiteChoice) -> None:
    """Remove one owner's reason from nodes; reasons of other owners stay."""
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    with site.connect() as client:

        def one(name: str) -> str:
            request = fleet_pb2.UncordonNodeRequest(request_id=new_request_id(), name=name, owner=owner)
            return (
                f"{name} uncordoned at revision {client.fleet.UncordonNode(request, timeout=CALL_TIMEOUT_S).revision}"
            )

        _each(client, node_names_of(names), one)


def _each(client: Client, names: Sequence[str], act: Callable[[str], str]) -> None:
    """Acts on every node, also after one that was refused; then fails as the first refusal would have."""
    import grpc  # noqa: PLC0415

    from cli.client import translate  # noqa: PLC0415

    refused: dict[str, CliError] = {}
    for name in names:
        try:
            render.out(act(name))
        except grpc.RpcError as error:
            refused[name] = translate(error, client.address)
            if len(names) == 1 or status_of(error) == "UNAVAILABLE":
                raise refused[name] from error
    if refused:
        first = next(iter(refused.values()))
        details = tuple(f"{name}: {error.what}" for name, error in refused.items())
        raise CliError(f"{len(refused)} of {len(names)} nodes were refused", details=details[:20], code=first.code)


@for_site
def drain(
    names: NodeNames,
    *,
    reason: Reason,
    owner: Owner = "",
    wait: Wait = False,
    timeout: Timeout = 600.0,
    yes: Yes = False,
    site: SiteChoice,
) -> None:
    """Cordon nodes and move their ranks elsewhere. `uncordon` takes them back."""
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    wanted = node_names_of(names)
    with site.connect() as client:
        agreed(*_plan(client, wanted), yes=yes)

        def one(name: str) -> str:
            request = fleet_pb2.DrainNodeRequest(request_id=new_request_id(), name=name, owner=owner, reason=reason)
            answer = client.fleet.DrainNode(request, timeout=CALL_TIMEOUT_S)
            moves = f", moves ranks of {', '.join(answer.jobs)}" if answer.jobs else ", holds no rank"
            return f"{name} drains from revision {answer.revision}{moves}"

        _each(client, wanted, one)
        if wait:
            _wait_empty(client, wanted, timeout)


@for_site
def retire(names: NodeNames, *, reason: Reason, yes: Yes = False, site: SiteChoice) -> None:
    """Take empty nodes out for good: they count nowhere any more, and their names are never used again.

    A node that holds something is refused: drain it first.
    """
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    wanted = node_names_of(names)
    with site.connect() as client:
        many = f"{len(wanted)} nodes leave" if len(wanted) != 1 else f"{wanted[0]} leaves"
        agreed(f"{many} the site for good; nothing takes that back", yes=yes)

        def one(name: str) -> str:
            request = fleet_pb2.RetireNodeRequest(request_id=new_request_id(), name=name, reason=reason)
            return f"{name} retired at revision {client.fleet.RetireNode(request, timeout=CALL_TIMEOUT_S).revision}"

        _each(client, wanted, one)


def _plan(client: Client, names: Sequence[str]) -> list[str]:
    """What draining would move, said before it is done."""
    held = _jobs_on(client, names)
    jobs = sorted({job for name in names for job in held[name]})
    nodes = f"{len(names)} nodes take" if len(names) != 1 else f"{names[0]} takes"
    if not jobs:
        return [f"{nodes} no new work; no rank is there"]
    return [f"{nodes} no new work; ranks of {', '.join(jobs)} move elsewhere, one new generation for each job"]


def _jobs_on(client: Client, names: Sequence[str]) -> dict[str, list[str]]:
    from cli.kinds import nodes  # noqa: PLC0415
    from cli.listing import Selection  # noqa: PLC0415

    found = nodes(client, full=False)
    jobs = found.table["JOBS"]
    return {
        found.names[row]: [] if jobs[row] == "-" else jobs[row].split(",")
        for row in found.select(Selection(tuple(names)))
    }


def _wait_empty(client: Client, names: Sequence[str], timeout_s: float | None) -> None:
    end = None if timeout_s is None else time.monotonic() + timeout_s
    busy = list(names)
    while busy:
        held = _jobs_on(client, names)
        done = [name for name in busy if not held[name]]
        for name in done:
            render.out(f"{name} is empty")
        busy = [name for name in busy if held[name]]
        if busy and end is not None and time.monotonic() > end:
            waits = "; ".join(f"{name}: {', '.join(held[name])}" for name in busy[:5])
            raise CliError(
                f"{len(busy)} of {len(names)} nodes still hold ranks after {timeout_s:g} s",
                why=waits,
                fix="it goes on; `phalanx why node NAME` says what it waits for",
                code=Exit.TIMED_OUT,
            )
        if busy:
            time.sleep(POLL_S)
