"""Where machines stand and what they share: super-pods, racks, switches, power feeds. From TOML or from a public topology."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path

from controlplane.sim.reading import BadScenario, unknown

MAX_NODES = 100_000
MAX_ACCELERATORS = 256

PUBLIC = {"lingjun-2023": "lingjun_2023_topology.csv"}
"""Topologies that come with the product, by name; see data/README.md for their sources."""
LINGJUN_COLUMNS = ("ip", "DSW", "PSW", "ASW")


@dataclass(frozen=True, slots=True)
class Place:
    """One machine and the failure domains that it stands in; "" where nothing is known of one."""

    name: str
    rack: str
    switch: str
    power: str
    superpod: str
    accelerators: int
    labels: tuple[tuple[str, str], ...] = ()

    def all_labels(self) -> tuple[tuple[str, str], ...]:
        """What its agent tells: the domains and the further labels, sorted."""
        domains = {"rack": self.rack, "switch": self.switch, "power": self.power, "superpod": self.superpod}
        return tuple(sorted({**{k: v for k, v in domains.items() if v}, **dict(self.labels)}.items()))


@dataclass(frozen=True, slots=True)
class Rack:
    """One rack with machines of one sort."""

    name: str
    nodes: int
    switch: str = ""
    power: str = ""
    superpod: str = ""
    accelerators: int = 8
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Topology:
    """A site, in one of three ways: regular (the counts), rack by rack (`racks`), or read from a `file` (a path to a CSV in the
    Lingjun format, or the name of a public topology).

    `racks_per_switch`, `racks_per_feed`: how many racks share one; 0: no such domain. `limit`: take only so many nodes
    (0: all). `nodes_per_relay` 0: agents talk to the controller themselves.
    """

    super_pods: int = 1
    racks_per_super_pod: int = 4
    nodes_per_rack: int = 8
    racks_per_switch: int = 2
    racks_per_feed: int = 4
    accelerators: int = 8
    labels: tuple[tuple[str, str], ...] = ()
    racks: tuple[Rack, ...] = ()
    file: str = ""
    limit: int = 0
    nodes_per_relay: int = 0

    def places(self) -> tuple[Place, ...]:
        """All machines, in order.

        Raises:
            BadScenario: a topology that cannot be; the message names what contradicts itself.
        """
        if self.racks and self.file:
            raise BadScenario("topology: `racks` and `file` exclude each other: choose one")
        if self.file:
            source = _from_file(self.file, self.accelerators, self.labels)
        else:
            source = _from_racks(self.racks) if self.racks else self._regular()
        found = tuple(islice(source, self.limit or MAX_NODES + 1))
        _check(found)
        return found

    def _regular(self) -> Iterator[Place]:
        for name in ("super_pods", "racks_per_super_pod", "nodes_per_rack"):
            if getattr(self, name) < 1:
                raise BadScenario(f"topology.{name}: a site without machines cannot be simulated, use at least 1")
        number = 0
        for rack in range(self.super_pods * self.racks_per_super_pod):
            for _ in range(self.nodes_per_rack):
                yield Place(
                    f"node-{number:04d}",
                    f"r{rack}",
                    f"sw{rack // self.racks_per_switch}" if self.racks_per_switch else "",
                    f"feed{rack // self.racks_per_feed}" if self.racks_per_feed else "",
                    f"pod{rack // self.racks_per_super_pod}",
                    self.accelerators,
                    self.labels,
                )
                number += 1


def _from_racks(racks: tuple[Rack, ...]) -> Iterator[Place]:
    number = 0
    for at, rack in enumerate(racks):
        if rack.nodes < 1:
            raise BadScenario(f"topology.racks[{at}].nodes: rack {rack.name} is empty, use at least 1 or leave it out")
        for _ in range(rack.nodes):
            yield Place(
                f"node-{number:04d}", rack.name, rack.switch, rack.power, rack.superpod, rack.accelerators, rack.labels
            )
            number += 1


def _from_file(file: str, accelerators: int, labels: tuple[tuple[str, str], ...]) -> Iterator[Place]:
    if file in PUBLIC:
        text = resources.files("controlplane.sim").joinpath("data", PUBLIC[file]).read_text()
    elif Path(file).is_file():
        try:
            text = Path(file).read_text(encoding="utf-8")
        except OSError as error:
            raise BadScenario(f"topology.file: {file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BadScenario(f"topology.file: {file} is not UTF-8 at byte {error.start}") from error
    elif "/" in file or file.endswith(".csv"):
        raise BadScenario(f"topology.file: no file is at {file}")
    else:
        raise unknown("topology.file", file, list(PUBLIC), "public topology")
    return lingjun(text, file, accelerators, labels)


def lingjun(text: str, place: str, accelerators: int = 8, labels: tuple[tuple[str, str], ...] = ()) -> Iterator[Place]:
    """Machines of a CSV in the format of the public Lingjun topology: `ip` (a hash), `DSW`, `PSW`, `ASW`.

    Hosts under one access switch (ASW, numbered anew under every pod switch) are a rack, a pod switch (PSW) is a switch, a
    core switch (DSW) a super-pod. Power feeds are not told.

    Raises:
        BadScenario: other columns, a line with missing values.
    """
    rows = csv.DictReader(text.splitlines())
    missing = [name for name in LINGJUN_COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise BadScenario(f"{place}:1: the columns {', '.join(missing)} are missing; ip,DSW,PSW,ASW are expected")
    for row in rows:
        empty = [name for name in LINGJUN_COLUMNS if not row[name]]
        if empty:
            raise BadScenario(f"{place}:{rows.line_num}: {', '.join(empty)} is empty")
        rack = f"{row['DSW']}-{row['PSW']}-{row['ASW']}"
        yield Place(f"host-{row['ip'][:12]}", rack, row["PSW"], "", row["DSW"], accelerators, labels)


def _check(places: tuple[Place, ...]) -> None:
    """What no site can be: no machines, one twice, a rack on two switches, more devices than a host has slots.

    Raises:
        BadScenario: one of them.
    """
    if not places:
        raise BadScenario("topology: there is no machine in it")
    if len(places) > MAX_NODES:
        raise BadScenario(f"topology: more than {MAX_NODES} machines; set `limit`, or use fewer")
    homes: dict[str, Place] = {}
    names: set[str] = set()
    for place in places:
        if place.name in names:
            raise BadScenario(f"topology: {place.name} is there twice")
        names.add(place.name)
        if not 1 <= place.accelerators <= MAX_ACCELERATORS:
            raise BadScenario(
                f"topology: {place.name} has {place.accelerators} accelerators, 1 to {MAX_ACCELERATORS} are possible"
            )
        home = homes.setdefault(place.rack, place)
        for what, words in (("switch", "switches"), ("power", "power feeds"), ("superpod", "super-pods")):
            if getattr(home, what) != getattr(place, what):
                pair = f"{getattr(home, what)} and {getattr(place, what)}"
                raise BadScenario(f"topology: rack {place.rack} cannot be in two {words}, {pair}")
