"""What an agent says of health as rows of the core: faults, sources that cannot be read, links that are broken.

A fault that is told again must not look as if it had occurred anew: its time is the difference of two clocks and a delay, so
that of a fault which is known already is taken from what is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from phalanx.v1 import agent_pb2
from phalanx.v1 import types_pb2 as pb

from controlplane.core import events as ev
from controlplane.core.health.book import position_of, serial_of
from controlplane.core.spec import Violation
from controlplane.core.state import State
from controlplane.core.vocabulary import Assertion, Severity
from controlplane.rpc.codec import at_from_age

MAX_FAULTS = 256
MAX_SOURCES = 64
MAX_LINKS = 1_024
MAX_POSITION = 255
SAME_EVENT_NS = 15_000_000_000
"""Two events of one code on one part that are no further apart are one that was told twice: agents tell a burst once."""
NODE_ONLY = (-1,)
"""Positions of a source that speaks for the node itself (`book.position_of`)."""

_ENTITY = re.compile(r"node|(?:accelerator|port)/[0-9]{1,3}")
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_VENDOR = re.compile(r"[a-z0-9-]{0,32}")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_SEVERITIES = frozenset(str(severity) for severity in Severity)
_ASSERTIONS = {
    pb.FAULT_ASSERTION_OCCURRED: Assertion.OCCURRED,
    pb.FAULT_ASSERTION_RECOVERED: Assertion.RECOVERED,
    pb.FAULT_ASSERTION_ONCE: Assertion.ONCE,
}


def problems(message: agent_pb2.Report, path: str) -> Iterator[Violation]:
    """What makes no sense in these rows of a report."""
    if len(message.faults) > MAX_FAULTS:
        yield Violation(
            f"{path}.faults", f"has {len(message.faults)} rows", f"send at most {MAX_FAULTS}, the worst ones"
        )
        return
    for number, fault in enumerate(message.faults):
        at = f"{path}.faults[{number}]"
        if not _ENTITY.fullmatch(fault.entity) or position_of(fault.entity) > MAX_POSITION:
            yield Violation(
                f"{at}.entity", "is no entity", f"use node, accelerator/N or port/N with N up to {MAX_POSITION}"
            )
        if not _CODE.fullmatch(fault.code):
            yield Violation(f"{at}.code", "is no code", "use at most 64 letters, digits, `.`, `_`, `:` and `-`")
        if not _VENDOR.fullmatch(fault.vendor):
            yield Violation(f"{at}.vendor", "is no vendor", "use at most 32 small letters, digits and `-`")
        if fault.assertion not in _ASSERTIONS:
            yield Violation(f"{at}.assertion", f"{fault.assertion} is no assertion", "use OCCURRED, RECOVERED or ONCE")
    sources = message.unreadable.sources
    if len(sources) > MAX_SOURCES:
        yield Violation(f"{path}.unreadable", f"has {len(sources)} sources", f"send at most {MAX_SOURCES}")
    for number, source in enumerate(sources[:MAX_SOURCES]):
        at = f"{path}.unreadable[{number}]"
        if not 0 < len(source.name) <= 1_100:
            yield Violation(f"{at}.name", "is empty or too long", "name the source in at most 1,100 characters")
        if len(source.accelerators) > MAX_POSITION + 1 or any(row > MAX_POSITION for row in source.accelerators):
            yield Violation(
                f"{at}.accelerators", "has a position that is too large, or too many", f"use 0 to {MAX_POSITION}"
            )
        if source.node_only and source.accelerators:
            yield Violation(f"{at}.node_only", "contradicts accelerators", "say one of the two")
    links = message.broken_links.nodes
    if len(links) > MAX_LINKS:
        yield Violation(f"{path}.broken_links", f"has {len(links)} nodes", f"send at most {MAX_LINKS}")
    elif not all(_NODE.fullmatch(name) for name in links):
        yield Violation(f"{path}.broken_links", "has what is no node name", "send names of nodes")


def fault_rows(node: str, message: agent_pb2.Report, now_ns: int, state: State) -> tuple[ev.FaultRow, ...]:
    """The faults of a report."""
    return tuple(_fault(node, row, now_ns, state) for row in message.faults)


def tells_all_faults(message: agent_pb2.Report) -> bool:
    """Whether a fault that the report does not name does not stand. Agents that know faults name their blind spots with them."""
    return message.full and message.HasField("unreadable")


def source_rows(message: agent_pb2.Report) -> tuple[ev.SourceRow, ...] | None:
    """The sources that cannot be read; None: the report does not say."""
    if not message.HasField("unreadable"):
        return None
    return tuple(
        ev.SourceRow(
            row.name[:200], row.reason[:500], NODE_ONLY if row.node_only else tuple(sorted({*row.accelerators}))
        )
        for row in message.unreadable.sources
    )


def broken_links(message: agent_pb2.Report) -> tuple[str, ...] | None:
    """Nodes that cannot be reached; None: the report does not say."""
    return tuple(message.broken_links.nodes) if message.HasField("broken_links") else None


def _fault(node: str, row: agent_pb2.FaultStatus, now_ns: int, state: State) -> ev.FaultRow:
    assertion = _ASSERTIONS[row.assertion]
    raised_ns = at_from_age(row.raised_age_ms, now_ns) if row.raised_age_ms else 0
    return ev.FaultRow(
        row.entity,
        row.code,
        row.vendor,
        row.severity if row.severity in _SEVERITIES else "",  # a word that we do not know is no mild one
        assertion,
        row.sequence if row.sequence < 2**63 else 0,
        _known_time(node, row, assertion, raised_ns, state),
        row.message[:1_000],
    )


def _known_time(node: str, row: agent_pb2.FaultStatus, assertion: Assertion, raised_ns: int, state: State) -> int:
    """When the fault was raised, as we know it already if it is one that we know."""
    if not raised_ns:
        return 0
    if assertion is Assertion.ONCE:
        number = state.fleet.number(node)
        devices = state.fleet.facts[number].accelerators if number is not None else ()
        seen = state.health.sightings.get(f"{serial_of(row.entity, node, devices)}/{row.code}", ())
        nearest = min(seen, key=lambda at_ns: abs(at_ns - raised_ns), default=0)
        return nearest if abs(nearest - raised_ns) <= SAME_EVENT_NS else raised_ns
    if not row.sequence:
        for fault in state.health.on(node):
            if (fault.note.entity, fault.note.code) == (row.entity, row.code):
                return fault.note.raised_ns
    return raised_ns
