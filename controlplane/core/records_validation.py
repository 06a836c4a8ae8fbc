"""Durable records of tests in pairs; see `records`, which names them all."""

from __future__ import annotations

from dataclasses import dataclass, field

from controlplane.core.health.cell import PairAnswer
from controlplane.core.health.pairing import Pair


@dataclass(frozen=True, slots=True)
class PairsAwaited:
    """The node's own checks passed (`reason`); it waits to be tested with others."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class ValidationStarted:
    """Nodes that wait, and nodes in service that are lent, are tested in pairs."""

    waiting: tuple[str, ...]
    lent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PairsStarted:
    """A wave of pairs is asked for; `boots`: by node, the agent's life that is asked."""

    pairs: tuple[Pair, ...]
    boots: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairAnswered:
    """One node of a pair has said how it went."""

    node: str
    answer: PairAnswer


@dataclass(frozen=True, slots=True)
class ValidationEnded:
    """What the pairs have proved. `suspects`: nothing was proved of them."""

    cleared: tuple[str, ...]
    convicted: tuple[str, ...]
    suspects: tuple[str, ...]
