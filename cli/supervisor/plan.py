"""What the supervisor runs: units, in order, as plain values that travel in one JSON file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FIRST_DELAY_S = 0.2
MAX_DELAY_S = 10.0
STABLE_LIFE_S = 30.0
"""A unit that lived this long gets the first delay again."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One process that must run. It leads its own session, and its process group dies with it.

    `needs`: units that must be ready whenever it starts; `after`: the same, at its first start only.
    `probe`: `host:port` or `unix:/path` that must accept a connection; empty: ready when started.
    `one_shot`: must end with 0 once. `kills`: units that cannot live without it and are restarted when it dies.
    `rebuilds`, `wipes`: units restarted and folders removed when it fails again and again at once.
    `stop_order`: lower ones stop first.
    """

    name: str
    argv: tuple[str, ...]
    log: str
    environment: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()
    node: str = ""
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    probe: str = ""
    one_shot: bool = False
    kills: tuple[str, ...] = ()
    rebuilds: tuple[str, ...] = ()
    wipes: tuple[str, ...] = ()
    stop_order: int = 0
    grace_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """All units of a site. `site` is what `site.json` tells, without process ids; `node_paths` is what a node loses."""

    directory: str
    run: str
    units: tuple[Unit, ...]
    site: dict[str, Any] = field(default_factory=dict)
    node_paths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    end_with_parent: bool = False


def write_plan(plan: Plan, path: Path) -> None:
    """Writes the plan for `python -m cli.supervisor`."""
    path.write_text(json.dumps(dataclasses.asdict(plan)), encoding="utf-8")
    path.chmod(0o600)


def read_plan(path: Path) -> Plan:
    """Reads what `write_plan` wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    units = tuple(_unit(item) for item in document.pop("units"))
    node_paths = {name: tuple(paths) for name, paths in document.pop("node_paths").items()}
    return Plan(units=units, node_paths=node_paths, **document)


def _unit(document: dict[str, Any]) -> Unit:
    environment = tuple((name, value) for name, value in document.pop("environment"))
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in document.items()
    }
    return Unit(environment=environment, **values)


def next_delay(previous_s: float, life_s: float) -> float:
    """Seconds before the next start: 0.2 doubling to 10, from the beginning after a life of 30 s."""
    if previous_s == 0 or life_s >= STABLE_LIFE_S:
        return FIRST_DELAY_S
    return min(MAX_DELAY_S, previous_s * 2)
