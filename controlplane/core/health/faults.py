"""What a fault asks for: its code's level, debounced, raised by repetition and by company, excused by the software guard. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from controlplane.core.health.book import FaultNote
from controlplane.core.health.catalogue import Catalogue, FaultRule, SoftwareGuard
from controlplane.core.units import ms
from controlplane.core.vocabulary import AcceleratorState, Assertion, HandlingLevel

ENDS_RANKS = frozenset(
    {
        HandlingLevel.RESTART_PROCESS,
        HandlingLevel.RESET_NOW,
        HandlingLevel.ISOLATE,
        HandlingLevel.REBOOT_NODE,
        HandlingLevel.RETURN_TO_VENDOR,
    }
)
"""Levels that take the process of a rank whose device they concern."""

TAKES_NODE = frozenset({HandlingLevel.REBOOT_NODE, HandlingLevel.RETURN_TO_VENDOR})
"""Levels that concern the whole node, whichever of its parts raised them."""


@dataclass(frozen=True, slots=True)
class Handling:
    """The verdict on one fault. `until_ns`: when it has to be looked at again because time alone changes it (a debounce is
    over, an escalation is released), Unix ns; 0: never. `held`: it counts until then, also when the fault recovers before.
    `reason` names the rules that were applied. `shadowed`: what the fault's rule, which is in shadow mode, would have asked for."""

    level: HandlingLevel
    reason: str
    until_ns: int = 0
    held: bool = False
    shadowed: HandlingLevel = HandlingLevel.IGNORE


@dataclass(frozen=True, slots=True)
class History:
    """What is remembered of the entity: when a code occurred there, Unix ns, ascending, this occurrence not included."""

    sightings: Callable[[str], tuple[int, ...]]


def evaluate(catalogue: Catalogue, history: History, fault: FaultNote, now_ns: int) -> Handling:
    """What to do about a fault that occurs, or has stood until now.

    Args:
        catalogue: the tables in force.
        history: earlier occurrences on the same entity.
        fault: with `raised_ns` set; its level is not looked at.
        now_ns: Unix nanoseconds.
    """
    rule = catalogue.rule(fault.vendor, fault.code, fault.severity)
    begun_ns = fault.raised_ns or now_ns
    base = _debounced(rule, begun_ns, now_ns, once=fault.assertion is Assertion.ONCE)
    for found in (_repeated(rule, history, begun_ns, now_ns), _in_company(catalogue, fault, history, begun_ns)):
        if found is not None and found.level > base.level:
            base = found
    if rule.shadow and base.level > HandlingLevel.OBSERVE:
        reason = f"in shadow mode, only observed: {base.reason}"
        return replace(base, level=HandlingLevel.OBSERVE, reason=reason, shadowed=base.level)
    return base


def _words(rule: FaultRule) -> str:
    origin = f" ({rule.origin})" if rule.origin else ""
    text = f": {rule.text}" if rule.text else ""
    return f"{rule.code} is {rule.level.name}{origin}{text}"


def _debounced(rule: FaultRule, begun_ns: int, now_ns: int, *, once: bool) -> Handling:
    stands_ns = begun_ns + ms(rule.debounce_ms)
    if once or now_ns >= stands_ns:
        return Handling(rule.level, _words(rule))
    text = f"{_words(rule)}, once it has stood for {rule.debounce_ms / 1000:g} s"
    return Handling(min(rule.level, HandlingLevel.OBSERVE), text, stands_ns)


def _repeated(rule: FaultRule, history: History, begun_ns: int, now_ns: int) -> Handling | None:
    limit = rule.frequency
    if limit is None:
        return None
    recent = [at_ns for at_ns in history.sightings(rule.code) if at_ns > begun_ns - ms(limit.window_ms)]
    count = len({*recent, begun_ns})
    released_ns = begun_ns + ms(limit.release_ms)
    if count < limit.count or now_ns >= released_ns:
        return None
    text = f"{rule.code} came {count} times within {limit.window_ms / 1000:g} s: {limit.level.name}"
    return Handling(limit.level, text, released_ns, held=True)


