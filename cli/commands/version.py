"""`phalanx version`: of this command, of the controller and of the agents, and whether they may work together."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S
from cli.errors import CliError
from cli.grammar import Group, Option
from cli.options import Output, OutputForm, SiteChoice, for_site
from cli.versions import own_version
from controlplane.core.versions import Skew, fix, skew

if TYPE_CHECKING:
    from cli.client import Client


def register(app: Group) -> None:
    """Adds the command."""
    app.command(epilog="Example: phalanx version -o json")(version)


@for_site
def version(
    *,
    client_only: Annotated[bool, Option("--client", help="Ask no controller.")] = False,
    output: OutputForm = Output.TABLE,
    site: SiteChoice,
) -> None:
    """Print the versions of this command, of the controller and of the agents; a skew is shown, and is no error."""
    found: dict[str, object] = {"client": own_version(), "controller": None, "agents": {}}
    if not client_only:
        try:
            with site.connect() as client:
                found |= _of_site(client)
        except CliError as error:  # the answer that is asked for is there all the same
            render.note(f"nothing to compare with: {error.what}")
    if output in (Output.JSON, Output.YAML):
        render.document(found, output.value)
        return
    render.out(f"phalanx {found['client']}")
    if found["controller"]:
        agents = found["agents"]
        assert isinstance(agents, dict)
        render.out(f"controller {found['controller']} at {found['address']}, epoch {found['epoch']}")
        for agent, count in agents.items():
            render.out(f"agents {agent}: {count}{_skew(agent, str(found['controller']))}")
        if skew := _skew(str(found["client"]), str(found["controller"])):
            render.note(f"this command {found['client']}{skew}")


def _of_site(client: Client) -> dict[str, object]:
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    from cli.kinds import nodes  # noqa: PLC0415

    site = client.fleet.GetSite(fleet_pb2.GetSiteRequest(), timeout=CALL_TIMEOUT_S)
    agents = Counter(nodes(client, full=False).wide["AGENT"])
    return {
        "controller": site.version,
        "address": client.address,
        "epoch": int(site.epoch),
        "agents": dict(sorted(agents.items())),
    }


def _skew(version: str, controller: str) -> str:
    match skew(controller, version):
        case Skew.SAME:
            return ""
        case Skew.SUPPORTED:
            return "  (one minor version apart: supported)"
        case Skew.UNSUPPORTED:
            return f"  (not supported: {fix(controller, version)})"
        case Skew.UNKNOWN:
            return "  (not comparable)"
