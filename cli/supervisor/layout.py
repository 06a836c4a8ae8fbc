"""The folders, ports and units of a site on one machine, as docs/design/0003-processes.md fixes them."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from agents.node.config import memory_folder
from cli.errors import CliError
from cli.supervisor.plan import Plan, Unit
from cli.supervisor.processes import NODE_MARKER
from cli.supervisor.ray_cell import AGENT_UNIT, GCS_UNIT, HEAD_UNIT, LOOPBACK, Cell

NODES_PER_RACK = 2
CELL = "cell-1"
PLAINTEXT = ("--plaintext",)
CONTROLLER_UNIT = "controller"
STORE_UNIT = "store"

# Ports that nobody asked for are taken from here: below Linux's range for outgoing connections, so that no connection
# of our own can sit on a port between the choice and the start of its server.
PORT_RANGE = (20_000, 30_000)


@dataclass(frozen=True, slots=True)
class SiteOptions:
    """What the user chose for `up`."""

    directory: Path
    nodes: int = 4
    accelerators: int = 2
    port: int = 7711
    with_cell: bool = True
    end_with_parent: bool = False
    plaintext: bool = False
    controllers: int = 1
    journal: str = ""
    journal_password_file: str = ""
    policy: str = ""


def agent_unit(node: str) -> str:
    """Name of the unit that is a node's agent."""
    return f"agent-{node}"


def run_folder(directory: Path) -> Path:
    """The run folder of a site folder: the same every time, so that leftovers of a killed run are found by it."""
    digest = hashlib.sha256(f"{os.getuid()}:{directory.resolve()}".encode()).hexdigest()
    return Path(f"/tmp/phx-{digest[:8]}")


def make_run_folder(run: Path) -> None:
    """Creates the run folder, or refuses one that somebody else prepared."""
    try:
        run.mkdir(mode=0o700)
    except FileExistsError:
        found = run.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            why = "it exists and is not a private folder of yours"
            raise CliError(f"cannot use {run}", why=why, fix="remove it, or use another --dir") from None


def choose_ports(first: int, count: int) -> tuple[int, ...]:
    """Free loopback ports: the asked one when it is free, the others (and its substitute) from a quiet range."""
    chosen = [first] if is_free(first) else []
    for candidate in random.Random().sample(range(*PORT_RANGE), 2000):
        if len(chosen) == count:
            return tuple(chosen)
        if is_free(candidate):
            chosen.append(candidate)
    raise CliError("no free ports", why=f"2000 ports between {PORT_RANGE[0]} and {PORT_RANGE[1]} are taken")


def is_free(port: int) -> bool:
    """Whether nobody listens on a loopback port."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
        try:
            one.bind((LOOPBACK, port))
            one.listen(1)
        except OSError:
            return False
    return True


def make_plan(options: SiteOptions, run: Path) -> Plan:
    """Chooses ports and describes every process of the site. Creates the folders that units do not make themselves."""
    directory = options.directory.resolve()
    first, store, gcs, *more = choose_ports(options.port, 2 + 3 * options.controllers)
    ports = [(first, more[0], more[1]), *zip(*[iter(more[2:])] * 3, strict=True)]
    places = [_Place.of(number, *three) for number, three in enumerate(ports, start=1)]
    controller, join = (",".join(place.listen for place in places), ",".join(place.join for place in places))
    security = None if options.plaintext else Security(directory / "pki", join, directory / "cell" / "identity")
    cell = Cell(run / "ray", directory / "cell", gcs)
    nodes = {f"node-{number}": _Node.at(directory, run, number) for number in range(1, options.nodes + 1)}
    (directory / "shared" / "checkpoints").mkdir(parents=True, exist_ok=True)
    units = [
        *(_controller(directory, place, options, security) for place in places),
        _store(directory, f"{LOOPBACK}:{store}"),
        *(_agent(node, controller, options.accelerators, security) for node in nodes.values()),
    ]
    if options.with_cell:
        cell.prepare()
        units += cell.units({name: node.environment for name, node in nodes.items()})
        units.append(_cell_agent(cell, controller, f"{LOOPBACK}:{store}", security))
    return Plan(
        directory=str(directory),
        run=str(run),
        units=tuple(units),
        node_paths={
            name: (*node.paths, str(cell.folder_of(name)), str(memory_folder(node.folder)))
            for name, node in nodes.items()
        },
        end_with_parent=options.end_with_parent,
        site={
            "version": 1,
            "address": controller,
            "plaintext": options.plaintext,
            "identity": str(security.admin) if security else "",
            "join": security.join if security else "",
            "cell_identity": str(security.cell) if security and options.with_cell else "",
            "metrics": places[0].metrics,
            "store": f"{LOOPBACK}:{store}",
            "ray": cell.gcs if options.with_cell else "",
            "ray_token": str(cell.token) if options.with_cell else "",
            "cell": CELL if options.with_cell else "",
            "directory": str(directory),
            "shared": str(directory / "shared"),
            "accelerators_per_node": options.accelerators,
            "nodes": [
                {"name": name, "rack": node.rack, "folder": str(node.folder), "socket": str(node.socket)}
                for name, node in nodes.items()
            ],
        },
    )


@dataclass(frozen=True, slots=True)
class Security:
    """Where the site's authority lies, where agents join, and where the cell agent keeps its identity."""

    pki: Path
    join: str
    cell: Path

    @property
    def admin(self) -> Path:
        """Identity of the administrator that `up` makes."""
        return self.pki / "admin"


