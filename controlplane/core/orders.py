"""Orders that several parts of the machine give: fence processes, end a job, have a checkpoint read back."""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.jobs import Job, host_id
from controlplane.core.vocabulary import JobState, NodeLiveness


def fence(draft: Draft, job: Job, serials: Iterable[int], grace_ms: int = 0) -> None:
    """Have processes ended by their node agents, one effect per node: SIGTERM when there is grace, then SIGKILL."""
    by_node: dict[int, list[str]] = {}
    for serial in serials:
        by_node.setdefault(int(job.hosts.node[job.hosts.row(serial)]), []).append(host_id(job.uid, serial))
    for node, names in by_node.items():
        target = f"node:{draft.fleet.name(node)}"
        draft.effect(EffectKind.FENCE_HOSTS, target, job=job.uid, items=tuple(names), grace_ms=grace_ms)


def stop_processes(draft: Draft, job: Job, grace_ms: int) -> None:
    """Have every process that may still run ended."""
    hosts = job.hosts
    left = ~hosts.gone() & (draft.fleet.liveness[hosts.node] != NodeLiveness.DEAD)
    fence(draft, job, hosts.serial[left].tolist(), grace_ms)


def end_job(draft: Draft, job: Job, state: JobState, reason: str, grace_ms: int) -> None:
    """Begin the end of a job: every process that may still run is asked to stop, then killed; nothing else is begun."""
    draft.write(r.JobEnding(job.uid, state, reason, job.result, max(job.restore_step, draft.soft.progress(job.uid)[0])))
    withdrawn = outstanding(draft, job, EffectKind.START_HOSTS, EffectKind.APPLY_GENERATION)
    if withdrawn:
        draft.write(r.EffectsFinished(withdrawn, ok=False, message="the job is ending", expired=True))
    stop_processes(draft, job, grace_ms)
    draft.settle(job.uid)


def outstanding(draft: Draft, job: Job, *kinds: EffectKind) -> tuple[str, ...]:
    """Ids of a job's effects of some kinds that nobody has answered yet."""
    return tuple(effect.id for effect in draft.state.effects.values() if effect.job == job.uid and effect.kind in kinds)


def request_verification(draft: Draft, job: Job, checkpoint: str) -> bool:
    """Ask one connected node, the job's own first, to read a checkpoint back."""
    candidates = [*job.nodes(), *range(draft.fleet.size)]
    node = next((n for n in candidates if draft.fleet.session[n]), None)
    if node is None:
        return False
    target = f"node:{draft.fleet.name(node)}"
    draft.effect(EffectKind.VERIFY_CHECKPOINT, target, job=job.uid, items=(checkpoint,))
    return True


def settle_all(draft: Draft) -> None:
    """Look at every job that has not ended."""
    for job in draft.state.active_jobs():
        draft.settle(job.uid)
