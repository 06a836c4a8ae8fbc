"""A site on this machine: up, down."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Annotated

from cli import render
from cli.client import connect
from cli.commands import policy_site
from cli.errors import CliError, Exit
from cli.grammar import Group, Option
from cli.options import DEFAULT_DIRECTORY, Directory
from cli.site import read_site
from cli.supervisor.launch import bring_up, take_down, trust, wait_ready
from cli.supervisor.layout import SiteOptions, is_free

READY_TIMEOUT_S = 120.0
DEFAULT_PORT = 7711
PORT_HELP = "The controller's port, which must be free; 0: 7711, or another when that is taken."


def register(app: Group) -> None:
    """Adds the commands."""
    app.command(epilog="Example: phalanx up --nodes 8 --accelerators 4")(up)
    app.command(epilog="Example: phalanx down --dir .phalanx/site")(down)


def up(
    *,
    directory: Directory = DEFAULT_DIRECTORY,
    nodes: Annotated[int, Option(min=1, max=64, help="Nodes to start, all on this machine.")] = 4,
    accelerators: Annotated[int, Option(min=0, max=64, help="Simulated accelerators on each.")] = 2,
    port: Annotated[int, Option(min=0, max=65535, help=PORT_HELP)] = 0,
    detach: Annotated[bool, Option("--detach/--foreground", help="Return when ready, or stay until ended.")] = True,
    no_cell: Annotated[bool, Option("--no-cell", help="No Ray cell: nodes are shown, but run no ranks.")] = False,
    plaintext: Annotated[bool, Option("--plaintext", help="No TLS and no identities, on loopback.")] = False,
    controllers: Annotated[int, Option(min=1, max=3, help="One leads, the others stand by.")] = 1,
    journal: Annotated[str, Option(help="postgresql://user@host/database; default: SQLite in the folder.")] = "",
    journal_password_file: Annotated[str, Option(help="Password for PostgreSQL, mode 0600.")] = "",
    policy: Annotated[Path | None, Option(help="Limits of decisions (`phalanx policy check` reads it first).")] = None,
    timeout: Annotated[float, Option(help="Seconds until the site must be ready.")] = READY_TIMEOUT_S,
) -> None:
    """Start a site on this machine: controller, node agents, Ray cell, and a supervisor that restarts what dies."""
    if policy is not None:
        policy_site.read(policy)
    options = SiteOptions(
        directory,
        nodes,
        accelerators,
        _free(port, directory) if port else DEFAULT_PORT,
        with_cell=not no_cell,
        end_with_parent=not detach,
        plaintext=plaintext,
        controllers=controllers,
        journal=journal,
        journal_password_file=journal_password_file,
        policy="" if policy is None else str(policy.resolve()),
    )
    signal.signal(signal.SIGTERM, _interrupt)
    supervisor = start_site(options, timeout)
    if not detach:
        _stay(supervisor, directory)


def start_site(options: SiteOptions, timeout_s: float) -> subprocess.Popen[bytes]:
    """Starts a site, waits until it is ready and returns its supervisor; on failure nothing of it is left."""
    directory = options.directory
    render.note(f"starting a site in {directory}")
    try:
        plan, supervisor = bring_up(options, render.note)
        address = plan.site["address"]
        if f":{options.port}" not in address:
            render.note(
                f"  port {options.port} is taken by another process (another site?): this one listens at {address}"
            )
        with connect(address, directory, **trust(options)) as client:
            wait_ready(plan, supervisor, client, timeout_s, render.note)
    except (CliError, KeyboardInterrupt) as error:
        if not (isinstance(error, CliError) and error.code == Exit.CONFLICT):
            take_down(directory, render.note)
        raise
    render.note(f"ready: {options.nodes} nodes, {options.nodes * options.accelerators} accelerators, {address}")
    return supervisor


def _free(port: int, directory: Path) -> int:
    """A port that was asked for by number: another one would not be what scripts and firewalls expect."""
    site = read_site(directory)
    if site is None and not is_free(port):
        why = "another process listens there; `ss -ltnp` names it"
        raise CliError(f"port {port} is taken", why=why, fix="choose another --port, or none", code=Exit.CONFLICT)
    return port


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _stay(supervisor: subprocess.Popen[bytes], directory: Path) -> None:
    """Waits for the supervisor; our end is its end."""
    try:
        code = supervisor.wait()
    except KeyboardInterrupt:
        render.note("ending the site")
        take_down(directory, render.note)
        supervisor.wait()
        return
    if code != 0:  # killed; an orderly end (`phalanx down`) has left nothing, and the folder may be in use again
        take_down(directory, render.note)
        raise CliError(f"the supervisor ended with {code}", fix=f"look at {directory}/supervisor.log")


def down(directory: Directory = DEFAULT_DIRECTORY) -> None:
    """End every process of the site, also after its supervisor was killed. The journal and checkpoints stay."""
    if not directory.is_dir():
        raise CliError(
            f"there is no site in {directory}", why="there is no such folder", fix="pass its --dir", code=Exit.NOT_FOUND
        )
    take_down(directory, render.note)
    render.note(f"nothing of {directory} runs any more")
