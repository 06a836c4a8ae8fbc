"""What a kind of fault is: what it strikes, how long it lasts, which parameters it takes, and the code that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controlplane.sim.world.site import World


class Aim(StrEnum):
    """What a fault strikes; a target is the name of one of these."""

    RANK = "rank"
    JOB = "job"
    CHECKPOINT = "checkpoint"
    DEVICE = "device"
    NODE = "node"
    RACK = "rack"
    SWITCH = "switch"
    POWER = "power"
    SUPERPOD = "superpod"
    RELAY = "relay"
    SITE = "site"


class NothingThere(Exception):
    """The target is not there now, or cannot be struck: nothing happened, and nothing is counted."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A parameter's value when none is given, and the least and most that make sense."""

    default: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault about to happen. `code`: a device fault code, where the kind takes one."""

    target: str
    duration_s: float
    parameters: Mapping[str, float]
    random: Random
    code: str = ""


Undo = Callable[[], object]
Act = Callable[["World", Strike], Undo | None]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. `duration_s` None: as long as a repair takes; 0: it is over at once. `text`: what it is, for people."""

    name: str
    aim: Aim
    act: Act
    text: str
    duration_s: float | None = 0.0
    parameters: Mapping[str, Bounds] = field(default_factory=dict)


_KINDS: dict[str, Kind] = {}
CATALOGUE: Mapping[str, Kind] = MappingProxyType(_KINDS)
"""Every kind by name."""


def kind(
    name: str, aim: Aim, duration_s: float | None = 0.0, **parameters: tuple[float, float, float]
) -> Callable[[Act], Act]:
    """Register a kind. `parameters`: name = (default, least, most). The docstring is its text."""

    def register(act: Act) -> Act:
        if name in _KINDS:
            raise ValueError(f"two kinds of faults are named {name}")
        bounds = {key: Bounds(*values) for key, values in parameters.items()}
        _KINDS[name] = Kind(name, aim, act, (act.__doc__ or "").strip(), duration_s, bounds)
        return act

    return register


def together(undoes: list[Undo]) -> Undo:
    """All of them, in reverse order."""
    return lambda: [undo() for undo in reversed(undoes)]
