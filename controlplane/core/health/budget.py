"""The action budget: how much that works may be disturbed on purpose in a while. Pure.

Draining a node on which ranks run is such an act; recovering what is broken, cordons and uncordons are not. The cap is the
site's largest rack or a share of its nodes, whichever is more: a maintenance of one rack goes through, a script that drains
the site by mistake does not. What is refused is dropped, not queued.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from controlplane.core.fleet import Fleet
from controlplane.core.units import NS_PER_S, ms
from controlplane.core.vocabulary import NodeService


@dataclass(frozen=True, slots=True)
class ActionBudget:
    """`share` of the site's nodes in a sliding window of `window_ms`."""

    share: float = 0.05
    window_ms: int = 300_000


@dataclass(frozen=True, slots=True)
class Act:
    """A node whose running ranks were asked to leave, and when (Unix ns)."""

    node: int
    at_ns: int


def limit(fleet: Fleet, budget: ActionBudget) -> int:
    """Nodes that may be disturbed within the window. Nodes without a rack label share no rack."""
    sizes = np.bincount(fleet.rack, minlength=len(fleet.racks)) if fleet.size else np.zeros(0, dtype=np.int64)
    racks = [int(size) for size, name in zip(sizes.tolist(), fleet.racks, strict=True) if name]
    return max(1, int(fleet.size * budget.share), *racks) if racks else max(1, int(fleet.size * budget.share))


def refusal(fleet: Fleet, acts: Iterable[Act], budget: ActionBudget, now_ns: int) -> str:
    """Why one more node must not be disturbed now, and when it may be; "" when it may."""
    recent = {act.node: act.at_ns for act in acts if act.at_ns > now_ns - ms(budget.window_ms)}
    leaving = {int(node) for node in np.flatnonzero(fleet.service == NodeService.DRAINING)}
    counted, most = recent.keys() | leaving, limit(fleet, budget)
    if len(counted) < most:
        return ""
    text = (
        f"{len(counted)} nodes at work are draining or were drained in the last {budget.window_ms / 60_000:g} min; the site "
        f"allows {most} (its largest rack, or {budget.share:.0%} of its nodes): "
    )
    oldest = min((recent[node] for node in counted if node in recent and node not in leaving), default=None)
    if oldest is None:
        return text + "wait until one of them is empty, or uncordon one"
    return text + f"try again in {(oldest + ms(budget.window_ms) - now_ns) / NS_PER_S:.0f} s, or uncordon one"
