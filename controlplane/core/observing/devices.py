"""What a node agent says of its accelerators."""

from __future__ import annotations

import numpy as np

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.evidence import Facts, Reason
from controlplane.core.jobs import NONE, LostRank, host_id
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.vocabulary import AcceleratorState, Blame


def device_rows(draft: Draft, event: ev.NodeReport, number: int) -> None:
    """Write down what has changed; ranks on devices that failed are lost."""
    fleet = draft.fleet
    known = fleet.facts[number].accelerators
    changed = tuple(
        row
        for row in event.accelerators
        if row.index >= len(known)
        or known[row.index] != row.device
        or int(fleet.acc_state[number][row.index]) != row.state
    )
    if not changed:
        return
    record = draft.write(r.AcceleratorsChanged(event.node, changed))
    for job in draft.state.active_jobs():
        draft.settle(job.uid)
    failed_devices(draft, event.node, number, changed, record)


def failed_devices(draft: Draft, node: str, number: int, rows: tuple[ev.AcceleratorRow, ...], record: int = 0) -> None:
    """Ranks on FAILED devices are lost; their processes are fenced. `record`: journal revision that says so."""
    failed = {row.index: row for row in rows if row.state == AcceleratorState.FAILED}
    if not failed:
        return
    for job in draft.state.active_jobs():
        if not job.placed or job.ending:
            continue
        lost = []
        for rank in np.flatnonzero((job.rank_node == number) & (job.rank_host != NONE)).tolist():
            hit = [failed[p] for p in job.rank_acc[rank].tolist() if p in failed]
            if hit:
                text = f"accelerator {hit[0].index} of {node} reports {hit[0].device.fault_code or 'FAILED'}"
                serial = int(job.rank_host[rank])
                told = Facts(Reason.DEVICE_FAULT, fault_code=hit[0].device.fault_code, record=record)
                evidence = f"probe: {text}"
                lost.append(LostRank(rank, serial, text, Blame.INFRASTRUCTURE, draft.now_ns, evidence, facts=told))
        if lost:
            names = tuple(host_id(job.uid, entry.serial) for entry in lost)
            draft.effect(EffectKind.FENCE_HOSTS, f"node:{node}", job=job.uid, items=names)
            lose_ranks(draft, job, tuple(lost), lost[0].cause)
