"""Effects as messages, filled in from the published state. An effect that its job has left behind is superseded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from phalanx.v1 import agent_pb2, cell_pb2

from controlplane.core.effects import Effect, EffectKind
from controlplane.core.jobs import NONE, Job, split_host_id
from controlplane.core.shipped import archive_path
from controlplane.core.state import State
from controlplane.core.units import NS_PER_MS
from controlplane.rpc.codec import file_messages, workload_message
from controlplane.rpc.generations import GenerationMessages


class Superseded(Exception):
    """The state has moved on: nobody needs this effect any more. The message says why."""


def concerns(effect: Effect, state: State, node: str) -> bool:
    """Whether a node's agent has to carry an effect out: it is the target, or holds a rank of the group that is."""
    if not effect.group:
        return effect.node == node
    job, number = state.jobs.get(effect.job), state.fleet.number(node)
    return job is not None and number is not None and bool((job.rank_node == number).any())


def agent_effect(
    effect: Effect,
    state: State,
    node: str,
    root: str,
    now_ns: int,
    *,
    prepared: GenerationMessages,
    own_rows: bool = False,
) -> agent_pb2.AgentInstruction:
    """The instruction for the agent of a node.

    Args:
        effect, state: what is to be done, and the published state.
        node: who is told.
        root: folder for checkpoints of jobs that name none.
        now_ns: the controller's time.
        prepared: what generations have in common for all nodes.
        own_rows: the agent needs the rows of its own ranks only.

    Raises:
        Superseded: the effect must be finished without being sent.
    """
    instruction = agent_pb2.AgentInstruction()
    message = instruction.effect  # filled where it will be sent from: a copy would be another 50,000 rows
    message.effect_id, message.epoch, message.quiet = effect.id, state.epoch, effect.group
    message.deadline_ms = _left_ms(effect, now_ns)
    match effect.kind:
        case EffectKind.APPLY_GENERATION:
            _generation(message.apply_generation, effect, state, node, root, prepared=prepared, own_rows=own_rows)
        case EffectKind.FENCE_HOSTS:
            message.fence_hosts.CopyFrom(
                agent_pb2.FenceHosts(
                    host_ids=effect.items, grace_ms=effect.grace_ms, reason=_fence_reason(effect, state)
                )
            )
        case EffectKind.FORGET_HOSTS:
            message.forget_hosts.host_ids.extend(effect.items)
        case EffectKind.VERIFY_CHECKPOINT:
            message.verify_checkpoint.CopyFrom(_verification(effect, state))
        case EffectKind.SWEEP_FOLDERS:
            message.sweep_folders.folders.extend(effect.items)
        case EffectKind.INJECT_FAULT:
            index, code, text = effect.items
            message.inject_fault.CopyFrom(agent_pb2.InjectFault(accelerator=int(index), code=code, message=text))
        case EffectKind.RUN_CHECKS:
            level, *entities = effect.items
            message.run_checks.CopyFrom(agent_pb2.RunChecks(level=level, entities=entities))
        case EffectKind.CHECK_PAIR:
            peer, address, port, rank = effect.items
            pair = agent_pb2.CheckPair(peer=peer, address=address, port=int(port), rank=int(rank), test=_test(effect))
            message.check_pair.CopyFrom(pair)
        case EffectKind.RAISE_CANARY:
            message.raise_canary.number = int(effect.items[0])
        case EffectKind.GATHER_STACKS:
            if _job(effect, state).generation != effect.generation:
                raise Superseded(f"generation {effect.generation} is over")
            message.gather_stacks.job_uid, message.gather_stacks.generation = effect.job, effect.generation
        case EffectKind.SAVE_NOW:
            message.save_now.CopyFrom(_save(effect, state, message.deadline_ms))
        case EffectKind.START_HOSTS | EffectKind.STOP_HOSTS:
            raise Superseded(f"{effect.kind} is for a cell, not for a node")
        case _:
            assert_never(effect.kind)
    return instruction


@dataclass(frozen=True, slots=True)
class Roots:
    """Folders on shared storage: for checkpoints of jobs that name none, and for shipped code."""

    checkpoints: str
    code: str


