"""Saving on the way out: before ranks are taken from their processes on purpose, the job saves at its next step boundary.

A drain and an operator's restart know that they come; what a failure has to redo, they need not lose. One node's ranks are told,
all ranks agree on the step among themselves, and the stop goes on once that checkpoint is complete, or when the time for it is
over: a planned stop is put off by so long at most, and never depends on storage.
"""

from __future__ import annotations

import numpy as np

from controlplane.core import records as r
from controlplane.core.checkpoints import restore_point
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.evidence import Reason
from controlplane.core.jobs import NONE, Job
from controlplane.core.observing.losses import lose_ranks, planned_loss
from controlplane.core.orders import fence
from controlplane.core.placement.gang import Blocked, replace_ranks
from controlplane.core.recovery.rungs import misplaced
from controlplane.core.units import NS_PER_S, ms, seconds
from controlplane.core.vocabulary import JobState, NodeLiveness

FRESH_NS = seconds(10)
"""A save that ended so lately counts for a stop; later another one is asked for."""


def save_first(draft: Draft, job: Job, cause: str) -> str:
    """Have the job save before a planned stop. Returns what the stop waits for; "" when it may go on."""
    known = job.saving
    if known is not None and known.generation == job.generation:
        if not known.ended_ns:
            return f"{cause} waits: the job saves first"
        if draft.now_ns - known.ended_ns < FRESH_NS:
            return ""
    return f"{cause} waits: the job saves first" if ask(draft, job, cause) else ""


def outcome(job: Job) -> str:
    """What became of the save before a stop that happens now, to be put behind its cause; "" when none was asked for."""
    known = job.saving
    return f", {known.outcome}" if known is not None and known.generation == job.generation and known.outcome else ""


def ask(draft: Draft, job: Job, cause: str, *, restart: bool = False) -> bool:
    """Ask for a save where there is something to save and somebody to ask. `restart`: the job restarts after it."""
    patience_ms = draft.policy.checkpoints.save_first_ms
    if not patience_ms or job.state is not JobState.RUNNING or job.incident is not None or not job.saves_every:
        return False
    known = job.saving
    if known is not None and not known.ended_ns:  # a drain waits for the same save
        draft.write(r.SaveAsked(job.uid, job.generation, cause, known.until_ns, known.from_step, restart))
        return True
    newest, told_ns = draft.soft.progress(job.uid)
    point = restore_point(job.checkpoints.values())
    saved = point.step if point is not None else 0
    node = _whom_to_tell(draft, job)
    if node is None or not told_ns or newest <= saved:
        return False
    until_ns = draft.now_ns + ms(patience_ms)
    draft.write(r.SaveAsked(job.uid, job.generation, cause, until_ns, newest, restart))
    draft.effect(
        EffectKind.SAVE_NOW, f"node:{draft.fleet.name(node)}", job=job.uid, generation=job.generation,
        timeout_ms=patience_ms,
    )  # fmt: skip
    return True


def _whom_to_tell(draft: Draft, job: Job) -> int | None:
    """A node with ranks that hears us: one is enough, because the ranks agree among themselves."""
    fleet = draft.fleet
    heard = (node for node in job.nodes() if fleet.session[node] and fleet.liveness[node] == NodeLiveness.ALIVE)
    return next(heard, None)


def conclude(draft: Draft, job: Job) -> None:
    """Notice that the save is complete, or that it is waited for no longer; then restart the job if that was the purpose."""
    known = job.saving
    if known is None:
        return
    if known.ended_ns:
        if known.restart and known.generation == job.generation and draft.now_ns - known.ended_ns < FRESH_NS:
            restart_now(draft, job, f"{known.cause}{outcome(job)}")
        return
    saved = [c.step for c in job.checkpoints.values() if c.restorable and c.generation == known.generation]
    step = max(saved, default=NONE)
    took_s = (draft.now_ns - known.asked_ns) / NS_PER_S
    if step > known.from_step:
        end(draft, job, f"step {step} saved first, {took_s:.1f} s", step)
    elif job.state is not JobState.RUNNING or job.incident is not None:
        end(draft, job, "not saved: ranks were lost meanwhile")
    elif draft.now_ns >= known.until_ns:
        end(draft, job, f"not saved within {(known.until_ns - known.asked_ns) / NS_PER_S:.3g} s")


def end(draft: Draft, job: Job, text: str, step: int = NONE) -> None:
    """The waiting for a save is over."""
    known = job.saving
    if known is None or known.ended_ns:
        return
    dropped = ""
    if known.restart and not (job.rank_host != NONE).any():
        dropped = "no rank has a process that could be restarted"
    elif known.restart and job.state is JobState.RUNNING:
        dropped = without_place(draft, job)
    draft.write(r.SaveEnded(job.uid, known.generation, step, text, dropped))
    draft.settle(job.uid)


def restart_now(draft: Draft, job: Job, cause: str) -> int:
    """Take every rank from its process, which is asked to stop, then killed. Returns how many ranks had one. A job that is
    stopped already gives its nodes up until there is room."""
    suspended = job.state is JobState.SUSPENDED
    held = [(rank, serial) for rank, serial in enumerate(job.rank_host.tolist()) if serial != NONE]
    lost = tuple(planned_loss(rank, serial, cause, draft.now_ns) for rank, serial in held)
    if lost or suspended:
        lose_ranks(draft, job, lost, cause, Reason.OPERATOR, released=suspended)
    if lost:
        live = job.hosts.live()
        serials = np.array([serial for _, serial in held], dtype=np.int32)
        fence(draft, job, serials[live[job.hosts.rows(serials)]].tolist(), job.spec.timeouts.stop_ms)
    return len(lost)


def without_place(draft: Draft, job: Job) -> str:
    """Why a restart would leave the job without a place; "" when it would not."""
    bad = misplaced(job, draft.fleet, tuple(range(job.spec.ranks)))
    places = replace_ranks(draft.fleet, job, bad, frozenset()) if bad else None
    if not isinstance(places, Blocked):
        return ""
    return (
        f"{len(bad)} ranks of {job.name} stand where nothing may start now, and a restart would stop the job: {places.reason}; "
        "uncordon their nodes or free others first"
    )
