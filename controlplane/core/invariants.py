"""What must always hold, checked on the state after every turn in tests. Each check returns violations in prose.

Two forms. In full: `check` on a state, `check_step` between two. Incrementally: `check_turn` looks only at what the turn has
changed, which the columns themselves tell: they are replaced, never written in place. In long runs it comes after every
turn, the full form after every thousandth.
"""

from __future__ import annotations

import numpy as np

from controlplane.core.accounting.tally import count
from controlplane.core.checkpoints import Checkpoint, pinned
from controlplane.core.fleet import FREE
from controlplane.core.jobs import NONE, Job
from controlplane.core.state import State
from controlplane.core.vocabulary import CheckpointState, JobState, NodeLiveness, NodeService


def check(state: State) -> list[str]:
    """All violations of the safety invariants that the state alone can show; empty when all is well."""
    found = _ledger(state) + _devices(state) + _drained(state)
    for job in state.jobs.values():
        found += _ranks(job) + _restore(job) + _liveness(job)
    return found


def check_turn(before: State, after: State) -> list[str]:
    """Violations that a turn from one published state to the next can have brought about."""
    old, new = before.fleet, after.fleet
    found = check_step(before, after) + _sums(after)
    changed = [job for uid, job in after.jobs.items() if before.jobs.get(uid) is not job]
    moved = [job for job in changed if _places(before.jobs.get(job.uid)) != _places(job)]
    if moved or old.acc_owner is not new.acc_owner:
        found += _devices(after)
    if changed or old.service is not new.service or old.facts is not new.facts:
        found += _drained(after)
    for job in changed:
        if _bindings(before.jobs.get(job.uid)) != _bindings(job):
            found += _ranks(job)
        found += _restore(job) + _liveness(job)
    return found


def _places(job: Job | None) -> tuple[int, ...]:
    """What the devices of a job follow from, by identity."""
    return () if job is None else (id(job.rank_node), id(job.rank_acc), job.terminal)


def _bindings(job: Job | None) -> tuple[int, ...]:
    """What `_ranks` looks at, by identity."""
    if job is None:
        return ()
    hosts = job.hosts
    return tuple(map(id, (job.rank_host, job.rank_node, hosts.serial, hosts.rank, hosts.node)))


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
    hosts = job.hosts
    dead = state.fleet.liveness[hosts.node] == NodeLiveness.DEAD
    left = hosts.serial[(hosts.generation > 0) & (hosts.rank == NONE) & ~hosts.gone() & ~dead]
    found = [
        f"S1: host {serial} of {job.uid} may still run as generation {job.generation} starts"
        for serial in (left[~np.isin(left, job.rank_host)].tolist() if len(left) else ())
    ]
    bound = np.flatnonzero((job.rank_host != NONE) & ~state.fleet.schedulable()[job.rank_node])
    rows = old.hosts.rows(job.rank_host[bound])
    held = rows != NONE
    held[held] = old.hosts.generation[rows[held]] > 0
    fresh = bound[~held]
    return found + [
        f"S2: rank {rank} of {job.uid} starts on {state.fleet.name(int(job.rank_node[rank]))}"
        for rank in fresh.tolist()
    ]


def _ledger(state: State) -> list[str]:
    """S12 in full: what is booked is also what there is."""
    tally, counted = state.tally(), count(state.fleet)
    if not np.array_equal(tally.outside, counted.outside) or any(
        tally.of(job) != counted.of(job) for job in state.active_jobs()
    ):
        return ["S12: the devices that are booked are not those that there are", *_sums(state)]
    return _sums(state)


