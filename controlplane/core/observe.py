"""Observations of node agents and cells into records: what each witness may conclude, and nothing more."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.checkpoints import Shard, checkpoint_id, is_inside, is_own_folder
from controlplane.core.draft import Answer, Draft, Refusal
from controlplane.core.effects import EffectKind
from controlplane.core.identity import covers
from controlplane.core.jobs import NONE, PEER_LOST_EXIT, Exit, Job, LostRank, host_id, split_host_id
from controlplane.core.units import NS_PER_MS, ms
from controlplane.core.vocabulary import (
    ENDED_PROCESS,
    AcceleratorState,
    Blame,
    CheckpointState,
    JobState,
    NodeLiveness,
    NodeService,
    RankState,
)

FENCING = "fencing"
"""Owner of the cordon that keeps new ranks off a node while processes of an old generation live there."""


def node_hello(draft: Draft, event: ev.NodeHello) -> None:
    """A session opens: the node is ALIVE, its rows are the whole truth."""
    fleet = draft.fleet
    number = fleet.number(event.node)
    devices = tuple(row.device for row in event.accelerators)
    states = tuple(row.state for row in event.accelerators)
    if number is not None:
        known = fleet.facts[number]
        if event.boot_id < known.boot_id:
            draft.reply = Refusal(
                "stale",
                "OLDER_BOOT",
                f"agent boot {event.boot_id} of {event.node} is older than {known.boot_id}, which this controller has "
                "already seen: stop the older agent process",
            )
            return
        changed = (
            known.boot_id != event.boot_id
            or known.accelerators != devices
            or known.address != event.address
            or known.labels != event.labels
            or tuple(int(s) for s in fleet.acc_state[number][: len(states)]) != states
        )
    else:
        changed = True
    if changed:
        draft.write(
            r.NodeRegistered(event.node, event.boot_id, event.address, event.version, event.labels, devices, states)
        )
    draft.write(r.NodeSessionChanged(event.node, open=True, boot_id=event.boot_id, reason="hello"))
    if number is not None and fleet.liveness[number] != NodeLiveness.ALIVE:
        draft.write(r.LivenessChanged((event.node,), NodeLiveness.ALIVE, "the agent opened a session", ("session",)))
    draft.reply = Answer()
    if number is None:
        number = fleet.size
    else:
        _failed_devices(draft, event.node, number, event.accelerators)
    _host_rows(draft, event.node, number, event.hosts, full=True)
    for job in draft.state.active_jobs():
        draft.settle(job.uid)


def node_report(draft: Draft, event: ev.NodeReport) -> None:
    """Rows of a node: processes, devices, shards, restore failures, verified checkpoints."""
    number = draft.fleet.number(event.node)
    if number is None or draft.fleet.facts[number].boot_id != event.boot_id:
        draft.reply = Refusal("stale", "OLDER_BOOT", f"report of an earlier boot of {event.node}: dropped")
        return
    if draft.fleet.liveness[number] == NodeLiveness.DEAD:
        text = f"{event.node} was judged DEAD: only a new session with its whole truth makes it ALIVE again"
        draft.reply = Refusal("stale", "NODE_DEAD", text)
        return
    draft.reply = Answer()
    _device_rows(draft, event, number)
    _host_rows(draft, event.node, number, event.hosts, full=event.full)
    for shard in event.shards:
        if _holds(draft, shard.job, shard.rank, number):
            _shard(draft, shard)
    for failure in event.restore_failures:
        if _holds(draft, failure.job, failure.rank, number):
            _restore_failed(draft, failure)
    for checked in event.checked:
        if _takes_part(draft, checked.job, number) or _was_asked(draft, event.node, checked):
            _checked(draft, checked)


def node_session_lost(draft: Draft, event: ev.NodeSessionLost) -> None:
    """SUSPECT at once, never more."""
    number = draft.fleet.number(event.node)
    if number is None or draft.fleet.facts[number].boot_id != event.boot_id or not draft.fleet.session[number]:
        return
    draft.write(r.NodeSessionChanged(event.node, open=False, boot_id=event.boot_id, reason=event.reason))
    if draft.fleet.liveness[number] == NodeLiveness.ALIVE:
        draft.write(r.LivenessChanged((event.node,), NodeLiveness.SUSPECT, "the agent's stream ended", (event.reason,)))


def _device_rows(draft: Draft, event: ev.NodeReport, number: int) -> None:
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
    draft.write(r.AcceleratorsChanged(event.node, changed))
    for job in draft.state.active_jobs():
        draft.settle(job.uid)
    _failed_devices(draft, event.node, number, changed)


def _failed_devices(draft: Draft, node: str, number: int, rows: tuple[ev.AcceleratorRow, ...]) -> None:
    """Ranks on FAILED devices are lost; their processes are fenced."""
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
                lost.append(LostRank(rank, serial, text, Blame.INFRASTRUCTURE, draft.now_ns, f"probe: {text}"))
        if lost:
            names = tuple(host_id(job.uid, entry.serial) for entry in lost)
            draft.effect(EffectKind.FENCE_HOSTS, f"node:{node}", job=job.uid, items=names)
            lose_ranks(draft, job, tuple(lost), lost[0].cause)


def _host_rows(draft: Draft, node: str, number: int, rows: Iterable[ev.HostRow], *, full: bool) -> None:
    strays: list[str] = []
    gone: list[str] = []
    by_job: dict[str, list[ev.HostRow]] = {}
    seen: set[tuple[str, int]] = set()
    for row in rows:
        seen.add((row.job, row.serial))
        ended = row.state in ENDED_PROCESS
        empty = ended and (row.exit is None or row.exit.group_empty)
        if empty:
            gone.append(host_id(row.job, row.serial))
        if _concerns(draft, row, number, ended=ended):
            by_job.setdefault(row.job, []).append(row)
        elif not empty:
            strays.append(host_id(row.job, row.serial))
    for uid, job_rows in by_job.items():
        _job_rows(draft, draft.state.jobs[uid], number, job_rows)
    if gone:
        draft.effect(EffectKind.FORGET_HOSTS, f"node:{node}", items=tuple(gone))
    if full:
        _missing(draft, node, number, seen)
    _fence_cordon(draft, node, number, strays, gone, full=full)
    if strays:
        draft.effect(EffectKind.FENCE_HOSTS, f"node:{node}", items=tuple(strays))


def _concerns(draft: Draft, row: ev.HostRow, number: int, *, ended: bool) -> bool:
    """Whether a row tells of a process that we still think about: ours, here, and not known to be gone."""
    job = draft.state.jobs.get(row.job)
    at = job.hosts.row(row.serial) if job and not job.terminal else NONE
    if job is None or at == NONE or int(job.hosts.node[at]) != number:
        return False
    return job.hosts.state[at] not in ENDED_PROCESS or (ended and not job.hosts.empty[at])


def _fence_cordon(draft: Draft, node: str, number: int, strays: list[str], gone: list[str], *, full: bool) -> None:
    """Keep new ranks off a node while strays live there (S1). A full snapshot says which; between two of them strays are
    added as they show and taken away as they are reported gone."""
    cordons = draft.fleet.facts[number].cordons if number < draft.fleet.size else ()
    held = next((cordon for cordon in cordons if cordon.owner == FENCING), None)
    known = held.items if held else ()
    left = {*strays} if full else {*known, *strays} - {*gone}
    if left and left != {*known}:
        names = tuple(sorted(left))
        text = f"processes of old generations live: {', '.join(names[:8])}"
        draft.write(r.NodeCordoned(node, FENCING, text, names))
    elif held and not left:
        draft.write(r.NodeUncordoned(node, FENCING))
        for job in draft.state.active_jobs():
            draft.settle(job.uid)


def _missing(draft: Draft, node: str, number: int, seen: set[tuple[str, int]]) -> None:
    """Processes that we think may run and the agent does not know: fence, so that it scans and says that they are gone."""
    for job in draft.state.active_jobs():
        hosts = job.hosts
        maybe = (hosts.node == number) & (hosts.empty == 0) & (hosts.state != RankState.STARTING)
        gone = [serial for serial in hosts.serial[maybe].tolist() if (job.uid, serial) not in seen]
        if gone:
            items = tuple(host_id(job.uid, serial) for serial in gone)
            draft.effect(EffectKind.FENCE_HOSTS, f"node:{node}", job=job.uid, items=items)


def _job_rows(draft: Draft, job: Job, number: int, rows: list[ev.HostRow]) -> None:
    hosts = job.hosts
    live: list[ev.HostRow] = []
    lost: list[LostRank] = []
    forgotten: list[int] = []
    for row in rows:
        at = hosts.row(row.serial)
        rank = int(hosts.rank[at])
        if row.state not in ENDED_PROCESS:
            current = row.generation == int(hosts.generation[at])
            if current or int(hosts.rank[at]) == NONE:
                live.append(row if current or row.rank == NONE else _parked(row))
            continue
        exit_ = row.exit or Exit(observed=False, group_empty=True)
        first = hosts.state[at] not in ENDED_PROCESS
        fault_ns = row.since_ns or draft.now_ns
        draft.write(r.HostEnded(job.uid, row.serial, rank, fault_ns, exit_))
        if rank == NONE:
            if first and int(hosts.generation[at]) == 0 and not job.ending:
                _start_failed(draft, job, at, exit_)
            if exit_.group_empty:
                forgotten.append(row.serial)
        elif not exit_.finished and not job.ending:
            lost.append(lost_rank(draft.fleet.name(number), rank, row.serial, exit_, fault_ns))
            if exit_.group_empty:
                forgotten.append(row.serial)
    if live:
        draft.write(r.HostsObserved(job.uid, number, tuple(live)))
    if lost:
        lose_ranks(draft, job, tuple(lost), lost[0].cause)
    if forgotten:
        draft.write(r.HostsForgotten(job.uid, tuple(forgotten)))
    draft.settle(job.uid)


def _parked(row: ev.HostRow) -> ev.HostRow:
    """The row of a process that has not yet heard of its newer assignment."""
    return ev.HostRow(row.job, row.serial, row.state, NONE, 0, row.pid, row.host_pid, row.since_ns)


def _start_failed(draft: Draft, job: Job, at: int, exit_: Exit) -> None:
    """A parked (or parking) process ended by itself, or had to be ended because it did not park in time.

    What we fenced for other reasons does not count.
    """
    start_ms = job.spec.timeouts.start_ms
    age_ms = draft.now_ns // NS_PER_MS - int(job.hosts.since_ms[at])
    late = job.hosts.state[at] == RankState.STARTING and age_ms > start_ms
    if late:
        text = f"it did not park within {start_ms / 1000:g} s"
    elif exit_.sender == "agent" or draft.fleet.service[job.hosts.node[at]] == NodeService.DRAINING:
        return
    else:
        text = (exit_.message or describe_exit(exit_)) if exit_.observed else "it vanished before it held a rank"
    draft.write(r.StartFailed(job.uid, int(job.hosts.serial[at]), text))


def describe_exit(exit_: Exit) -> str:
    """How a process ended, in words."""
    if not exit_.observed:
        return "is gone, nobody saw how"
    if exit_.signal:
        sender = f" sent by the {exit_.sender}" if exit_.sender in ("oom", "agent") else ""
        return f"was killed by signal {exit_.signal}{sender}"
    if exit_.code == 0:
        return "exited 0 without the final marker"
    return f"exited with code {exit_.code}"


def lost_rank(node: str, rank: int, serial: int, exit_: Exit, fault_ns: int) -> LostRank:
    """A rank's end as a loss: who is to blame, and whether it is only a consequence of another."""
    text = f"rank {rank} {describe_exit(exit_)}"
    user = exit_.observed and (not exit_.signal or exit_.sender == "oom") and exit_.code != PEER_LOST_EXIT
    tail = exit_.message.strip().splitlines()[-1] if exit_.message.strip() else ""
    evidence = f"node agent of {node}: host {serial} {describe_exit(exit_)}" + (f": {tail}" if tail else "")
    blame = Blame.USER if user else Blame.INFRASTRUCTURE
    return LostRank(rank, serial, text, blame, fault_ns, evidence, consequence=exit_.code == PEER_LOST_EXIT)


