"""State as messages for operators: nodes, jobs with their ranks and recoveries, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from phalanx.v1 import agent_pb2, checkpoint_pb2, fleet_pb2, job_pb2
from phalanx.v1 import types_pb2 as pb

from controlplane.core.accounting.ledger import ettr
from controlplane.core.checkpoints import Checkpoint, pinned, restore_point
from controlplane.core.fleet import FREE
from controlplane.core.health.book import FaultNote, position_of
from controlplane.core.jobs import NONE, Incident, Job, Recovery, host_id, phases_of, root_cause
from controlplane.core.recovery.budgets import read_budget
from controlplane.core.recovery.restore_point import source
from controlplane.core.state import State
from controlplane.core.units import to_s
from controlplane.core.vocabulary import Blame, Bucket, CheckpointState, RankState
from controlplane.engine.soft import Progress
from controlplane.rpc.codec import rfc3339, spec_message
from controlplane.rpc.effects import checkpoint_folder
from controlplane.rpc.health_views import source_message
from controlplane.rpc.node_health_views import fault_messages, health_word, repair_messages, stay_message
from controlplane.rpc.straggler_views import parts_message, straggler_messages
from controlplane.rpc.upkeep_views import copies_message, save_interval_message, spares_message


def ledger_s(buckets: Mapping[str, int]) -> dict[str, float]:
    """Accelerator-seconds by bucket; every bucket is named."""
    return {bucket.value: to_s(buckets.get(bucket, 0)) for bucket in Bucket}


# --- nodes -----------------------------------------------------------------------------------------------------------


def node_message(state: State, number: int, last_beat_ns: int, now_ns: int) -> fleet_pb2.Node:
    """One node. `last_beat_ns` 0: it has not beaten since this controller started."""
    fleet = state.fleet
    facts = fleet.facts[number]
    owners = set(fleet.acc_owner[number].tolist()) | {int(fleet.reserved[number])}
    worst = _worst_faults(state, facts.name)
    return fleet_pb2.Node(
        name=facts.name,
        liveness=int(fleet.liveness[number]),  # type: ignore[arg-type] # same numbers as the wire's
        service=int(fleet.service[number]),  # type: ignore[arg-type]
        labels=dict(facts.labels),
        address=facts.address,
        cordons=[fleet_pb2.CordonReason(owner=cordon.owner, reason=cordon.reason) for cordon in facts.cordons],
        accelerators=[
            agent_pb2.AcceleratorStatus(
                index=index,
                serial=device.serial,
                pci_address=device.pci_address,
                vendor=device.vendor,
                model=device.model,
                state=int(fleet.acc_state[number][index]),  # type: ignore[arg-type]
                fault_code=worst[index].code if index in worst else device.fault_code,
                fault_message=worst[index].message if index in worst else device.fault_message,
            )
            for index, device in enumerate(facts.accelerators)
            if index < fleet.acc_state.shape[1]
        ],
        session_open=bool(fleet.session[number]),
        cell_member=bool(fleet.cell_member[number]),
        last_beat_age_s=to_s(max(0, now_ns - last_beat_ns)) if last_beat_ns else math.inf,
        jobs=[job.name for job in state.active_jobs() if job.serial in owners - {FREE}],
        boot_id=facts.boot_id,
        agent_version=facts.version,
        path_broken=bool(fleet.path_broken[number]),
        health=health_word(state, number),
        faults=fault_messages(state, number, now_ns),
        unreadable=[f"{source.name}: {source.reason}" for source in state.health.sources.get(facts.name, ())],
        stay=stay_message(state, number, now_ns),
        repairs=repair_messages(state, number, now_ns),
        sources=[source_message(facts.name, source, now_ns) for source in state.health.sources.get(facts.name, ())],
    )


def _worst_faults(state: State, node: str) -> dict[int, FaultNote]:
    """The worst fault that stands, by position of the device."""
    notes = sorted((fault.note for fault in state.health.on(node)), key=lambda note: note.level)
    return {position_of(note.entity): note for note in notes}


# --- jobs ------------------------------------------------------------------------------------------------------------


def step_of(job: Job, progress: Progress) -> int:
    """Newest finished step that is known; after a restart of the controller at least the restore point."""
    return max(progress.step, job.restore_step, job.last_step)


def job_message(state: State, job: Job, progress: Progress, now_ns: int, root: str, *, ranks: bool) -> job_pb2.Job:
    """One job. `state`: with its ledger booked up to now; `ranks`: with ranks, parked processes and recoveries."""
    newest = restore_point(job.checkpoints.values())
    step = step_of(job, progress)
    message = job_pb2.Job(
        name=job.name,
        uid=job.uid,
        state=job.state.value,  # type: ignore[arg-type] # same numbers as the wire's
        blocker=job.blocker,
        generation=job.generation,
        step=step,
        loss=progress.loss,
        step_time_s=progress.step_time_s,
        spec=spec_message(job.spec),
        ledger_s=ledger_s(job.ledger_ns),
        ettr=ettr(job.ledger_ns),
        end_reason=job.end_reason,
        result=job.result,
        submitted_at=rfc3339(job.submitted_ns),
        ended_at=rfc3339(job.ended_ns),
        restarts={blame.value: read_budget(job, blame, now_ns, step).used for blame in Blame},
        checkpoint_folder=checkpoint_folder(job, root),
        last_checkpoint_step=newest.step if newest else 0,
        ettr_last_hour=job.hour.ettr(),
        spares=spares_message(state, job),
        save_interval=save_interval_message(job),
        suspicion=job.suspicion.reason if job.suspicion else "",
        stragglers=straggler_messages(state, job),
        step_parts=parts_message(progress.parts),
    )
    if ranks:
        if job.placed:
            message.copies.CopyFrom(copies_message(state, job))
        message.ranks.extend(rank_messages(state, job, progress))
        message.parked.extend(_parked(state, job))
        message.recoveries.extend(_recovery(item) for item in job.recoveries)
        if job.incident is not None:
            message.recoveries.append(_running_recovery(job, job.incident))
    return message


def rank_messages(state: State, job: Job, progress: Progress) -> Iterable[job_pb2.Rank]:
    """All ranks of a placed job; those whose replica takes no part now have no node."""
    hosts = job.hosts
    for rank, (node, serial) in enumerate(zip(job.rank_node.tolist(), job.rank_host.tolist(), strict=True)):
        row = hosts.row(serial) if serial != NONE else NONE
        held = row != NONE
        forgotten = RankState.EXITED if serial != NONE else RankState.PENDING
        yield job_pb2.Rank(
            rank=rank,
            state=int(hosts.state[row]) if held else forgotten,  # type: ignore[arg-type] # same numbers as the wire's
            node=state.fleet.name(node) if node != NONE else "",
            accelerators=job.rank_acc[rank].tolist() if node != NONE else (),
            host_id=host_id(job.uid, serial) if serial != NONE else "",
            pid=int(hosts.pid[row]) if held else 0,
            host_pid=int(hosts.host_pid[row]) if held else 0,
            step=progress.by_rank.get(rank, 0),
        )


def _parked(state: State, job: Job) -> Iterable[job_pb2.ParkedHost]:
    """Live processes that hold no rank: parked, on the way there, or left behind and being fenced."""
    hosts = job.hosts
    for row in np.flatnonzero(hosts.live() & (hosts.rank == NONE)).tolist():
        yield job_pb2.ParkedHost(
            host_id=host_id(job.uid, int(hosts.serial[row])),
            node=state.fleet.name(int(hosts.node[row])),
            state=int(hosts.state[row]),  # type: ignore[arg-type]
            pid=int(hosts.pid[row]),
            host_pid=int(hosts.host_pid[row]),
        )


def _recovery(item: Recovery) -> job_pb2.Recovery:
    return job_pb2.Recovery(
        generation=item.generation,
        cause=item.cause,
        rung=item.rung,
        ranks=item.ranks,
        steps_lost=item.steps_lost,
        restore_step=item.restore_step,
        restore_source=source(item.restore_id, item.restore_step, item.restored_from),
        phases_s={phase: to_s(ns) for phase, ns in item.phases_ns.items()},
        complete=not item.overtaken,
        overtaken=item.overtaken,
        ledger=item.blame,
        started_at=rfc3339(item.fault_ns),
        total_s=to_s(sum(item.phases_ns.values())),
    )


def _running_recovery(job: Job, incident: Incident) -> job_pb2.Recovery:
    """The incident under way, with the phases that it has reached; neither complete nor overtaken."""
    phases = {phase: to_s(spent_ns) for phase, spent_ns in phases_of(incident, job.clock).items()}
    root = root_cause(incident.lost)
    return job_pb2.Recovery(
        generation=job.generation if incident.placed_ns else job.generation + 1,
        cause=root.cause if root else incident.cause,
        rung=incident.rung,
        ranks=sorted(lost.rank for lost in incident.lost),
        steps_lost=max(0, incident.step - job.restore_step) if incident.placed_ns else 0,
        restore_step=job.restore_step if incident.placed_ns else 0,
        restore_source=source(job.restore_id, job.restore_step, job.restored_from) if incident.placed_ns else "",
        phases_s=phases,
        ledger=root.blame.value if root else "",
        started_at=rfc3339(incident.fault_ns),
        total_s=sum(phases.values()),
    )


def watched(job: Job, progress: Progress) -> tuple[object, ...]:
    """What a watcher of a job is told about: equal values, nothing new."""
    return (
        job.state, job.blocker, job.generation, step_of(job, progress), job.hosts.state.tobytes(),
        job.hosts.serial.tobytes(), job.rank_host.tobytes(), len(job.recoveries), job.incident, job.ending,
        len(job.checkpoints),
    )  # fmt: skip


# --- checkpoints -----------------------------------------------------------------------------------------------------


def checkpoint_message(job: Job, checkpoint: Checkpoint) -> checkpoint_pb2.Checkpoint:
    """One checkpoint of a job."""
    keeper = pinned(job.checkpoints.values())
    files = checkpoint.files
    return checkpoint_pb2.Checkpoint(
        id=checkpoint.id,
        job=job.name,
        generation=checkpoint.generation,
        step=checkpoint.step,
        state=checkpoint.state.value,  # type: ignore[arg-type] # same numbers as the wire's
        folder=checkpoint.folder,
        bytes=sum(file.bytes for file in files),
        files=len(files),
        committed_at=rfc3339(checkpoint.committed_ns),
        reason=checkpoint.reason,
        pinned=bool(checkpoint.pins) or (keeper == checkpoint and checkpoint.state is CheckpointState.VERIFIED),
        pin_owners=[pin.owner for pin in checkpoint.pins],
        suspected=checkpoint.suspected,
    )


def placement_messages(state: State, fields: Mapping[str, str], per_rank: int) -> list[job_pb2.Rank]:
    """Ranks of an answer to a submission: node numbers and device positions as the machine wrote them."""
    nodes = [int(text) for text in fields.get("nodes", "").split()]
    devices = [int(text) for text in fields.get("accelerators", "").split()]
    return [
        job_pb2.Rank(
            rank=rank,
            state=pb.RANK_STATE_PENDING,
            node=state.fleet.name(node),
            accelerators=devices[rank * per_rank : (rank + 1) * per_rank],
        )
        for rank, node in enumerate(nodes)
    ]
