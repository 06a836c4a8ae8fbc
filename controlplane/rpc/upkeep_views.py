"""What is kept ready for a job, as messages: spares, the save interval, where memory copies would lie."""

from __future__ import annotations

import numpy as np
from phalanx.v1 import job_pb2

from controlplane.core.jobs import Job
from controlplane.core.recovery.copies import Shared, place_copies, sites_of
from controlplane.core.spec import AUTO
from controlplane.core.state import State

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
    """Steps between checkpoints in the present generation."""
    return job_pb2.SaveInterval(every_steps=job.saves_every, reason=job.interval_reason)


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