def lose_ranks(draft: Draft, job: Job, lost: tuple[LostRank, ...], cause: str) -> None:
    """Open or widen the job's incident. What the machine did first is decided at once; what the code did is collected,
    and so is all that follows within an incident: a whole gang that ends together must not cost a verdict per rank."""
    if job.ending or job.state in (JobState.QUEUED,):
        return
    collect = any(entry.blame is Blame.USER for entry in lost) or (bool(lost) and job.incident is not None)
    window = job.spec.restart_policy.collect_window_ms if collect else 0
    step = max(draft.soft.progress(job.uid)[0], job.restore_step)
    draft.write(r.RanksLost(job.uid, lost, draft.now_ns + ms(window), step, cause))
    draft.settle(job.uid)


def _takes_part(draft: Draft, uid: str, number: int) -> bool:
    """Whether a node has, or had in this generation, a rank or process of the job: others say nothing about its files."""
    job = draft.state.jobs.get(uid)
    return job is not None and bool((job.rank_node == number).any() or (job.hosts.node == number).any())


def _holds(draft: Draft, uid: str, rank: int, number: int) -> bool:
    """Whether a rank is, or was, on a node: one node says nothing about the ranks of another."""
    job = draft.state.jobs.get(uid)
    if job is None or not 0 <= rank < job.spec.ranks:
        return False
    hosts = job.hosts
    return int(job.rank_node[rank]) == number or bool(((hosts.node == number) & (hosts.rank == rank)).any())


