"""Releases canaries at the rate of the site's policy, and notices those that nobody has seen."""

from __future__ import annotations

import numpy as np

from controlplane.core import records as r
from controlplane.core.columns import BoolColumn
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.fleet import FREE
from controlplane.core.health.canaries import MAX_FLYING, Outcome
from controlplane.core.units import NS_PER_MS, ms
from controlplane.core.vocabulary import NodeLiveness, NodeService


def canaries(draft: Draft) -> None:
    """Look after those that are awaited, then release the next one when it is time."""
    policy, book = draft.policy.canaries, draft.state.canaries
    if book.flying:
        _look_after(draft)
    due = policy.every_ms and draft.now_ns >= book.last_ns + ms(policy.every_ms)
    if due and max(len(book.flying), len(book.rested(draft.now_ns))) < MAX_FLYING:
        _release(draft)


def called_off(draft: Draft, node: str, number: int, reason: str) -> None:
    """The agent of a node could not raise a canary."""
    if draft.state.canaries.awaited(node, number) is not None:
        draft.write(r.CanaryEnded(node, number, Outcome.CALLED_OFF, 0, reason))


def _look_after(draft: Draft) -> None:
    deadline_ns, fleet = ms(draft.policy.canaries.deadline_ms), draft.fleet
    for canary in draft.state.canaries.flying:
        number = fleet.number(canary.node)
        heard = number is not None and fleet.session[number] and fleet.liveness[number] == NodeLiveness.ALIVE
        waited_ns = draft.now_ns - canary.at_ns
        if not heard:
            called_off(draft, canary.node, canary.number, "its node is not heard any more")
        elif waited_ns - draft.excused_ns(canary.at_ns) > deadline_ns:
            text = f"its fault is not recorded {waited_ns // NS_PER_MS / 1_000:g} s after it was released"
            draft.write(r.CanaryEnded(canary.node, canary.number, Outcome.MISSED, waited_ns // NS_PER_MS, text))


def _release(draft: Draft) -> None:
    """One node without ranks is drawn; where there is none now, the next tick tries again."""
    places = np.flatnonzero(_perches(draft))
    if not len(places):
        return
    name = draft.fleet.name(int(places[int(draft.draw * len(places)) % len(places)]))
    number = draft.state.canaries.released + 1
    draft.write(r.CanaryReleased(name, number))
    timeout_ms = draft.policy.canaries.deadline_ms
    draft.effect(EffectKind.RAISE_CANARY, f"node:{name}", items=(str(number),), timeout_ms=timeout_ms)


def _perches(draft: Draft) -> BoolColumn:
    """Mask over nodes that work, are heard, hold no rank, and had no canary a moment ago: spares and free ones."""
    fleet, book = draft.fleet, draft.state.canaries
    mask: BoolColumn = (
        (fleet.liveness == NodeLiveness.ALIVE)
        & (fleet.service == NodeService.IN_SERVICE)
        & fleet.session
        & ~fleet.path_broken
        & ~fleet.cordoned
        & (fleet.acc_owner == FREE).all(axis=1)
    )
    mask[[fleet.index[one.node] for one in (*book.flying, *book.rested(draft.now_ns)) if one.node in fleet.index]] = (
        False
    )
    for job in draft.state.active_jobs():
        if job.placed:
            mask[job.rank_node[job.present]] = False
    return mask
