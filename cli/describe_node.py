"""A node at length, for people: what is witnessed of it, its devices, and all that health knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli import render
from cli.wire import enum_word

if TYPE_CHECKING:
    from phalanx.v1 import fleet_pb2


def node(item: fleet_pb2.Node) -> None:
    """The whole description."""
    from phalanx.v1 import types_pb2  # noqa: PLC0415

    render.fields(
        (
            ("name", item.name),
            ("service", enum_word(types_pb2.NodeService, item.service)),
            ("liveness", _liveness(item)),
            ("health", "" if item.HasField("stay") else item.health),
            ("agent session", "open" if item.session_open else "lost"),
            ("cell", "member" if item.cell_member else "not a member"),
            ("last beat", f"{render.seconds(item.last_beat_age_s)} ago"),
            ("address", item.address),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(item.labels.items()))),
            ("jobs", ", ".join(item.jobs)),
            ("agent", f"{item.agent_version} boot {item.boot_id}"),
            ("cordons", "; ".join(f"{reason.owner}: {reason.reason}" for reason in item.cordons)),
            ("cannot be read", "" if item.sources else "; ".join(item.unreadable)),
        )
    )
    if item.HasField("stay"):
        _stay(item.stay, enum_word(types_pb2.NodeService, item.service))
    _accelerators(item)
    _faults(item)
    _sources(item)
    _repairs(item)
    if item.history:
        render.heading("quarantines, checks and trials, newest first")
        render.table(("AGE", "WHAT"), [[render.age(event.age_s), event.message] for event in item.history])


def _liveness(item: fleet_pb2.Node) -> str:
    from phalanx.v1 import types_pb2  # noqa: PLC0415

    word = enum_word(types_pb2.NodeLiveness, item.liveness)
    return f"{word}, path broken: its ranks make steps, nothing of its agent gets through" if item.path_broken else word


def _stay(stay: fleet_pb2.NodeStay, service: str) -> None:
    """Out of service or on trial: since when, why, and what comes next."""
    on_trial = service == "PROBATION"
    render.heading("on trial" if on_trial else "taken out by health")
    render.fields(
        (
            ("state", stay.waits_for),
            ("since", f"{render.age(stay.age_s)} ago"),
            ("because", stay.reason),
            ("asks for", stay.level),
            ("evidence", "; ".join(stay.evidence)),
            ("parts to blame", ", ".join(stay.serials)),
            ("failed checks", str(stay.tries or "")),
            ("trial ends" if on_trial else "next checks", f"in {render.age(stay.next_s)}" if stay.next_s else ""),
        )
    )


def _accelerators(item: fleet_pb2.Node) -> None:
    from phalanx.v1 import types_pb2  # noqa: PLC0415

    rows = [
        [
            str(device.index),
            enum_word(types_pb2.AcceleratorState, device.state),
            device.serial,
            device.pci_address,
            f"{device.vendor} {device.model}".strip(),
            f"{device.fault_code} {device.fault_message}".strip() or "-",
        ]
        for device in item.accelerators
    ]
    if rows:
        render.heading("accelerators")
        render.table(("INDEX", "STATE", "SERIAL", "PCI", "MODEL", "FAULT"), rows)


def _faults(item: fleet_pb2.Node) -> None:
    rows = []
    for fault in item.faults:
        notes = [
            word for word, true in (("its source is not read now", fault.unread), ("of its job", fault.excused)) if true
        ]
        why = fault.reason + "".join(f" ({note})" for note in notes)
        rows.append([fault.entity, fault.code, fault.level, render.age(fault.age_s), why, fault.message or "-"])
    if rows:
        render.heading("faults that stand")
        render.table(("ENTITY", "CODE", "LEVEL", "AGE", "WHY", "MESSAGE"), rows)


def _sources(item: fleet_pb2.Node) -> None:
    if item.sources:
        render.heading("sources that cannot be read")
        rows = [[covers(one), one.name, render.age(one.age_s), one.reason] for one in item.sources]
        render.table(("COVERS", "SOURCE", "SINCE", "WHY"), rows)


def _repairs(item: fleet_pb2.Node) -> None:
    if item.repairs:
        render.heading("repairs, by serial number")
        rows = [
            [
                part.serial,
                part.entity,
                str(len(part.ages_s)),
                ", ".join(f"{render.age(age)} ago" for age in part.ages_s),
            ]
            for part in item.repairs
        ]
        render.table(("SERIAL", "PART", "REPAIRS", "BACK SINCE"), rows)


def covers(source: fleet_pb2.UnreadSource) -> str:
    """What a source speaks for."""
    if source.node_only:
        return "node only"
    return ",".join(map(str, source.accelerators)) or "all of it"