def _was_asked(draft: Draft, node: str, row: ev.CheckedRow) -> bool:
    """Whether a node that has no part in a job was asked to read its checkpoint back. Agents tell before they answer."""
    wanted = (EffectKind.VERIFY_CHECKPOINT, f"node:{node}", row.job, (row.checkpoint,))
    effects = draft.state.effects.values()
    return any((effect.kind, effect.target, effect.job, effect.items) == wanted for effect in effects)


def _shard(draft: Draft, row: ev.ShardRow) -> None:
    """Only shards of the current generation count (S3); repeats, late ones and those that lie elsewhere change nothing."""
    job = draft.state.jobs.get(row.job)
    if job is None or job.terminal or row.generation != job.generation or not 0 <= row.rank < job.spec.ranks:
        return
    name = checkpoint_id(job.uid, row.generation, row.step)
    if not is_own_folder(row.folder, name) or not all(is_inside(file.path) for file in row.files):
        return
    known = job.checkpoints.get(name)
    if known and (known.state is not CheckpointState.WRITING or any(s.rank == row.rank for s in known.shards)):
        return
    shard = Shard(row.rank, row.files, row.save_stall_ns, row.reached_ns)
    draft.write(r.ShardReported(job.uid, name, row.generation, row.step, row.folder, shard))
    draft.settle(job.uid)