def cell_effect(effect: Effect, state: State, roots: Roots, now_ns: int) -> cell_pb2.CellEffect:
    """The message for a cell agent.

    Raises:
        Superseded: the effect must be finished without being sent.
    """
    message = cell_pb2.CellEffect(effect_id=effect.id, epoch=state.epoch, deadline_ms=_left_ms(effect, now_ns))
    match effect.kind:
        case EffectKind.START_HOSTS:
            message.start_hosts.hosts.extend(_host_specs(effect, state, roots))
        case EffectKind.STOP_HOSTS:
            message.stop_hosts.host_ids.extend(effect.items)
        case _:
            raise Superseded(f"{effect.kind} is for a node, not for a cell")
    return message


def checkpoint_folder(job: Job, root: str) -> str:
    """Where a job's checkpoints lie."""
    return f"{(job.spec.checkpoint.folder or root).rstrip('/')}/{job.uid}"


def _test(effect: Effect) -> str:
    """The same word for both nodes of a pair, and another one for every test: their orders have one deadline."""
    return f"{'/'.join(sorted((effect.node, effect.items[0])))}/{effect.deadline_ns}"


def _left_ms(effect: Effect, now_ns: int) -> int:
    return max(1, (effect.deadline_ns - now_ns) // NS_PER_MS)


def _job(effect: Effect, state: State) -> Job:
    job = state.jobs.get(effect.job)
    if job is None or job.terminal:
        raise Superseded(f"job {effect.job} has ended")
    return job


def _fence_reason(effect: Effect, state: State) -> str:
    job = state.jobs.get(effect.job)
    if job is None:
        return "unknown to the controller"
    if job.ending:
        return f"{job.name} is {job.ending.name}: {job.end_reason}"[:500]
    return f"left behind by {job.name} in generation {job.generation}"


def _generation(
    message: agent_pb2.ApplyGeneration,
    effect: Effect,
    state: State,
    node: str,
    root: str,
    *,
    prepared: GenerationMessages,
    own_rows: bool,
) -> None:
    job = _job(effect, state)
    if job.generation != effect.generation:
        raise Superseded(f"superseded: {job.name} is in generation {job.generation}")
    prepared.fill(message, effect, job, state, node, folder=checkpoint_folder(job, root), own_rows=own_rows)


def _save(effect: Effect, state: State, left_ms: int) -> agent_pb2.SaveNow:
    job = _job(effect, state)
    if job.generation != effect.generation or job.saving is None or job.saving.ended_ns:
        raise Superseded(f"superseded: nobody waits for {job.name} to save any more")
    return agent_pb2.SaveNow(job_uid=job.uid, generation=effect.generation, deadline_ms=left_ms)


def _verification(effect: Effect, state: State) -> agent_pb2.VerifyCheckpoint:
    name = effect.items[0]
    job = state.jobs.get(effect.job)
    checkpoint = job.checkpoints.get(name) if job else None
    if job is None or checkpoint is None:
        raise Superseded(f"checkpoint {name} is gone")
    return agent_pb2.VerifyCheckpoint(
        job_uid=job.uid, checkpoint_id=name, folder=checkpoint.folder, files=file_messages(checkpoint.files),
        most_bytes_per_s=int(effect.items[1]) * 1_000_000 if len(effect.items) > 1 else 0,
    )  # fmt: skip


def _host_specs(effect: Effect, state: State, roots: Roots) -> list[cell_pb2.HostSpec]:
    job = _job(effect, state)
    common = cell_pb2.HostSpec(
        job_uid=job.uid,
        job_name=job.name,
        workload=workload_message(job.spec.workload),
        code_archive=archive_path(roots.code, job.spec.workload.code_digest),
        checkpoint_folder=job.spec.checkpoint.folder or roots.checkpoints,
    )
    specs = []
    for name in effect.items:
        parts = split_host_id(name)
        row = job.hosts.row(parts[1]) if parts else NONE
        if row != NONE and job.hosts.live()[row]:
            spec = cell_pb2.HostSpec(host_id=name, node=state.fleet.name(int(job.hosts.node[row])))
            spec.MergeFrom(common)
            specs.append(spec)
    if not specs:
        raise Superseded("none of these processes is wanted any more")
    return specs
