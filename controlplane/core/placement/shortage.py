"""Why a gang does not fit now, in one bounded sentence: what is short, who holds the rest, why nodes take no work. Pure."""

from __future__ import annotations

import numpy as np

from controlplane.core.fleet import FREE, Fleet
from controlplane.core.spec import JobSpec
from controlplane.core.vocabulary import AcceleratorState, NodeLiveness, NodeService

NAMED = 2
"""Nodes of one kind that are named; with more of them only their number is said."""


def shortage(fleet: Fleet, free: np.ndarray, spec: JobSpec) -> str:
    """The sentence. `free`: (nodes, width) mask of devices that the job could have now."""
    per_rank = spec.accelerators_per_rank
    wanted, have = spec.ranks * per_rank, int(free.sum())
    text = (
        f"needs {wanted} accelerator{'s' * (wanted > 1)}, {have} are free of {fleet.total_accelerators()} on the site"
    )
    notes = [f"{_short(fleet, wanted - have)} short" if wanted > have else f"not {per_rank} together for each rank"]
    held = int(np.count_nonzero(fleet.acc_owner != FREE))
    kept = int(np.count_nonzero((fleet.reserved != FREE) & fleet.schedulable()))
    if held:
        notes.append(f"{held} are held by jobs")
    if kept:
        notes.append(f"{kept} node{'s' * (kept > 1)} held back as warm spare{'s' * (kept > 1)}")
    return f"{text} ({', '.join([*notes, *excluded(fleet)])})"


def _short(fleet: Fleet, accelerators: int) -> str:
    width = int((fleet.acc_state != 0).sum(axis=1).max(initial=1)) or 1
    nodes = -(-accelerators // width)
    return f"{accelerators} accelerator{'s' * (accelerators > 1)} or {nodes} node{'s' * (nodes > 1)}"


def excluded(fleet: Fleet) -> list[str]:
    """Nodes that take no work, counted by the first reason that holds; a few are named."""
    left = ~fleet.schedulable() & (fleet.service != NodeService.RETIRED)
    reasons = (
        *(
            (state.name, fleet.liveness == state)
            for state in (NodeLiveness.DEAD, NodeLiveness.UNKNOWN, NodeLiveness.SUSPECT)
        ),
        ("with a broken path", fleet.path_broken),
        ("quarantined", fleet.service == NodeService.QUARANTINED),
        ("being checked", fleet.service == NodeService.VALIDATING),
        ("draining", fleet.service == NodeService.DRAINING),
        ("drained", fleet.service == NodeService.OUT_OF_SERVICE),
        ("cordoned", fleet.cordoned),
        ("without agent session", ~fleet.session),
        ("not in a cell", ~fleet.cell_member),
        ("not in service", ~fleet.serving()),
    )
    notes = []
    for word, mask in reasons:
        found = np.flatnonzero(left & mask)
        left = left & ~mask
        if len(found):
            names = ": " + ", ".join(fleet.name(int(node)) for node in found) if len(found) <= NAMED else ""
            notes.append(f"{len(found)} {word}{names}")
    unread = int(np.count_nonzero((fleet.acc_state == AcceleratorState.UNKNOWN) & fleet.schedulable()[:, None]))
    notes += [f"{unread} accelerator{'s' * (unread > 1)} UNKNOWN, nobody can read them"] * bool(unread)
    broken = -unread + int(
        np.count_nonzero((fleet.acc_state != 0) & ~fleet.usable_accelerators() & fleet.schedulable()[:, None])
    )
    return notes + [f"{broken} broken accelerator{'s' * (broken > 1)}"] * bool(broken)