def _sums(state: State) -> list[str]:
    """S12: buckets sum to wall time x devices, none is negative, jobs' buckets lie within the site's."""
    found = []
    total = sum(state.ledger.site.values())
    if total != state.ledger.device_ns:
        found.append(f"S12: buckets sum to {total} ns, wall time x devices is {state.ledger.device_ns} ns")
    found += [f"S12: bucket {name} is negative" for name, value in state.ledger.site.items() if value < 0]
    for job in state.jobs.values():
        for bucket, value in job.ledger_ns.items():
            if value < 0:
                found.append(f"S12: bucket {bucket} of {job.uid} is negative")
            if value > state.ledger.site.get(bucket, 0):
                found.append(f"S12: bucket {bucket} of {job.uid} exceeds the site's")
        if (job.hour.productive > job.hour.total).any() or (job.hour.productive < 0).any():
            found.append(f"S12: the last hour of {job.uid} holds more productive time than time")
        if int(job.hour.total.sum()) > sum(job.ledger_ns.values()):
            found.append(f"S12: the last hour of {job.uid} holds more time than all of its life")
    return found


def _devices(state: State) -> list[str]:
    """Every device belongs to at most one job, and the owner column says what the rank tables say."""
    fleet = state.fleet
    expected = np.full_like(fleet.acc_owner, FREE)
    found = []
    for job in state.active_jobs():
        if not job.placed:
            continue
        nodes, positions = job.rank_node[job.present], job.rank_acc[job.present]
        at = nodes[:, None].astype(np.int64) * fleet.acc_owner.shape[1] + positions
        flat = expected.reshape(-1)
        if (flat[at] != FREE).any() or np.bincount(at.ravel()).max(initial=0) > 1:
            found.append(f"S1: two ranks share an accelerator of {job.uid}")
        flat[at] = job.serial
    if not np.array_equal(expected, fleet.acc_owner):
        found.append("owners of accelerators differ from the rank tables")
    return found


def _drained(state: State) -> list[str]:
    """A node leaves service by a drain only, and nothing is on a node that is drained."""
    fleet = state.fleet
    out = fleet.service == NodeService.OUT_OF_SERVICE
    away = np.flatnonzero(out | (fleet.service == NodeService.DRAINING)).tolist()
    found = [
        f"S2: {fleet.name(node)} is {NodeService(int(fleet.service[node])).name} and nobody drains it"
        for node in away
        if not any(cordon.drain for cordon in fleet.facts[node].cordons)
    ]
    if not out.any():
        return found
    for job in state.active_jobs():
        if job.placed and out[job.rank_node[job.present]].any():
            found.append(f"S2: ranks of {job.uid} are placed on a drained node")
        if (job.hosts.live() & out[job.hosts.node] & (fleet.liveness[job.hosts.node] != NodeLiveness.DEAD)).any():
            found.append(f"S1: processes of {job.uid} live on a drained node")
    return found


def _ranks(job: Job) -> list[str]:
    """Ranks and processes name each other, and stand on the same node."""
    if job.terminal or not job.placed:
        return []
    hosts = job.hosts
    held = hosts.rank != NONE
    ranks = hosts.rank[held]
    same = (job.rank_host[ranks] == hosts.serial[held]) & (job.rank_node[ranks] == hosts.node[held])
    if same.all() and len(ranks) == np.count_nonzero(job.rank_host != NONE):
        return []
    rows = job.host_rows()
    bound = np.flatnonzero(job.rank_host != NONE)
    rows, serials = rows[bound], job.rank_host[bound]
    agreed = rows != NONE
    agreed[agreed] = hosts.serial[rows[agreed]] == serials[agreed]
    found = [
        f"rank {rank} of {job.uid} is bound to host {serial}, which does not hold it"
        for rank, serial in zip(bound[~agreed].tolist(), serials[~agreed].tolist(), strict=True)
    ]
    bound, rows = bound[agreed], rows[agreed]
    apart = bound[hosts.node[rows] != job.rank_node[bound]].tolist()
    found += [f"rank {rank} of {job.uid} is placed on another node than its process" for rank in apart]
    if np.count_nonzero(hosts.rank != NONE) != len(bound):
        found.append(f"S1: processes of {job.uid} hold ranks that are not theirs")
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