def _restore_failed(draft: Draft, row: ev.RestoreFailedRow) -> None:
    job = draft.state.jobs.get(row.job)
    if job is None or job.terminal or row.generation != job.generation:
        return
    checkpoint = job.checkpoints.get(row.checkpoint)
    reason = f"rank {row.rank} could not restore {row.file}: {row.reason}"
    if checkpoint and checkpoint.restorable and not _already_poisoned(draft, row.checkpoint):
        draft.write(r.CheckpointPoisoned(job.uid, row.checkpoint, reason))
        lose_ranks(draft, job, (), f"checkpoint {row.checkpoint} is damaged: {reason}")


def _already_poisoned(draft: Draft, name: str) -> bool:
    return any(isinstance(record, r.CheckpointPoisoned) and record.checkpoint == name for record in draft.records)


def _checked(draft: Draft, row: ev.CheckedRow) -> None:
    job = draft.state.jobs.get(row.job)
    checkpoint = job.checkpoints.get(row.checkpoint) if job else None
    if job is None or checkpoint is None or not checkpoint.restorable:
        return
    if not row.ok:
        draft.write(r.CheckpointPoisoned(job.uid, row.checkpoint, f"{row.file}: {row.reason}"))
    elif checkpoint.state is CheckpointState.COMMITTED:
        draft.write(r.CheckpointVerified(job.uid, row.checkpoint))
        draft.settle(job.uid)