def _in_company(catalogue: Catalogue, fault: FaultNote, history: History, begun_ns: int) -> Handling | None:
    worst: Handling | None = None
    for relation in catalogue.related(fault.vendor, fault.code):
        other = relation.other(fault.code)
        near = any(abs(begun_ns - at_ns) <= ms(relation.window_ms) for at_ns in history.sightings(other))
        if near and (worst is None or relation.level > worst.level):
            text = f"{fault.code} and {other} within {relation.window_ms / 1000:g} s: {relation.level.name}"
            worst = Handling(relation.level, f"{text}: {relation.text}" if relation.text else text)
    return worst


@dataclass(frozen=True, slots=True)
class Sighting:
    """One device of a job that shows a code: its node's number, rack number and when, Unix ns."""

    node: int
    rack: int
    at_ns: int


def is_the_jobs_own(guard: SoftwareGuard, sightings: Iterable[Sighting], devices: int, racks: int, now_ns: int) -> str:
    """Why a code that many devices of one job show at once is the job's fault and not theirs; "" when it may be hardware.

    What lies on one node, or in one rack of a job that has several, may well be that node's or that rack's fault.

    Args:
        guard: how many is many.
        sightings: devices of the job with this code standing.
        devices, racks: how many the job has.
        now_ns: Unix nanoseconds.
    """
    near = [seen for seen in sightings if seen.at_ns > now_ns - ms(guard.window_ms)]
    nodes = {seen.node for seen in near}
    if len(near) < max(guard.devices, min(guard.share * devices, guard.most)) or len(nodes) < 2:
        return ""
    if racks > 1 and len({seen.rack for seen in near}) < 2:
        return ""
    return f"{len(near)} devices on {len(nodes)} nodes of one job show it within {guard.window_ms / 1000:g} s"


def device_state(reported: int, notes: Iterable[FaultNote], *, readable: bool) -> AcceleratorState:
    """What to believe of a device.

    Args:
        reported: the probe's word (`AcceleratorState`).
        notes: faults that stand on it. A FAILED that has a code is as bad as the code's handling says, and no worse.
        readable: whether every source that speaks for the device can be read.
    """
    standing = list(notes)
    worst = max((note.level for note in standing), default=HandlingLevel.IGNORE)
    judged = _STATE_BY_LEVEL[worst]
    told = AcceleratorState(reported)
    if told is AcceleratorState.FAILED and standing:
        told = AcceleratorState.HEALTHY
    found = max(told, judged, key=_GRAVITY.index)
    if not readable and _GRAVITY.index(found) < _GRAVITY.index(AcceleratorState.UNKNOWN):
        return AcceleratorState.UNKNOWN
    return found


_STATE_BY_LEVEL = {
    HandlingLevel.IGNORE: AcceleratorState.HEALTHY,
    HandlingLevel.OBSERVE: AcceleratorState.HEALTHY,
    HandlingLevel.DEGRADED: AcceleratorState.DEGRADED,
    HandlingLevel.RETRY_STEP: AcceleratorState.HEALTHY,
    HandlingLevel.RESTART_PROCESS: AcceleratorState.HEALTHY,
    HandlingLevel.RESET_WHEN_IDLE: AcceleratorState.SUSPECT,
    HandlingLevel.RESET_NOW: AcceleratorState.RESETTING,
    HandlingLevel.CORDON: AcceleratorState.SUSPECT,
    HandlingLevel.ISOLATE: AcceleratorState.FAILED,
    HandlingLevel.REBOOT_NODE: AcceleratorState.FAILED,
    HandlingLevel.RETURN_TO_VENDOR: AcceleratorState.FAILED,
}

_GRAVITY = [
    AcceleratorState.HEALTHY,
    AcceleratorState.DEGRADED,
    AcceleratorState.SUSPECT,
    AcceleratorState.UNKNOWN,
    AcceleratorState.RESETTING,
    AcceleratorState.FAILED,
]
"""From the best to the worst that can be true of a device at once."""
