"""What is kept ready for a job, as messages: spares, the save interval, where memory copies would lie."""

from __future__ import annotations

import math

import numpy as np
from phalanx.v1 import agent_pb2, fleet_pb2, job_pb2

from controlplane.core.checkpoints import SaveTrouble, restore_point
from controlplane.core.jobs import NONE, Job
from controlplane.core.recovery.copies import Shared, place_copies, sites_of
from controlplane.core.spec import AUTO
from controlplane.core.state import State
from controlplane.core.vocabulary import SaveWord
from controlplane.rpc.ages import age_s
from controlplane.rpc.effects import checkpoint_folder

_HOW = {SaveWord.FAILED: "was not saved", SaveWord.SLOW: "waits to be saved", SaveWord.UNABLE: "cannot be saved"}
_WORDS = {
    SaveWord.FAILED: agent_pb2.SAVE_WORD_FAILED,
    SaveWord.SLOW: agent_pb2.SAVE_WORD_SLOW,
    SaveWord.UNABLE: agent_pb2.SAVE_WORD_UNABLE,
}
SHOWN = 4
"""The weakest copies that are named."""


def spares_message(state: State, job: Job) -> job_pb2.Spares:
    """How many warm spare nodes the job should hold, which it holds, and why so many."""
    automatic = job.spec.spares.warm_nodes == AUTO
    return job_pb2.Spares(
        wanted=job.wanted_spares,
        nodes=[state.fleet.name(node) for node in job.spare_nodes],
        reason=job.spares_reason if automatic else "as the manifest says",
    )


def save_interval_message(job: Job) -> job_pb2.SaveInterval:
    """Steps between checkpoints in the present generation, saves that do not come about, and one that a planned stop waits for."""
    trouble, first = job.save_trouble, job.saving
    waits = first is not None and not first.ended_ns
    return job_pb2.SaveInterval(
        every_steps=job.saves_every,
        reason=job.interval_reason,
        trouble=f"step {trouble.step} {_HOW[trouble.word]}: rank {trouble.rank}: {trouble.reason}" if trouble else "",
        first=f"{first.cause} waits for a save after step {first.from_step}" if first is not None and waits else "",
    )


def failing_saves(state: State, root: str, now_ns: int) -> list[fleet_pb2.FailingSave]:
    """Jobs that have not ended and whose saves do not come about, the longest first. `root`: of all checkpoints."""
    troubled = [(job, trouble) for job in state.active_jobs() if (trouble := job.save_trouble) is not None]
    troubled.sort(key=lambda pair: pair[1].since_ns)
    return [_failing_save(state, job, trouble, root, now_ns) for job, trouble in troubled]


def _failing_save(state: State, job: Job, trouble: SaveTrouble, root: str, now_ns: int) -> fleet_pb2.FailingSave:
    node = int(job.rank_node[trouble.rank]) if trouble.rank < len(job.rank_node) else NONE
    saved = restore_point(job.checkpoints.values())
    return fleet_pb2.FailingSave(
        job=job.name,
        word=_WORDS[trouble.word],
        step=trouble.step,
        rank=trouble.rank,
        node=state.fleet.name(node) if node != NONE else "",
        reason=trouble.reason,
        age_s=age_s(trouble.since_ns, now_ns),
        told_age_s=age_s(trouble.told_ns, now_ns),
        folder=checkpoint_folder(job, root),
        saved_step=saved.step if saved else 0,
        saved_age_s=age_s(saved.committed_ns, now_ns) if saved else math.nan,
    )


def copies_message(state: State, job: Job) -> job_pb2.Copies:
    """How well memory copies of the job's nodes are protected on the present rank table; the weakest are named."""
    plan = place_copies(sites_of(job.rank_node, job.spec.parallel, state.fleet.domains))
    worst = np.argsort(-plan.shared.astype(np.int64), kind="stable")[:SHOWN]
    names = state.fleet.name
    return job_pb2.Copies(
        nodes=len(plan.node),
        weaker=plan.weaker,
        weakest=[
            f"{names(int(plan.node[at]))} on {names(int(plan.holder[at])) if plan.holder[at] >= 0 else 'no node'}, "
            + Shared(int(plan.shared[at])).words
            for at in worst.tolist()
            if plan.shared[at]
        ],
    )
