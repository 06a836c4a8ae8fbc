"""Records about a job's life and its places into state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controlplane.core import records as r
from controlplane.core.applying.hosts import select, unbind
from controlplane.core.checkpoints import MAX_PINS, Pin
from controlplane.core.columns import filled, put
from controlplane.core.fleet import FREE, Fleet
from controlplane.core.jobs import NONE, Job
from controlplane.core.recovery.elastic import in_replicas
from controlplane.core.state import MAX_ENDED_JOBS, State
from controlplane.core.vocabulary import JOB_STATES, IllegalTransition, JobState


def submitted(state: State, record: r.JobSubmitted, at_ns: int) -> None:
    """A job exists."""
    state.jobs[record.uid] = Job(record.name, record.uid, record.serial, record.spec, JobState.QUEUED, at_ns)
    state._owned.add(record.uid)  # noqa: SLF001 - made here, nobody else holds it
    state.names[record.name] = record.uid
    state.next_job = record.serial + 1
    if record.inherits:
        _inherit(state, state.jobs[record.uid], record.inherits)
    ended = [uid for uid, job in state.jobs.items() if job.terminal]
    for uid in ended[: max(0, len(ended) - MAX_ENDED_JOBS)]:
        gone = state.jobs.pop(uid)
        if state.names.get(gone.name) == uid:
            del state.names[gone.name]


def _inherit(state: State, job: Job, name: str) -> None:
    """A new job has another one's checkpoint beside its own to come. While it is listed here, neither lets it go."""
    origin = state.own_job(name.partition("/")[0])
    known = origin.checkpoints[name]
    pin = Pin(f"job/{job.uid}", f"{job.name} starts from it")
    if len(known.pins) < MAX_PINS:
        origin.checkpoints = {**origin.checkpoints, name: replace(known, pins=(*known.pins, pin))}
    job.checkpoints = {name: replace(known, pins=(pin,), productive_ns=0)}


def set_job_state(job: Job, target: JobState) -> None:
    """Change the state of a job.

    Raises:
        IllegalTransition: the tables do not allow it.
    """
    if target not in JOB_STATES[job.state]:
        raise IllegalTransition(f"job {job.name}: {job.state.name} to {target.name}")
    job.state = target


def reserve(state: State, job: Job, nodes: tuple[int, ...]) -> None:
    """Replace the nodes that are held back for a job."""
    fleet = state.own_fleet()
    if job.spare_nodes:
        fleet.reserved = put(fleet.reserved, list(job.spare_nodes), FREE)
    if nodes:
        fleet.reserved = put(fleet.reserved, list(nodes), job.serial)
    job.spare_nodes = nodes
    state.note_stock()


def _own_devices(fleet: Fleet, nodes: np.ndarray, positions: np.ndarray, owner: int) -> None:
    """Who holds the devices of ranks; ranks without a node hold none."""
    held = nodes != NONE
    nodes, positions = nodes[held], positions[held]
    owners = fleet.acc_owner.copy()
    owners[nodes[:, None], positions] = owner
    fleet.acc_owner = owners


def placed(state: State, record: r.JobPlaced) -> None:
    """Every rank has a place, and spare nodes are held back."""
    job = state.own_job(record.job)
    fleet = state.own_fleet()
    ranks = len(record.nodes)
    job.rank_node = np.array(record.nodes, dtype=np.int32)
    job.rank_acc = np.array(record.accelerators, dtype=np.int32).reshape(ranks, -1)
    job.rank_host = filled(ranks, NONE)
    job.rank_times = np.zeros((ranks, 4), dtype=np.int64)
    job.changed_ranks = tuple(range(ranks))
    _own_devices(fleet, job.rank_node, job.rank_acc, job.serial)
    set_job_state(job, JobState.PLACING)
    reserve(state, job, record.spares)


def unplaced(state: State, record: r.JobUnplaced) -> None:
    """The job gives its places back."""
    job = state.own_job(record.job)
    _own_devices(state.own_fleet(), job.rank_node, job.rank_acc, FREE)
    reserve(state, job, ())
    job.rank_node = filled(0, NONE)
    job.rank_acc = filled(0, NONE).reshape(0, 0)
    job.rank_host = filled(0, NONE)
    job.rank_times = np.zeros((0, 4), dtype=np.int64)
    job.changed_ranks = ()
    job.incident = None
    job.blocker = record.reason
    set_job_state(job, JobState.QUEUED)


def moved(state: State, record: r.RanksMoved) -> None:
    """Some ranks have other places."""
    job = state.own_job(record.job)
    fleet = state.own_fleet()
    rows = list(record.ranks)
    positions = np.array(record.accelerators, dtype=np.int32).reshape(len(rows), -1)
    _own_devices(fleet, job.rank_node[rows], job.rank_acc[rows], FREE)
    job.rank_node = put(job.rank_node, rows, record.nodes)
    job.rank_acc = put(job.rank_acc, rows, positions)
    _own_devices(fleet, job.rank_node[rows], positions, job.serial)


def replicas_dropped(state: State, record: r.ReplicasDropped) -> None:
    """Replicas take part no more: their ranks have neither place nor process."""
    job = state.own_job(record.job)
    ranks = np.flatnonzero(in_replicas(job.spec, record.replicas) & job.present)
    _own_devices(state.own_fleet(), job.rank_node[ranks], job.rank_acc[ranks], FREE)
    unbind(job, ranks.tolist(), job.rank_host[ranks].tolist())
    job.rank_node = put(job.rank_node, ranks, NONE)


def ended(state: State, record: r.JobEnded, at_ns: int) -> None:
    """The job holds nothing any more."""
    job = state.own_job(record.job)
    fleet = state.own_fleet()
    set_job_state(job, record.state)
    job.ended_ns, job.end_reason, job.blocker, job.incident = at_ns, record.reason, "", None
    fleet.acc_owner = np.where(fleet.acc_owner == job.serial, FREE, fleet.acc_owner).astype(np.int32)
    reserve(state, job, ())
    job.hosts = select(job.hosts, job.hosts.live())
