"""The controller's own health as messages for operators: how well it keeps up, what it may still disturb, what it cannot see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from phalanx.v1 import fleet_pb2

from controlplane.core import records as r
from controlplane.core.health.book import Source
from controlplane.core.health.budget import ActionBudget, spent
from controlplane.core.health.canaries import CanaryPolicy
from controlplane.core.health.distrust import Vitals
from controlplane.core.state import State
from controlplane.core.units import to_s
from controlplane.core.vocabulary import AcceleratorState, NodeLiveness, NodeService
from controlplane.engine.ports import JournalEntry
from controlplane.observability.quantiles import Distribution
from controlplane.rpc.ages import age_s
from controlplane.rpc.health_rows import NODE_ONLY
from controlplane.rpc.history import decode
from controlplane.rpc.ports import Brain

MAX_LISTED = 500
"""Sources and nodes that are named in one answer; the totals are told beside them."""
MAX_REFUSED = 20
"""Refused acts that are named."""

UNPROVEN = frozenset({"amd", "cambricon", "hygon"})
"""Vendors whose probe was only ever read against constructed outputs of its tool (`PROVEN` in the agent's probes, which a
test holds against this)."""

WAITS_TO_BE_SEEN = (NodeService.RETIRED, NodeService.OUT_OF_SERVICE)
"""Nodes of which nothing is expected."""


def detector(
    state: State, brain: Brain, appends: Distribution, *, inbox_limit: int, now_ns: int
) -> fleet_pb2.DetectorHealth:
    """How well this controller keeps up. Strain is told after what keeps it from trusting silence."""
    vitals: Vitals = brain.vitals()
    book, strain = state.health, brain.strain()
    return fleet_pb2.DetectorHealth(
        degraded=brain.degraded(),
        reasons=(*book.degraded, *strain.reasons),
        degraded_s=age_s(book.degraded_since_ns or strain.since_ns, now_ns),
        loop_lag_s=brain.lag_s(),
        appends=appends.count,
        append_mean_s=appends.mean,
        append_p99_s=appends.quantile(0.99),
        slow_append_s=to_s(vitals.append_ns),
        slow_append_age_s=age_s(vitals.append_at_ns, now_ns),
        inbox=brain.depth,
        inbox_limit=inbox_limit,
        journal_state=brain.blocked or "ok",
        listening_s=age_s(brain.trusted_since_ns(), now_ns),
    )


def budget(state: State, limits: ActionBudget, refused: Sequence[JournalEntry], now_ns: int) -> fleet_pb2.BudgetHealth:
    """The action budget: what it allows, what is spent, and what it refused (`ActRefused` records, oldest first)."""
    acts = []
    for entry in reversed(refused):
        record = decode(entry)
        if isinstance(record, r.ActRefused):
            acts.append(
                fleet_pb2.RefusedAct(
                    node=record.node, act=record.act, reason=record.reason, age_s=age_s(entry.at_ns, now_ns)
                )
            )
    return fleet_pb2.BudgetHealth(
        share=limits.share,
        window_s=limits.window_ms / 1_000,
        scopes=[
            fleet_pb2.BudgetScope(kind=scope.kind, name=scope.name, limit=scope.limit, spent=scope.nodes)
            for scope in spent(state.fleet, state.acts, limits, now_ns)
        ],
        refused=acts[:MAX_REFUSED],
    )


def blind_spots(state: State, last_beat_ns: Sequence[int], now_ns: int) -> fleet_pb2.BlindSpots:
    """What is not seen now. `last_beat_ns` by node number, 0: not heard since this controller started."""
    fleet = state.fleet
    sources = [(name, source) for name, listed in state.health.sources.items() for source in listed]
    unseen = (fleet.liveness == NodeLiveness.SUSPECT) | (fleet.liveness == NodeLiveness.UNKNOWN) | fleet.path_broken
    unseen &= ~np.isin(fleet.service, WAITS_TO_BE_SEEN)
    numbers = np.flatnonzero(unseen).tolist()
    return fleet_pb2.BlindSpots(
        sources=[source_message(name, source, now_ns) for name, source in sources[:MAX_LISTED]],
        sources_total=len(sources),
        nodes=[_unseen(state, number, last_beat_ns[number], now_ns) for number in numbers[:MAX_LISTED]],
        nodes_total=len(numbers),
        accelerators=int(np.count_nonzero(fleet.acc_state == AcceleratorState.UNKNOWN)),
        probes=_unproven(state),
    )


def canaries(state: State, policy: CanaryPolicy, now_ns: int) -> fleet_pb2.CanaryHealth:
    """How detection of faults that were raised on purpose does."""
    book = state.canaries
    return fleet_pb2.CanaryHealth(
        every_s=policy.every_ms / 1_000,
        deadline_s=policy.deadline_ms / 1_000,
        released=book.released,
        caught=book.caught,
        missed=book.missed,
        called_off=book.called_off,
        awaited=len(book.flying),
        missed_node=book.late_node,
        missed_age_s=age_s(book.late_ns, now_ns),
    )


def detection(times: Mapping[str, Distribution]) -> list[fleet_pb2.DetectionTime]:
    """Detection times by class, those that were never seen left out."""
    return [
        fleet_pb2.DetectionTime(kind=kind, count=found.count, p50_s=found.quantile(0.5), p99_s=found.quantile(0.99))
        for kind, found in sorted(times.items())
        if found.count
    ]


def source_message(node: str, source: Source, now_ns: int) -> fleet_pb2.UnreadSource:
    """A source of a node's health that cannot be read."""
    only_node = source.accelerators == NODE_ONLY
    return fleet_pb2.UnreadSource(
        node=node,
        name=source.name,
        reason=source.reason,
        age_s=age_s(source.since_ns, now_ns),
        accelerators=() if only_node else source.accelerators,
        node_only=only_node,
    )


def _unseen(state: State, number: int, last_beat_ns: int, now_ns: int) -> fleet_pb2.UnseenNode:
    fleet = state.fleet
    why = "path broken" if fleet.path_broken[number] else NodeLiveness(int(fleet.liveness[number])).name
    silent_s = age_s(last_beat_ns, now_ns) if last_beat_ns else math.nan
    return fleet_pb2.UnseenNode(name=fleet.name(number), why=why, silent_s=silent_s)


def _unproven(state: State) -> list[fleet_pb2.UnprovenProbe]:
    """Devices that are read by probes which nobody has seen read a real one."""
    nodes: dict[str, set[str]] = {}
    devices: dict[str, int] = {}
    for facts, service in zip(state.fleet.facts, state.fleet.service.tolist(), strict=True):
        if service == NodeService.RETIRED:
            continue
        for device in facts.accelerators:
            if device.vendor in UNPROVEN:
                nodes.setdefault(device.vendor, set()).add(facts.name)
                devices[device.vendor] = devices.get(device.vendor, 0) + 1
    return [
        fleet_pb2.UnprovenProbe(vendor=vendor, nodes=len(names), accelerators=devices[vendor])
        for vendor, names in sorted(nodes.items())
    ]
