"""Units and their environment files, filled in with where this installation is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources


class Role(StrEnum):
    """What a machine is in a site."""

    CONTROLLER = "controller"
    CONTROLLER_POSTGRESQL = "controller-postgresql"
    NODE_AGENT = "node-agent"
    CELL_AGENT = "cell-agent"
    RELAY = "relay"


FILES: dict[Role, tuple[str, ...]] = {
    Role.CONTROLLER: ("phalanx-controller.service", "controller.env"),
    Role.CONTROLLER_POSTGRESQL: ("phalanx-controller-postgresql.service", "controller.env"),
    Role.NODE_AGENT: ("phalanx-node-agent.service", "node-agent.env"),
    Role.CELL_AGENT: ("phalanx-store.service", "phalanx-cell-agent.service", "cell-agent.env"),
    Role.RELAY: ("phalanx-relay.service", "relay.env"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """What units name. `shared`: mount point of the storage that every node shares; `python`: the interpreter."""

    user: str = "phalanx"
    shared: str = "/shared"
    python: str = sys.executable


def files(role: Role, place: Place) -> dict[str, str]:
    """Text by file name."""
    return {name: _filled(name, place) for name in FILES[role]}


def _filled(name: str, place: Place) -> str:
    words = {
        "@HARDENING@": _template("hardening.conf").strip(),
        "@NO_KERNEL_LOG@": _template("no_kernel_log.conf").strip(),
        "@PYTHON@": place.python,
        "@SHARED@": place.shared,
        "@USER@": place.user,
    }
    text = _template(name)
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _template(name: str) -> str:
    return resources.files("cli.systemd").joinpath(name).read_text(encoding="utf-8")