def cell_hello(draft: Draft, event: ev.CellHello) -> None:
    """A cell agent connects; its list is the whole membership of the nodes that it speaks for."""
    known = draft.state.cells.get(event.cell)
    if known and event.boot_id < known.boot_id:
        draft.reply = Refusal("stale", "OLDER_BOOT", f"cell agent boot {event.boot_id} is older than {known.boot_id}")
        return
    draft.reply = Answer()
    draft.write(r.CellSessionChanged(event.cell, True, event.boot_id, event.incarnation, event.store_address))
    members = {name for name, alive in event.nodes if alive}
    every = event.speaks_for is None
    spoken_for = [name for name in draft.fleet.index if every or covers(event.speaks_for or (), name)]
    _membership(draft, event.cell, tuple((name, name in members) for name in spoken_for))
    for job in draft.state.active_jobs():
        draft.settle(job.uid)


def _membership(draft: Draft, cell: str, nodes: tuple[tuple[str, bool], ...]) -> None:
    fleet = draft.fleet
    joined = tuple(n for n, alive in nodes if n in fleet.index and alive and not fleet.cell_member[fleet.index[n]])
    left = tuple(n for n, alive in nodes if n in fleet.index and not alive and fleet.cell_member[fleet.index[n]])
    if joined or left:
        draft.write(r.CellMembershipChanged(cell, joined, left))


def cell_report(draft: Draft, event: ev.CellReport) -> None:
    """Raylets come and go; dead actors matter only where no process had registered yet."""
    known = draft.state.cells.get(event.cell)
    if known is None or known.boot_id != event.boot_id:
        draft.reply = Refusal("stale", "OLDER_BOOT", f"report of an earlier boot of cell agent {event.cell}: dropped")
        return
    draft.reply = Answer()
    _membership(draft, event.cell, event.nodes)
    if event.store_known and event.store_address != known.store_address:
        draft.write(
            r.CellSessionChanged(event.cell, known.open, known.boot_id, known.incarnation, event.store_address, "store")
        )
    for name, _reason in event.dead_actors:
        fence_unstarted(draft, name)
    for job in draft.state.active_jobs():
        draft.settle(job.uid)


def fence_unstarted(draft: Draft, name: str) -> None:
    """A host that never told of itself will not come: have its node agent make sure, which ends it in the record."""
    parts = split_host_id(name)
    job = draft.state.jobs.get(parts[0]) if parts else None
    if job is None or parts is None or job.terminal:
        return
    at = job.hosts.row(parts[1])
    if at == NONE or job.hosts.state[at] != RankState.STARTING or job.hosts.pid[at]:
        return
    node = draft.fleet.name(int(job.hosts.node[at]))
    draft.effect(EffectKind.FENCE_HOSTS, f"node:{node}", job=job.uid, items=(name,))


def cell_session_lost(draft: Draft, event: ev.CellSessionLost) -> None:
    """Ranks run on; nothing can be started until it is back."""
    known = draft.state.cells.get(event.cell)
    if known and known.open and known.boot_id == event.boot_id:
        draft.write(
            r.CellSessionChanged(
                event.cell, False, known.boot_id, known.incarnation, known.store_address, event.reason
            )
        )  # fmt: skip


def effect_done(draft: Draft, event: ev.EffectDone) -> None:
    """Outcome of an effect; a failed one is answered where an answer exists."""
    effect = draft.state.effects.get(event.effect_id)
    if effect is None:
        return
    if effect.kind is EffectKind.FENCE_HOSTS and not event.ok:
        return  # stays outstanding: at its deadline it is asked for again, under a new id
    draft.write(r.EffectsFinished((effect.id,), event.ok, event.message[:500]))
    if event.ok:
        return
    job = draft.state.jobs.get(effect.job)
    if effect.kind is EffectKind.START_HOSTS:
        for name in effect.items:
            fence_unstarted(draft, name)
    elif effect.kind is EffectKind.APPLY_GENERATION and job and job.generation == effect.generation and not effect.full:
        draft.effect(
            EffectKind.APPLY_GENERATION, effect.target, job=job.uid, generation=job.generation, full=True,
            timeout_ms=job.spec.timeouts.join_ms,
        )  # fmt: skip
