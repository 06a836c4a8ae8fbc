"""How a node stands, in one word and one sign: liveness, service, cordons and devices folded into one judgement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from phalanx.v1 import types_pb2 as pb


class Condition(IntEnum):
    """Worst first: of several nodes the smallest speaks for all."""

    DEAD = 0
    UNKNOWN = 1
    SUSPECT = 2
    QUARANTINED = 3
    FAULTY = 4
    OUT_OF_SERVICE = 5
    DRAINING = 6
    CORDONED = 7
    PROBATION = 8
    JOINING = 9
    IN_USE = 10
    FREE = 11
    RETIRED = 12


@dataclass(frozen=True, slots=True)
class Look:
    """What stands for a condition. The sign alone tells conditions apart; the colour only helps."""

    sign: str
    style: str
    word: str


LOOKS: Mapping[Condition, Look] = {
    Condition.DEAD: Look("X", "bold red", "dead"),
    Condition.UNKNOWN: Look("?", "bold magenta", "unknown"),
    Condition.SUSPECT: Look("!", "bold yellow", "suspect"),
    Condition.QUARANTINED: Look("Q", "bold yellow", "quarantined"),
    Condition.FAULTY: Look("%", "yellow", "with bad accelerators"),
    Condition.OUT_OF_SERVICE: Look("-", "yellow", "out of service"),
    Condition.DRAINING: Look("D", "cyan", "draining"),
    Condition.CORDONED: Look("C", "cyan", "cordoned"),
    Condition.PROBATION: Look("P", "cyan", "on probation"),
    Condition.JOINING: Look("+", "blue", "joining"),
    Condition.IN_USE: Look("■", "green", "in use"),
    Condition.FREE: Look("□", "green", "free"),
    Condition.RETIRED: Look("·", "dim", "retired"),
}

TROUBLE = frozenset(condition for condition in Condition if condition < Condition.DRAINING)
"""Conditions that somebody should look at; what an operator ordered is not among them."""

_LIVENESS: Mapping[int, Condition] = {
    pb.NODE_LIVENESS_DEAD: Condition.DEAD,
    pb.NODE_LIVENESS_SUSPECT: Condition.SUSPECT,
    pb.NODE_LIVENESS_UNKNOWN: Condition.UNKNOWN,
}

_SERVICE: Mapping[int, Condition] = {
    pb.NODE_SERVICE_JOINING: Condition.JOINING,
    pb.NODE_SERVICE_VALIDATING: Condition.JOINING,
    pb.NODE_SERVICE_DRAINING: Condition.DRAINING,
    pb.NODE_SERVICE_QUARANTINED: Condition.QUARANTINED,
    pb.NODE_SERVICE_PROBATION: Condition.PROBATION,
    pb.NODE_SERVICE_OUT_OF_SERVICE: Condition.OUT_OF_SERVICE,
}


def judge(liveness: int, service: int, *, cordoned: bool, bad_devices: bool, used: bool) -> Condition:
    """The worst that is true of a node. States that this version does not know are UNKNOWN, never healthy."""
    if service == pb.NODE_SERVICE_RETIRED:
        return Condition.RETIRED
    if liveness != pb.NODE_LIVENESS_ALIVE:
        return _LIVENESS.get(liveness, Condition.UNKNOWN)
    if service != pb.NODE_SERVICE_IN_SERVICE:
        found = _SERVICE.get(service, Condition.UNKNOWN)
    else:
        found = Condition.IN_USE if used else Condition.FREE
    if bad_devices:
        found = min(found, Condition.FAULTY)
    return min(found, Condition.CORDONED) if cordoned else found


def summary(conditions: Iterable[Condition]) -> str:
    """`12 in use, 3 free, 1 dead`: what works first, then the worst."""
    counts = Counter(conditions)
    order = sorted(counts, key=lambda condition: (condition in TROUBLE, condition))
    return ", ".join(f"{counts[condition]:,} {LOOKS[condition].word}" for condition in order)
