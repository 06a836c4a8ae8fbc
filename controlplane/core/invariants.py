"""What must always hold, checked on the state after every turn in tests. Each check returns violations in prose."""

from __future__ import annotations

import numpy as np

from controlplane.core.accounting.tally import count
from controlplane.core.checkpoints import Checkpoint, pinned
from controlplane.core.fleet import FREE
from controlplane.core.jobs import NONE, Job
from controlplane.core.state import State
from controlplane.core.vocabulary import CheckpointState, JobState, NodeLiveness, NodeService, RankState


def check(state: State) -> list[str]:
    """All violations of the safety invariants that the state alone can show; empty when all is well."""
    found = _ledger(state) + _devices(state) + _drained(state)
    for job in state.jobs.values():
        found += _ranks(state, job) + _restore(job) + _liveness(job)
    return found


def check_step(before: State, after: State) -> list[str]:
    """Violations that only show between two states: what may only grow (S4), and the pinned checkpoint (S10)."""
    found = []
    if after.epoch < before.epoch:
        found.append(f"S4: epoch went from {before.epoch} to {after.epoch}")
    if after.audit.number < before.audit.number or (after.audit.number == before.audit.number) != (
        after.audit == before.audit
    ):
        found.append(f"audit: the head went from {before.audit} to {after.audit}")
    for uid, old in before.jobs.items():
        new = after.jobs.get(uid)
        if new is None:
            continue
        if new.generation < old.generation:
            found.append(f"S4: generation of {uid} went from {old.generation} to {new.generation}")
        keeper = pinned(old.checkpoints.values())
        if keeper and keeper.id not in new.checkpoints and not _as_good(pinned(new.checkpoints.values()), keeper):
            found.append(f"S10: pinned checkpoint {keeper.id} is gone")
        if new.generation > old.generation:
            found += _fresh_generation(after, old, new)
    return found


def _as_good(heir: Checkpoint | None, keeper: Checkpoint) -> bool:
    """Whether a newer checkpoint, read back if the old one was, took the pinned one's place in the same turn."""
    if heir is None or heir.step < keeper.step:
        return False
    return heir.state is CheckpointState.VERIFIED or keeper.state is not CheckpointState.VERIFIED


def _fresh_generation(state: State, old: Job, job: Job) -> list[str]:
    """S1 and S2 at the moment a generation starts. `old`: the job before, which tells who held a rank already."""
    found = []
    hosts = job.hosts
    serials = set(job.rank_host.tolist())
    for serial, node, generation, host_state, empty in zip(
        hosts.serial.tolist(), hosts.node.tolist(), hosts.generation.tolist(), hosts.state.tolist(),
        hosts.empty.tolist(), strict=True,
    ):  # fmt: skip
        gone = host_state == RankState.EXITED and empty
        dead = state.fleet.liveness[node] == NodeLiveness.DEAD
        if generation > 0 and serial not in serials and not gone and not dead:
            found.append(f"S1: host {serial} of {job.uid} may still run as generation {job.generation} starts")
    takes_work = state.fleet.schedulable()
    for rank in np.flatnonzero(job.rank_host != NONE).tolist():
        row = old.hosts.row(int(job.rank_host[rank]))
        fresh = row == NONE or old.hosts.generation[row] == 0
        if fresh and not takes_work[job.rank_node[rank]]:
            found.append(f"S2: rank {rank} of {job.uid} starts on {state.fleet.name(int(job.rank_node[rank]))}")
    return found