@dataclass(frozen=True, slots=True)
class _Place:
    """The unit and the ports of one controller."""

    unit: str
    listen: str
    metrics: str
    join: str

    @staticmethod
    def of(number: int, listen: int, metrics: int, join: int) -> _Place:
        unit = CONTROLLER_UNIT if number == 1 else f"{CONTROLLER_UNIT}-{number}"
        return _Place(unit, *(f"{LOOPBACK}:{port}" for port in (listen, metrics, join)))


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    rack: str
    folder: Path
    socket: Path

    @staticmethod
    def at(directory: Path, run: Path, number: int) -> _Node:
        name = f"node-{number}"
        rack = f"r{(number - 1) // NODES_PER_RACK + 1}"
        return _Node(name, rack, directory / "nodes" / name, run / f"{name}.sock")

    @property
    def environment(self) -> tuple[tuple[str, str], ...]:
        return (
            (NODE_MARKER, self.name),
            ("PHALANX_NODE_SOCKET", str(self.socket)),
            ("PHALANX_NODE_DIR", str(self.folder)),
        )

    @property
    def paths(self) -> tuple[str, str]:
        return str(self.folder), str(self.socket)


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", module, *arguments)


def _controller(directory: Path, place: _Place, options: SiteOptions, security: Security | None) -> Unit:
    folder = directory / place.unit
    shared = directory / "shared" / "checkpoints"
    # One journal for all: in the first one's folder, unless there is a database.
    url = options.journal or f"sqlite:///{quote(str(directory / CONTROLLER_UNIT / 'journal.db'))}"
    where = ("--dir", str(folder), "--listen", place.listen, "--metrics", place.metrics, "--checkpoints", str(shared))
    journal = ("--journal", url, "--journal-password-file", options.journal_password_file, "--policy", options.policy)
    trust = ("--pki", str(security.pki), "--join", place.join) if security else PLAINTEXT
    return Unit(
        name=place.unit,
        argv=_python("controlplane", *where, *journal, *trust),
        log=str(folder / "controller.log"),
        folders=(str(folder), str(directory / CONTROLLER_UNIT)),
        probe=place.listen,
        stop_order=0,
    )


def _store(directory: Path, address: str) -> Unit:
    return Unit(
        name=STORE_UNIT,
        argv=_python("agents.cell.store", "--listen", address),
        log=str(directory / "cell" / "store.log"),
        probe=address,
        stop_order=7,
    )


def _agent(node: _Node, controller: str, accelerators: int, security: Security | None) -> Unit:
    place = ("--dir", str(node.folder), "--socket", str(node.socket), "--address", LOOPBACK)
    trust = () if security else PLAINTEXT
    kind = ("--label", f"rack={node.rack}", "--simulated-accelerators", str(accelerators))
    return Unit(
        name=agent_unit(node.name),
        argv=_python("agents.node", "--controller", controller, "--node", node.name, *place, *kind, *trust),
        log=str(node.folder / "agent.log"),
        environment=node.environment,
        folders=(str(node.folder),),
        node=node.name,
        after=(CONTROLLER_UNIT,),
        probe=f"unix:{node.socket}",
        stop_order=7,
    )


def _cell_agent(cell: Cell, controller: str, store: str, security: Security | None) -> Unit:
    place = ("--controller", controller, "--cell", CELL, "--ray-address", cell.gcs, "--store", store)
    trust = ("--identity", str(security.cell)) if security else PLAINTEXT
    return Unit(
        name=AGENT_UNIT,
        argv=_python("agents.cell", *place, *trust),
        log=str(cell.logs / "agent.log"),
        environment=cell.environment(),
        after=(CONTROLLER_UNIT, STORE_UNIT),
        needs=(GCS_UNIT, HEAD_UNIT),
        stop_order=1,
    )
