"""Nodes: cordon and uncordon."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import render
from cli.client import CALL_TIMEOUT_S, connect, new_request_id
from cli.options import DEFAULT_DIRECTORY, Address, Directory

OWNER = "operator"
"""The owner of reasons set here; a reason is removed by its owner only."""

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(cordon)
    app.command()(uncordon)


def cordon(
    name: NodeName,
    reason: Annotated[str, typer.Option(help="Why; shown with the node.")],
    address: Address = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Keep new work off a node."""
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    with connect(address, directory) as client:
        request = fleet_pb2.CordonNodeRequest(request_id=new_request_id(), name=name, owner=OWNER, reason=reason)
        answer = client.fleet.CordonNode(request, timeout=CALL_TIMEOUT_S)
        render.out(f"{name} cordoned at revision {answer.revision}")


def uncordon(name: NodeName, address: Address = None, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Remove the operator's reason from a node; reasons of other owners stay."""
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    with connect(address, directory) as client:
        request = fleet_pb2.UncordonNodeRequest(request_id=new_request_id(), name=name, owner=OWNER)
        answer = client.fleet.UncordonNode(request, timeout=CALL_TIMEOUT_S)
        render.out(f"{name} uncordoned at revision {answer.revision}")
