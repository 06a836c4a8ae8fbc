"""The action budget: how much that works may be disturbed on purpose in a while. Pure.

Draining or quarantining a node on which ranks run is such an act; recovering what is broken, cordons and uncordons are not.
The cap of the site is its largest rack or a share of its nodes, whichever is more: a maintenance of one rack goes through, a
script that drains the site by mistake does not. Every larger failure domain (switch, power feed, super-pod) has the same cap
over its own nodes, so that what the site allows does not all fall on one of them. What is refused is dropped, not queued.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from controlplane.core.columns import BoolColumn
from controlplane.core.fleet import DOMAIN_KINDS, NO_DOMAIN, Fleet
from controlplane.core.units import NS_PER_S, ms
from controlplane.core.vocabulary import NodeService


@dataclass(frozen=True, slots=True)
class ActionBudget:
    """`share` of the nodes of the site, or of a domain, in a sliding window of `window_ms`."""

    share: float = 0.05
    window_ms: int = 300_000


@dataclass(frozen=True, slots=True)
class Act:
    """A node whose running ranks were asked to leave, and when (Unix ns)."""

    node: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class Spent:
    """How much of a scope's cap is used: of the site (`kind` "site"), or of a failure domain (its label and name)."""

    kind: str
    name: str
    limit: int
    nodes: int


SITE = "site"


def limit(fleet: Fleet, budget: ActionBudget, inside: BoolColumn | None = None) -> int:
    """Nodes that may be disturbed within the window: of the site, or of the domain whose members are `inside`. Nodes without
    a rack label share no rack."""
    ours = fleet.service != NodeService.RETIRED
    rack = fleet.rack[ours if inside is None else ours & inside]
    sizes = np.bincount(rack, minlength=len(fleet.racks)) if len(rack) else np.zeros(len(fleet.racks), dtype=np.int64)
    racks = [int(size) for size, name in zip(sizes.tolist(), fleet.racks, strict=True) if name]
    return max(1, int(len(rack) * budget.share), *racks) if racks else max(1, int(len(rack) * budget.share))


def refusal(fleet: Fleet, node: int, acts: Iterable[Act], budget: ActionBudget, now_ns: int) -> str:
    """Why one more node (its number) must not be disturbed now, and when it may be; "" when it may."""
    recent, leaving = _recent(acts, budget, now_ns), _leaving(fleet)
    counted = recent.keys() | leaving
    where, held = _full_scope(fleet, node, counted, budget)
    if not where:
        return ""
    text = (
        f"{len(held)} nodes at work are draining, or were drained or quarantined in the last {budget.window_ms / 60_000:g} min; "
        f"{where}: "
    )
    oldest = min((recent[number] for number in held if number in recent and number not in leaving), default=None)
    if oldest is None:
        return text + "wait until one of them is empty, or uncordon one"
    return text + f"try again in {(oldest + ms(budget.window_ms) - now_ns) / NS_PER_S:.0f} s, or uncordon one"


def spent(fleet: Fleet, acts: Iterable[Act], budget: ActionBudget, now_ns: int) -> tuple[Spent, ...]:
    """What is used now: of the site, then of every failure domain in which something is."""
    counted = sorted(_recent(acts, budget, now_ns).keys() | _leaving(fleet))
    found = [Spent(SITE, "", limit(fleet, budget), len(counted))]
    for kind, label in enumerate(DOMAIN_KINDS):
        used = fleet.domains[counted, kind] if counted else np.zeros(0, dtype=np.int32)
        for domain in np.unique(used[used != NO_DOMAIN]).tolist():
            most = limit(fleet, budget, fleet.domains[:, kind] == domain)
            found.append(Spent(label, fleet.domain_names[kind][domain], most, int(np.count_nonzero(used == domain))))
    return tuple(found)


def _recent(acts: Iterable[Act], budget: ActionBudget, now_ns: int) -> dict[int, int]:
    """Nodes that an act of the window concerned, and when the last one did."""
    return {act.node: act.at_ns for act in acts if act.at_ns > now_ns - ms(budget.window_ms)}


def _leaving(fleet: Fleet) -> set[int]:
    return {int(number) for number in np.flatnonzero(fleet.service == NodeService.DRAINING)}


def _full_scope(fleet: Fleet, node: int, counted: Iterable[int], budget: ActionBudget) -> tuple[str, frozenset[int]]:
    """(what the first scope that is full allows, the nodes that fill it); ("", none) when none is."""
    numbers = frozenset(counted)
    most = limit(fleet, budget)
    if len(numbers) >= most:
        return f"the site allows {most} (its largest rack, or {budget.share:.0%} of its nodes)", numbers
    for kind, label in enumerate(DOMAIN_KINDS):
        domain = int(fleet.domains[node][kind])
        if domain == NO_DOMAIN:
            continue
        inside = fleet.domains[:, kind] == domain
        there = frozenset(number for number in numbers if inside[number])
        most = limit(fleet, budget, inside)
        if len(there) >= most:
            name = fleet.domain_names[kind][domain]
            return f"{label} {name} allows {most} (its largest rack, or {budget.share:.0%} of its nodes)", there
    return "", frozenset()
