"""What a verdict, or a start, waits for a moment: nodes that we merely do not see whole, and nodes that are falling."""

from __future__ import annotations

import numpy as np

from controlplane.core.columns import BoolColumn
from controlplane.core.draft import Draft
from controlplane.core.fleet import NO_DOMAIN
from controlplane.core.jobs import Job
from controlplane.core.recovery.rungs import unsure
from controlplane.core.settling.words import say, some
from controlplane.core.units import ms, seconds
from controlplane.core.vocabulary import NodeLiveness


def waits_to_see(draft: Draft, job: Job, ranks: tuple[int, ...], since_ns: int) -> bool:
    """Whether to wait a moment for nodes of `ranks` that we merely do not see whole; says so."""
    since_ns = max(since_ns, draft.soft.trusted_since_ns())
    if draft.now_ns >= since_ns + draft.excused_ns(since_ns) + ms(draft.policy.patience_ms):
        return False
    hidden = unsure(job, draft.fleet, ranks)
    if hidden:
        say(draft, job, f"waits to see {some([draft.fleet.name(node) for node in hidden])} whole again")
    return bool(hidden)


def waits_for_the_fall(draft: Draft, job: Job, since_ns: int) -> bool:
    """Whether to wait, a lease at most, until more nodes of the job are DEAD or heard again; says so.

    The leases of a rack that loses its power end over the time between two beats. Whoever judges after the first of them
    starts a generation on nodes that are gone, and tells every rank of it, only to do so again a moment later.
    """
    since_ns = max(since_ns, draft.soft.trusted_since_ns())
    if draft.now_ns >= since_ns + draft.excused_ns(since_ns) + seconds(draft.policy.suspicion.lease_s):
        return False
    held = np.flatnonzero(job.per_node())
    falling = _falling(draft)[held].any()
    if falling:
        say(draft, job, "waits for nodes that fall with those that are lost")
    return bool(falling)


def waits_for_copies(draft: Draft, job: Job, since_ns: int) -> bool:
    """Whether to wait a moment until every node of the job that we talk with has said what it holds of it in memory; says so."""
    told = draft.soft.copies(job.uid).told
    since_ns = max(since_ns, draft.soft.trusted_since_ns())
    if told is None or draft.now_ns >= since_ns + draft.excused_ns(since_ns) + ms(draft.policy.copies_wait_ms):
        return False
    fleet = draft.fleet
    held = np.flatnonzero(job.per_node())
    silent = np.setdiff1d(held[fleet.session[held] & (fleet.liveness[held] != NodeLiveness.DEAD)], told)
    if len(silent):
        say(
            draft,
            job,
            f"waits for {some([fleet.name(node) for node in silent.tolist()])} to say what is held in memory",
        )
    return bool(len(silent))


def _falling(draft: Draft) -> BoolColumn:
    """Mask over nodes that will be DEAD in less than a lease, unless they are heard before: their stream has ended, or they are
    silent for more than half a lease, and the cell has lost their raylet, or a node of their failure domain that fell silent
    within a lease of them is DEAD."""
    fleet, lease_s = draft.fleet, draft.policy.suspicion.lease_s
    silence_s = draft.silence_s(draft.heard_ns())
    dead = fleet.liveness == NodeLiveness.DEAD
    silent: BoolColumn = ~dead & (~fleet.session | (silence_s > lease_s / 2)) & (silence_s <= lease_s)
    if not silent.any():
        return silent
    witnessed = fleet.cell_known & ~fleet.cell_member
    for kind in range(fleet.domains.shape[1]):
        domain = fleet.domains[:, kind]
        newest_s = np.full(int(domain.max(initial=0)) + 1, np.inf)
        fell = dead & (domain != NO_DOMAIN)
        np.minimum.at(newest_s, domain[fell], silence_s[fell])
        inside = silent & (domain != NO_DOMAIN)
        witnessed[inside] |= newest_s[domain[inside]] - silence_s[inside] <= lease_s
    return silent & witnessed
