"""Faults and the tables that judge them, as lists for people: rows, groups, rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from cli import render
from cli.listing import Listing, natural

if TYPE_CHECKING:
    from phalanx.v1 import fleet_pb2

LEVELS = (
    "IGNORE", "OBSERVE", "DEGRADED", "RETRY_STEP", "RESTART_PROCESS", "RESET_WHEN_IDLE", "RESET_NOW", "CORDON", "ISOLATE",
    "REBOOT_NODE", "RETURN_TO_VENDOR",
)  # fmt: skip
"""Handling levels, the mildest first. A level that only a newer controller knows counts as the hardest."""

DOMAINS = ("rack", "switch", "power", "superpod")


class By(StrEnum):
    """What faults are counted by."""

    CODE = "code"
    NODE = "node"
    LEVEL = "level"
    VENDOR = "vendor"
    RACK = "rack"
    SWITCH = "switch"
    POWER = "power"
    SUPERPOD = "superpod"


def listing(faults: Sequence[fleet_pb2.Fault]) -> Listing:
    """Faults in the order in which they came. A name is a node's: several faults may have the same."""
    names = [fault.node for fault in faults]
    fields = {
        "node": names,
        "entity": [fault.entity for fault in faults],
        "code": [fault.code for fault in faults],
        "level": [fault.level for fault in faults],
        "vendor": [fault.vendor for fault in faults],
        "state": [_state(fault) for fault in faults],
        "serial": [fault.serial for fault in faults],
        **{domain: [fault.labels.get(domain, "-") for fault in faults] for domain in DOMAINS},
    }
    return Listing(
        "faults",
        names,
        {
            "AGE": [render.age(fault.age_s) for fault in faults],
            "STATE": [_shown_state(fault) for fault in faults],
            "NODE": names,
            "ENTITY": fields["entity"],
            "CODE": fields["code"],
            "LEVEL": fields["level"],
            "WHY": [fault.reason for fault in faults],
        },
        {
            "VENDOR": fields["vendor"],
            "SEVERITY": [fault.severity or "-" for fault in faults],
            "SERIAL": [fault.serial or "-" for fault in faults],
            "RACK": fields["rack"],
            "DETECTED": [render.seconds(fault.detection_s) if fault.assertion != "recovered" else "-" for fault in faults],
            "RAISED": [fault.raised_at or "-" for fault in faults],
            "MESSAGE": [fault.message for fault in faults],
        },
        fields,
        [dict(fault.labels) for fault in faults],
        faults,
    )  # fmt: skip


def _state(fault: fleet_pb2.Fault) -> str:
    """`stands`, or what the journal says of one that does not."""
    return {"occurred": "began", "recovered": "ended"}.get(fault.assertion, "once") if fault.revision else "stands"


def _shown_state(fault: fleet_pb2.Fault) -> str:
    """The same with what one has to know: that nobody can see it now, or that hardware is not to blame."""
    notes = [word for word, true in (("unread", fault.unread), ("of its job", fault.excused)) if true]
    return ", ".join((_state(fault), *notes))


def groups(faults: Iterable[fleet_pb2.Fault], by: By) -> tuple[tuple[str, ...], list[list[str]]]:
    """(headers, rows): how many faults, how many of them stand, on how many nodes, the hardest level and the newest; the
    group with most that stand first."""
    found: dict[str, list[fleet_pb2.Fault]] = {}
    for fault in faults:
        found.setdefault(_key(fault, by), []).append(fault)
    rows = []
    ordered = sorted(
        found.items(), key=lambda pair: (-sum(not f.revision for f in pair[1]), -len(pair[1]), natural(pair[0]))
    )
    for key, members in ordered:
        worst = max((fault.level for fault in members), key=hardness)
        newest = min(fault.age_s for fault in members)
        nodes = len({fault.node for fault in members})
        stand = sum(not fault.revision for fault in members)
        rows.append([key, str(len(members)), str(stand), str(nodes), worst, f"{render.age(newest)} ago"])
    return (by.value.upper(), "FAULTS", "STAND", "NODES", "HARDEST", "NEWEST"), rows


def _key(fault: fleet_pb2.Fault, by: By) -> str:
    plain = {By.CODE: fault.code, By.NODE: fault.node, By.LEVEL: fault.level, By.VENDOR: fault.vendor}
    return plain.get(by, fault.labels.get(by.value, "")) or "-"


def hardness(level: str) -> int:
    """Where a level stands in the order of what it asks for."""
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def rules(answer: fleet_pb2.ListFaultRulesResponse, *, wide: bool) -> None:
    """Prints the tables that are in force."""
    rows = [
        [rule.vendor, rule.code, rule.level, _conditions(rule), rule.text, *([rule.origin] if wide else [])]
        for rule in answer.rules
    ]
    if rows:
        render.table(("VENDOR", "CODE", "LEVEL", "RULES", "MEANING", *(["FROM"] if wide else [])), rows)
    if not wide and rows:
        render.note("-o wide shows the source and date of each rule")
    pairs = [
        [item.vendor, " + ".join(item.codes), f"within {item.window_s:g} s", item.level, item.text]
        for item in answer.relations
    ]
    if pairs:
        render.heading("two codes on one part")
        render.table(("VENDOR", "CODES", "WHEN", "LEVEL", "MEANING"), pairs)
    if not rows and not pairs:
        render.note(
            "no table has it: a code that is in none is observed when its vendor calls it minor or a hint, else isolated"
        )


def _conditions(rule: fleet_pb2.FaultRule) -> str:
    """Debounce, frequency and shadow mode in words; `-`: the level holds at once."""
    words = []
    if rule.debounce_s:
        words.append(f"after {rule.debounce_s:g} s")
    if rule.count:
        words.append(f"{rule.count} in {rule.window_s:g} s: {rule.raised_level} for {rule.release_s:g} s")
    if rule.shadow:
        judged = rule.confirmed + rule.refuted
        share = f", {rule.confirmed / judged:.0%} of {judged} confirmed" if judged else ""
        words.append(f"shadow: only observed{share}" + (f", {rule.open} open" if rule.open else ""))
    return "; ".join(words) or "-"
