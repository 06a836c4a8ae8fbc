"""Records into state: the only place where anything changes, the same in life and in replay. Decides nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import assert_never

import numpy as np

from controlplane.core import records as r
from controlplane.core.accounting.ledger import move
from controlplane.core.audit import Head
from controlplane.core.checkpoints import Checkpoint, Pin
from controlplane.core.columns import filled, put
from controlplane.core.fleet import FREE, Accelerator, Cordon, Fleet, NodeFacts
from controlplane.core.health.budget import Act
from controlplane.core.identity import Identity, IdentityBook, Token
from controlplane.core.jobs import NONE, GenerationClock, Hosts, Incident, Job, LostRank, Recovery, Restart, root_cause
from controlplane.core.state import MAX_ACTS, MAX_ANSWERS, MAX_ENDED_JOBS, MAX_RECOVERIES, Answered, Cell, State
from controlplane.core.units import NS_PER_MS
from controlplane.core.vocabulary import (
    CHECKPOINT_STATES,
    JOB_STATES,
    NODE_LIVENESS,
    Blame,
    Bucket,
    CheckpointState,
    IllegalTransition,
    JobState,
    NodeLiveness,
    NodeService,
    Phase,
    RankState,
    Rung,
)


def apply(state: State, record: r.Record, at_ns: int) -> None:
    """Change a working state as the record says. `at_ns`: the record's time, Unix nanoseconds.

    Raises:
        IllegalTransition: the record contradicts the transition tables (a defect).
    """
    state.advance_ledger(at_ns)
    state.revision += 1
    state.at_ns = at_ns
    _apply(state, record, at_ns)


def _apply(state: State, record: r.Record, at_ns: int) -> None:  # noqa: PLR0915 - one arm per record type
    match record:
        case r.ControllerStarted():
            _controller_started(state, record)
        case r.NodeRegistered():
            _node_registered(state, record)
        case r.NodeSessionChanged():
            fleet, number = _node(state, record.node)
            fleet.session = put(fleet.session, number, record.open)
            fleet.set_facts(number, replace(fleet.facts[number], boot_id=record.boot_id))
        case r.LivenessChanged():
            _liveness(state, record)
        case r.AcceleratorsChanged():
            _accelerators(state, record)
        case r.NodeCordoned():
            fleet, number = _node(state, record.node)
            _note_act(state, number, at_ns, drain=record.drain)
            kept = tuple(c for c in fleet.facts[number].cordons if c.owner != record.owner)
            _cordons(state, fleet, number, (*kept, Cordon(record.owner, record.reason, record.items, record.drain)))
        case r.NodeUncordoned():
            fleet, number = _node(state, record.node)
            kept = tuple(c for c in fleet.facts[number].cordons if c.owner != record.owner)
            _cordons(state, fleet, number, kept)
        case r.NodeDrained():
            fleet, number = _node(state, record.node)
            fleet.service = put(fleet.service, number, NodeService.OUT_OF_SERVICE)
        case r.CellSessionChanged():
            state.cells[record.cell] = Cell(
                record.cell, record.open, record.boot_id, record.incarnation, record.store_address
            )
        case r.CellMembershipChanged():
            _membership(state, record)
        case r.JobSubmitted():
            _submitted(state, record, at_ns)
        case r.JobPlaced():
            _placed(state, record)
        case r.JobUnplaced():
            _unplaced(state, record)
        case r.RanksMoved():
            _moved(state, record)
        case r.SparesChanged():
            job = state.own_job(record.job)
            _reserve(state, job, record.nodes)
        case r.JobStateChanged():
            job = state.own_job(record.job)
            if job.state is not record.state:
                _set_job_state(job, record.state)
            job.blocker = record.blocker
        case r.HostsRequested():
            _hosts_requested(state, record, at_ns)
        case r.HostsObserved():
            _hosts_observed(state, record)
        case r.HostEnded():
            _host_ended(state, record, at_ns)
        case r.HostsForgotten():
            job = state.own_job(record.job)
            keep = ~np.isin(job.hosts.serial, np.array(record.serials, dtype=np.int32))
            job.hosts = _select(job.hosts, keep)
        case r.StartFailed():
            job = state.own_job(record.job)
            if record.serial >= job.failed_below:
                job.failed_starts += 1
                job.failed_below = job.next_host
            job.last_error = record.message
        case r.RanksLost():
            _ranks_lost(state, record, at_ns)
        case r.RecoveryDecided():
            _decided(state, record, at_ns)
        case r.SurvivorsGivenUp():
            job = state.own_job(record.job)
            _unbind(job, list(record.ranks), [int(job.rank_host[rank]) for rank in record.ranks])
        case r.GenerationStarted():
            _generation(state, record, at_ns)
        case r.GenerationReached():
            _reached(state, record)
        case r.JoinFailed():
            job = state.own_job(record.job)
            if job.incident:
                job.incident = replace(job.incident, attempts=job.incident.attempts + 1)
        case r.ShardReported():
            _shard(state, record)
        case r.CheckpointCommitted():
            _committed(state, record, at_ns)
        case r.CheckpointVerified():
            _checkpoint_state(state, record.job, record.checkpoint, CheckpointState.VERIFIED, "")
        case r.CheckpointPoisoned():
            _checkpoint_state(state, record.job, record.checkpoint, CheckpointState.POISONED, record.reason)
        case r.CheckpointPinned():
            _pin(state, record, (Pin(record.owner, record.reason),))
        case r.CheckpointUnpinned():
            _pin(state, record, ())
        case r.JournalRestored():
            _journal_restored(state, record)
        case r.Audited():
            state.audit = Head(record.entry.number, record.entry.digest)
        case r.CheckpointsExpired():
            _expired(state, record)
        case r.JobEnding():
            job = state.own_job(record.job)
            job.ending, job.end_reason, job.result = record.state, record.reason, record.result
            job.last_step = record.step
        case r.JobEnded():
            _ended(state, record, at_ns)
        case r.EffectsIssued():
            for effect in record.effects:
                state.effects[effect.id] = effect
            state.next_effect += len(record.effects)
        case r.EffectsFinished():
            for effect_id in record.ids:
                state.effects.pop(effect_id, None)
        case r.TokenCreated() | r.TokenSpent() | r.CertificateIssued() | r.IdentityRevoked() | r.IdentityReinstated():
            state.identity = _identity(state.identity, record, at_ns)
        case r.RequestAnswered():
            state.answers[record.request_id] = Answered(record.answer, record.command)
            while len(state.answers) > MAX_ANSWERS:
                state.answers.pop(next(iter(state.answers)))
        case _:
            assert_never(record)


def _node(state: State, name: str) -> tuple[Fleet, int]:
    fleet = state.own_fleet()
    return fleet, fleet.index[name]


def _note_act(state: State, number: int, at_ns: int, *, drain: bool) -> None:
    """A node whose ranks are asked to leave is an act that the budget counts; asked again it is none."""
    if not drain or state.fleet.service[number] != NodeService.IN_SERVICE:
        return
    if any(job.placed and (job.rank_node == number).any() for job in state.active_jobs()):
        state.acts = (*state.acts, Act(number, at_ns))[-MAX_ACTS:]


def _cordons(state: State, fleet: Fleet, number: int, cordons: tuple[Cordon, ...]) -> None:
    """The reasons of a node; with the first one that drains it leaves service, with the last one it comes back."""
    fleet.set_facts(number, replace(fleet.facts[number], cordons=cordons))
    service = NodeService(int(fleet.service[number]))
    drains = any(cordon.drain for cordon in cordons)
    if drains and service is NodeService.IN_SERVICE:
        fleet.service = put(fleet.service, number, NodeService.DRAINING)
    elif not drains and service in (NodeService.DRAINING, NodeService.OUT_OF_SERVICE):
        fleet.service = put(fleet.service, number, NodeService.IN_SERVICE)
    state.touch_counts()


def _journal_restored(state: State, record: r.JournalRestored) -> None:
    state.next_job += record.skipped
    state.next_effect += record.skipped
    for job in state.active_jobs():
        changed = state.own_job(job.uid)
        changed.next_host += record.skipped
        changed.skipped_generations += record.skipped


def _controller_started(state: State, record: r.ControllerStarted) -> None:
    if record.epoch <= state.epoch:
        raise IllegalTransition(f"epoch {record.epoch} after {state.epoch}")
    state.epoch = record.epoch
    fleet = state.own_fleet()
    fleet.session = np.zeros(fleet.size, dtype=np.bool_)
    state.cells = {name: replace(cell, open=False) for name, cell in state.cells.items()}


def _node_registered(state: State, record: r.NodeRegistered) -> None:
    fleet = state.own_fleet()
    number = fleet.number(record.node)
    if number is None:
        number = fleet.add(NodeFacts(record.node, labels=record.labels))
    facts = replace(
        fleet.facts[number],
        boot_id=record.boot_id,
        address=record.address,
        version=record.version,
        labels=record.labels,
        accelerators=record.accelerators,
    )
    fleet.set_facts(number, facts)
    fleet.set_accelerators(number, record.accelerators, record.states)
    if fleet.service[number] == NodeService.JOINING:
        fleet.service = put(fleet.service, number, NodeService.IN_SERVICE)
    state.touch_counts()


def _liveness(state: State, record: r.LivenessChanged) -> None:
    fleet = state.own_fleet()
    for name in record.nodes:
        number = fleet.index[name]
        before = NodeLiveness(int(fleet.liveness[number]))
        if before is record.liveness:
            continue
        if record.liveness not in NODE_LIVENESS[before]:
            raise IllegalTransition(f"node {name}: {before.name} to {record.liveness.name}")
        fleet.liveness = put(fleet.liveness, number, record.liveness)
        if record.liveness is NodeLiveness.DEAD:
            fleet.session = put(fleet.session, number, False)
    state.touch_counts()


def _accelerators(state: State, record: r.AcceleratorsChanged) -> None:
    fleet, number = _node(state, record.node)
    devices = list(fleet.facts[number].accelerators)
    row = fleet.acc_state[number].copy()
    for change in record.rows:
        while len(devices) <= change.index:
            devices.append(Accelerator(""))
        devices[change.index] = change.device
        if change.index < len(row):
            row[change.index] = change.state
    fleet.set_facts(number, replace(fleet.facts[number], accelerators=tuple(devices)))
    fleet.acc_state = put(fleet.acc_state, number, row)
    state.touch_counts()


def _membership(state: State, record: r.CellMembershipChanged) -> None:
    fleet = state.own_fleet()
    for names, member in ((record.joined, True), (record.left, False)):
        rows = [fleet.index[name] for name in names if name in fleet.index]
        fleet.cell_member = put(fleet.cell_member, rows, member)
    fleet.cell_known = fleet.cell_known | fleet.cell_member


def _submitted(state: State, record: r.JobSubmitted, at_ns: int) -> None:
    state.jobs[record.uid] = Job(record.name, record.uid, record.serial, record.spec, JobState.QUEUED, at_ns)
    state._owned.add(record.uid)  # noqa: SLF001 - made here, nobody else holds it
    state.names[record.name] = record.uid
    state.next_job = record.serial + 1
    ended = [uid for uid, job in state.jobs.items() if job.terminal]
    for uid in ended[: max(0, len(ended) - MAX_ENDED_JOBS)]:
        gone = state.jobs.pop(uid)
        if state.names.get(gone.name) == uid:
            del state.names[gone.name]


def _set_job_state(job: Job, target: JobState) -> None:
    if target not in JOB_STATES[job.state]:
        raise IllegalTransition(f"job {job.name}: {job.state.name} to {target.name}")
    job.state = target


def _reserve(state: State, job: Job, nodes: tuple[int, ...]) -> None:
    fleet = state.own_fleet()
    if job.spare_nodes:
        fleet.reserved = put(fleet.reserved, list(job.spare_nodes), FREE)
    if nodes:
        fleet.reserved = put(fleet.reserved, list(nodes), job.serial)
    job.spare_nodes = nodes
    state.touch_counts()


def _own_devices(fleet: Fleet, nodes: np.ndarray, positions: np.ndarray, owner: int) -> None:
    owners = fleet.acc_owner.copy()
    owners[nodes[:, None], positions] = owner
    fleet.acc_owner = owners


def _placed(state: State, record: r.JobPlaced) -> None:
    job = state.own_job(record.job)
    fleet = state.own_fleet()
    ranks = len(record.nodes)
    job.rank_node = np.array(record.nodes, dtype=np.int32)
    job.rank_acc = np.array(record.accelerators, dtype=np.int32).reshape(ranks, -1)
    job.rank_host = filled(ranks, NONE)
    job.rank_times = np.zeros((ranks, 4), dtype=np.int64)
    job.changed_ranks = tuple(range(ranks))
    _own_devices(fleet, job.rank_node, job.rank_acc, job.serial)
    _set_job_state(job, JobState.PLACING)
    _reserve(state, job, record.spares)
    state.touch_counts()


def _unplaced(state: State, record: r.JobUnplaced) -> None:
    job = state.own_job(record.job)
    _own_devices(state.own_fleet(), job.rank_node, job.rank_acc, FREE)
    _reserve(state, job, ())
    job.rank_node = filled(0, NONE)
    job.rank_acc = filled(0, NONE).reshape(0, 0)
    job.rank_host = filled(0, NONE)
    job.rank_times = np.zeros((0, 4), dtype=np.int64)
    job.changed_ranks = ()
    job.incident = None
    job.blocker = record.reason
    _set_job_state(job, JobState.QUEUED)
    state.touch_counts()


def _moved(state: State, record: r.RanksMoved) -> None:
    job = state.own_job(record.job)
    fleet = state.own_fleet()
    rows = list(record.ranks)
    positions = np.array(record.accelerators, dtype=np.int32).reshape(len(rows), -1)
    _own_devices(fleet, job.rank_node[rows], job.rank_acc[rows], FREE)
    job.rank_node = put(job.rank_node, rows, record.nodes)
    job.rank_acc = put(job.rank_acc, rows, positions)
    _own_devices(fleet, job.rank_node[rows], positions, job.serial)
    state.touch_counts()


def _select(hosts: Hosts, rows: np.ndarray) -> Hosts:
    return Hosts(*(getattr(hosts, f.name)[rows] for f in dataclasses.fields(Hosts)))


def _hosts_requested(state: State, record: r.HostsRequested, at_ns: int) -> None:
    job = state.own_job(record.job)
    count = len(record.serials)
    old = job.hosts
    none = filled(count, NONE)
    job.hosts = Hosts(
        np.append(old.serial, np.array(record.serials, dtype=np.int32)),
        np.append(old.node, np.array(record.nodes, dtype=np.int32)),
        np.append(old.state, filled(count, RankState.STARTING, np.uint8)),
        np.append(old.rank, none),
        np.append(old.generation, filled(count, 0)),
        np.append(old.pid, filled(count, 0)),
        np.append(old.host_pid, filled(count, 0)),
        np.append(old.since_ms, filled(count, at_ns // NS_PER_MS, np.int64)),
        np.append(old.empty, filled(count, 0, np.uint8)),
    )
    job.next_host = max(job.next_host, *(s + 1 for s in record.serials))


def _hosts_observed(state: State, record: r.HostsObserved) -> None:
    job = state.own_job(record.job)
    hosts = job.hosts
    rows = [hosts.row(row.serial) for row in record.rows]
    job.hosts = replace(
        hosts,
        state=put(hosts.state, rows, [row.state for row in record.rows]),
        pid=put(hosts.pid, rows, [row.pid for row in record.rows]),
        host_pid=put(hosts.host_pid, rows, [row.host_pid for row in record.rows]),
        since_ms=put(hosts.since_ms, rows, [row.since_ns // NS_PER_MS for row in record.rows]),
    )
    bound = [
        row
        for row in record.rows
        if row.rank >= 0 and row.generation == job.generation and int(job.rank_host[row.rank]) == row.serial
    ]
    if bound:
        times = [(row.joining_ns, row.rendezvous_ns, row.restored_ns, row.first_step_ns) for row in bound]
        job.rank_times = put(job.rank_times, [row.rank for row in bound], times)


def _host_ended(state: State, record: r.HostEnded, at_ns: int) -> None:
    job = state.own_job(record.job)
    hosts = job.hosts
    row = hosts.row(record.serial)
    final = RankState.EXITED if record.exit.observed or record.exit.group_empty else RankState.LOST
    job.hosts = replace(
        hosts,
        state=put(hosts.state, row, final),
        since_ms=put(hosts.since_ms, row, at_ns // NS_PER_MS),
        empty=put(hosts.empty, row, record.exit.group_empty),
    )
    if record.exit.finished:
        job.result = {**job.result, **record.exit.result}
    elif record.exit.message:
        job.last_error = record.exit.message


def _ranks_lost(state: State, record: r.RanksLost, at_ns: int) -> None:
    job = state.own_job(record.job)
    fault_ns = min((lost.fault_ns for lost in record.lost), default=at_ns)
    first_notice = job.incident is None
    if job.incident is None:
        job.failed_starts = 0
        job.incident = Incident(fault_ns, at_ns, record.collect_until_ns, record.lost, record.step, record.cause)
    else:
        overtaken = job.incident.decided_ns > 0
        if overtaken:
            job.recoveries = _keep(job.recoveries, _recovery(job, overtaken=True))
        # What was decided and charged is not judged again; what was only suspended still has to be.
        earlier = () if overtaken and job.incident.rung != Rung.SUSPEND else job.incident.lost
        known = {lost.rank for lost in earlier}
        added = tuple(lost for lost in record.lost if lost.rank not in known)
        job.incident = replace(
            job.incident,
            lost=(*earlier, *added),
            decided_ns=0,
            placed_ns=0,
            collect_until_ns=record.collect_until_ns,
            cause=record.cause if overtaken else job.incident.cause,
            step=max(job.incident.step, record.step),
            fault_ns=job.incident.fault_ns if not overtaken else fault_ns,
            detected_ns=job.incident.detected_ns if not overtaken else at_ns,
        )
    if job.state is JobState.RUNNING and first_notice:
        devices = state._current_counts()[1].get(job.uid, 0)  # noqa: SLF001 - same module family
        delay = max(0, at_ns - fault_ns) * devices
        job.ledger_ns = move(state.ledger, job.ledger_ns, Bucket.PRODUCTIVE, Bucket.DETECTION, delay)
    if job.state in (JobState.RUNNING, JobState.STARTING):
        _set_job_state(job, JobState.RECOVERING)
    _unbind(job, [lost.rank for lost in record.lost], [lost.serial for lost in record.lost])


def _unbind(job: Job, ranks: list[int], serials: list[int]) -> None:
    """Take ranks from their processes; the processes stay known until they are reported empty."""
    rows = [row for row in (job.hosts.row(serial) for serial in serials) if row != NONE]
    job.rank_host = put(job.rank_host, ranks, NONE)
    job.hosts = replace(job.hosts, rank=put(job.hosts.rank, rows, NONE))
    job.changed_ranks = tuple(sorted({*job.changed_ranks, *ranks}))


def _keep(recoveries: tuple[Recovery, ...], new: Recovery) -> tuple[Recovery, ...]:
    return (*recoveries, new)[-MAX_RECOVERIES:]


def _decided(state: State, record: r.RecoveryDecided, at_ns: int) -> None:
    job = state.own_job(record.job)
    if record.charged:
        job.restarts = (*job.restarts, Restart(record.blame, at_ns, record.step))[-1024:]
    job.not_before_ns = record.not_before_ns
    if job.incident:
        job.incident = replace(job.incident, decided_ns=at_ns, rung=record.rung, reason=record.reason, placed_ns=0)


def _generation(state: State, record: r.GenerationStarted, at_ns: int) -> None:
    job = state.own_job(record.job)
    if record.generation != job.next_generation:
        raise IllegalTransition(f"job {job.name}: generation {record.generation} after {job.generation}")
    hosts = job.hosts
    job.generation = record.generation
    job.rank_host = np.array(record.hosts, dtype=np.int32)
    rows = hosts.rows(job.rank_host)
    job.hosts = replace(
        hosts,
        rank=put(hosts.rank, rows, np.arange(len(rows), dtype=np.int32)),
        generation=put(hosts.generation, rows, record.generation),
    )
    job.restore_id, job.restore_step = record.restore_id, record.restore_step
    job.changed_ranks = ()
    job.failed_starts = 0
    job.clock = GenerationClock(announced_ns=at_ns)
    job.rank_times = np.zeros_like(job.rank_times)
    job.blocker = ""
    if job.incident:
        job.incident = replace(job.incident, placed_ns=at_ns)
        _book_wasted(state, job)
    if job.state is JobState.PLACING:
        _set_job_state(job, JobState.STARTING)


def _book_wasted(state: State, job: Job) -> None:
    """Steps after the restore point are lost: what was productive since then is WASTED_PROGRESS (S12 stays true)."""
    base = job.checkpoints[job.restore_id].productive_ns if job.restore_id in job.checkpoints else 0
    lost = job.ledger_ns.get(Bucket.PRODUCTIVE, 0) - base
    job.ledger_ns = move(state.ledger, job.ledger_ns, Bucket.PRODUCTIVE, Bucket.WASTED_PROGRESS, lost)


def _reached(state: State, record: r.GenerationReached) -> None:
    job = state.own_job(record.job)
    clock = job.clock
    match record.phase:
        case Phase.START:
            job.clock = replace(clock, joining_ns=record.at_ns)
        case Phase.RENDEZVOUS:
            job.clock = replace(clock, rendezvous_ns=record.at_ns)
        case Phase.RESTORE:
            job.clock = replace(clock, restored_ns=record.at_ns)
        case Phase.FIRST_STEP:
            job.clock = replace(clock, running_ns=record.at_ns)
            if job.incident:
                job.recoveries = _keep(job.recoveries, _recovery(job, overtaken=False))
                job.incident = None
            if job.state in (JobState.STARTING, JobState.RECOVERING):
                _set_job_state(job, JobState.RUNNING)
            job.blocker = ""
        case Phase.DETECT | Phase.DECIDE | Phase.PLACE:
            raise IllegalTransition(f"{record.phase} is not a phase that ranks report")


def _recovery(job: Job, *, overtaken: bool) -> Recovery:
    """The running incident as a finished account: consecutive differences of the moments that were reached."""
    incident = job.incident
    assert incident is not None
    clock = job.clock if incident.placed_ns else GenerationClock()
    moments = [
        (Phase.DETECT, incident.detected_ns),
        (Phase.DECIDE, incident.decided_ns),
        (Phase.PLACE, incident.placed_ns),
        (Phase.START, clock.joining_ns),
        (Phase.RENDEZVOUS, clock.rendezvous_ns),
        (Phase.RESTORE, clock.restored_ns),
        (Phase.FIRST_STEP, clock.running_ns),
    ]
    phases: dict[str, int] = {}
    before = incident.fault_ns
    for phase, moment in moments:
        if moment:
            phases[phase] = max(0, moment - before)
            before = max(before, moment)
    first = root_cause(incident.lost)
    return Recovery(
        generation=job.generation,
        cause=first.cause if first else incident.cause,
        rung=incident.rung,
        ranks=tuple(sorted(lost.rank for lost in incident.lost)),
        steps_lost=max(0, incident.step - job.restore_step),
        restore_step=job.restore_step,
        restore_id=job.restore_id,
        phases_ns=phases,
        overtaken=overtaken,
        blame=_charged_to(first),
        fault_ns=incident.fault_ns,
    )


def _charged_to(root: LostRank | None) -> str:
    """The restart ledger of a recovery; "" when an operator wanted it."""
    if root is None:
        return Blame.INFRASTRUCTURE
    return "" if root.planned else root.blame


def _shard(state: State, record: r.ShardReported) -> None:
    job = state.own_job(record.job)
    known = job.checkpoints.get(record.checkpoint) or Checkpoint(
        record.checkpoint, record.generation, record.step, record.folder, CheckpointState.WRITING
    )
    shards = (*(s for s in known.shards if s.rank != record.shard.rank), record.shard)
    job.checkpoints = {**job.checkpoints, record.checkpoint: replace(known, shards=shards)}


def _committed(state: State, record: r.CheckpointCommitted, at_ns: int) -> None:
    job = state.own_job(record.job)
    devices = state._current_counts()[1].get(job.uid, 0)  # noqa: SLF001 - same module family
    known = job.checkpoints[record.checkpoint]
    stall = max((shard.save_stall_ns for shard in known.shards), default=0) * devices
    job.ledger_ns = move(state.ledger, job.ledger_ns, Bucket.PRODUCTIVE, Bucket.CHECKPOINT_SAVE, stall)
    reached = max((shard.reached_ns for shard in known.shards), default=at_ns)
    running_since = max(reached, job.clock.running_ns) if job.state is JobState.RUNNING else at_ns
    productive = max(0, job.ledger_ns.get(Bucket.PRODUCTIVE, 0) - max(0, at_ns - running_since) * devices)
    job.checkpoints = {**job.checkpoints, known.id: replace(known, committed_ns=at_ns, productive_ns=productive)}
    _checkpoint_state(state, record.job, record.checkpoint, CheckpointState.COMMITTED, "")


def _checkpoint_state(state: State, uid: str, name: str, target: CheckpointState, reason: str) -> None:
    job = state.own_job(uid)
    known = job.checkpoints[name]
    if known.state is target:
        return
    if target not in CHECKPOINT_STATES[known.state]:
        raise IllegalTransition(f"checkpoint {name}: {known.state.name} to {target.name}")
    job.checkpoints = {**job.checkpoints, name: replace(known, state=target, reason=reason)}


def _pin(state: State, record: r.CheckpointPinned | r.CheckpointUnpinned, pins: tuple[Pin, ...]) -> None:
    job = state.own_job(record.job)
    known = job.checkpoints[record.checkpoint]
    kept = tuple(pin for pin in known.pins if pin.owner != record.owner)
    job.checkpoints = {**job.checkpoints, known.id: replace(known, pins=(*kept, *pins))}


def _expired(state: State, record: r.CheckpointsExpired) -> None:
    job = state.own_job(record.job)
    pinned = [name for name in record.checkpoints if name in job.checkpoints and job.checkpoints[name].pins]
    if pinned:
        raise IllegalTransition(f"retention of {job.name} would delete pinned checkpoints: {', '.join(pinned)}")
    job.checkpoints = {name: known for name, known in job.checkpoints.items() if name not in record.checkpoints}


def _ended(state: State, record: r.JobEnded, at_ns: int) -> None:
    job = state.own_job(record.job)
    fleet = state.own_fleet()
    _set_job_state(job, record.state)
    job.ended_ns, job.end_reason, job.blocker, job.incident = at_ns, record.reason, "", None
    fleet.acc_owner = np.where(fleet.acc_owner == job.serial, FREE, fleet.acc_owner).astype(np.int32)
    _reserve(state, job, ())
    job.hosts = _select(job.hosts, job.hosts.live())
    state.touch_counts()


_IdentityRecord = r.TokenCreated | r.TokenSpent | r.CertificateIssued | r.IdentityRevoked | r.IdentityReinstated


def _identity(book: IdentityBook, record: _IdentityRecord, at_ns: int) -> IdentityBook:
    match record:
        case r.TokenCreated():
            token = Token(record.digest, record.kind, record.name, record.speaks_for, record.expires_ns)
            return book.with_token(token, at_ns)
        case r.TokenSpent():
            return book.with_spent(record.digest, record.key)
        case r.CertificateIssued():
            identity = Identity(
                record.kind, record.name, record.role, record.speaks_for, record.series, record.serial,
                record.issued_ns, record.expires_ns,
            )  # fmt: skip
            return book.with_identity(identity)
        case r.IdentityRevoked():
            return book.revoked(record.kind, record.name, record.reason)
        case r.IdentityReinstated():
            return book.reinstated(f"{record.kind}/{record.name}")
