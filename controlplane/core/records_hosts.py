"""Durable records about rank hosts; see `records`, which names them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from controlplane.core.codec import COLUMNS
from controlplane.core.events import HostRow
from controlplane.core.jobs import Exit
from controlplane.core.ranges import Ranges
from controlplane.core.vocabulary import RankState


@dataclass(frozen=True, slots=True)
class HostsRequested:
    """Processes wanted on nodes; each starts parked."""

    job: str
    serials: tuple[int, ...]
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HostsObserved:
    """Live processes as the agents of their nodes reported them; what nodes tell in one turn is one record. `nodes`: numbers,
    ascending."""

    job: str
    nodes: tuple[int, ...]
    rows: Annotated[tuple[HostRow, ...], COLUMNS]


@dataclass(frozen=True, slots=True)
class HostsReached:
    """Many live processes are in one state since `at_ns`. It tells of all processes of `generation` that have not ended and
    whose serials lie in `serials`, which reaches over those that the job no longer has. `column`: see `events.HostsReached`."""

    job: str
    generation: int
    state: RankState
    serials: Ranges
    at_ns: int
    column: int
    source: str


@dataclass(frozen=True, slots=True)
class HostsLost:
    """The live processes whose serials lie in `serials` are lost with their nodes; nobody saw how."""

    job: str
    serials: Ranges
    at_ns: int


@dataclass(frozen=True, slots=True)
class HostEnded:
    """A process ended, or is lost with its node (`exit.observed` false). `group_empty`: nothing of it is left."""

    job: str
    serial: int
    rank: int
    at_ns: int
    exit: Exit


@dataclass(frozen=True, slots=True)
class HostsForgotten:
    """Ended processes that need no further thought."""

    job: str
    serials: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A process without a rank ended by itself; the job's failed starts are counted."""

    job: str
    serial: int
    message: str