def _ledger(state: State) -> list[str]:
    """S12: buckets sum to wall time x devices, none is negative, jobs' buckets lie within the site's."""
    found = []
    total = sum(state.ledger.site.values())
    if total != state.ledger.device_ns:
        found.append(f"S12: buckets sum to {total} ns, wall time x devices is {state.ledger.device_ns} ns")
    tally, counted = state.tally(), count(state.fleet)
    if not np.array_equal(tally.outside, counted.outside) or any(
        tally.of(job) != counted.of(job) for job in state.active_jobs()
    ):
        found.append("S12: the devices that are booked are not those that there are")
    found += [f"S12: bucket {name} is negative" for name, value in state.ledger.site.items() if value < 0]
    for job in state.jobs.values():
        for bucket, value in job.ledger_ns.items():
            if value < 0:
                found.append(f"S12: bucket {bucket} of {job.uid} is negative")
            if value > state.ledger.site.get(bucket, 0):
                found.append(f"S12: bucket {bucket} of {job.uid} exceeds the site's")
    return found


def _devices(state: State) -> list[str]:
    """Every device belongs to at most one job, and the owner column says what the rank tables say."""
    fleet = state.fleet
    expected = np.full_like(fleet.acc_owner, FREE)
    found = []
    for job in state.active_jobs():
        if not job.placed:
            continue
        at = job.rank_node[job.present][:, None], job.rank_acc[job.present]
        if (expected[at] != FREE).any():
            found.append(f"S1: two ranks share an accelerator of {job.uid}")
        expected[at] = job.serial
    if not np.array_equal(expected, fleet.acc_owner):
        found.append("owners of accelerators differ from the rank tables")
    return found


def _drained(state: State) -> list[str]:
    """A node leaves service by a drain only, and nothing is on a node that is drained."""
    fleet = state.fleet
    away = np.flatnonzero(np.isin(fleet.service, (NodeService.DRAINING, NodeService.OUT_OF_SERVICE))).tolist()
    found = [
        f"S2: {fleet.name(node)} is {NodeService(int(fleet.service[node])).name} and nobody drains it"
        for node in away
        if not any(cordon.drain for cordon in fleet.facts[node].cordons)
    ]
    out = fleet.service == NodeService.OUT_OF_SERVICE
    if not out.any():
        return found
    for job in state.active_jobs():
        if job.placed and out[job.rank_node[job.present]].any():
            found.append(f"S2: ranks of {job.uid} are placed on a drained node")
        if (job.hosts.live() & out[job.hosts.node] & (fleet.liveness[job.hosts.node] != NodeLiveness.DEAD)).any():
            found.append(f"S1: processes of {job.uid} live on a drained node")
    return found


def _ranks(state: State, job: Job) -> list[str]:
    if job.terminal or not job.placed:
        return []
    found = []
    bound = job.rank_host[job.rank_host != NONE]
    if len(np.unique(bound)) != len(bound):
        found.append(f"S1: a process of {job.uid} holds two ranks")
    for rank, serial in enumerate(job.rank_host.tolist()):
        if serial == NONE:
            continue
        row = job.hosts.row(serial)
        if row == NONE:
            found.append(f"rank {rank} of {job.uid} is bound to unknown host {serial}")
        elif int(job.hosts.rank[row]) != rank:
            found.append(f"rank {rank} of {job.uid}: host {serial} says rank {int(job.hosts.rank[row])}")
        elif int(job.hosts.node[row]) != int(job.rank_node[rank]):
            found.append(f"rank {rank} of {job.uid} is placed on another node than its process")
    return found


def _restore(job: Job) -> list[str]:
    """S5: a generation starts from step 0 or from a checkpoint that was complete."""
    if not job.restore_id or job.terminal:
        return []
    known = job.checkpoints.get(job.restore_id)
    if known is not None and known.committed_ns == 0:
        return [f"S5: generation {job.generation} of {job.uid} starts from incomplete {job.restore_id}"]
    return []


def _liveness(job: Job) -> list[str]:
    """L1 as a safety property: whoever does not run says what it waits for."""
    waiting = job.state in (JobState.PLACING, JobState.SUSPENDED) or (
        job.state is JobState.RECOVERING and job.incident is not None and job.incident.decided_ns > 0
    )
    if waiting and not job.blocker and not job.clock.announced_ns and job.ending is None:
        return [f"L1: job {job.uid} is {job.state.name} and names no blocker"]
    return []
