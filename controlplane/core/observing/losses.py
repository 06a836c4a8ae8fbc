"""A rank that ended badly: what it says, who is to blame, and the incident that it opens."""

from __future__ import annotations

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.jobs import PEER_LOST_EXIT, Exit, Job, LostRank
from controlplane.core.units import ms
from controlplane.core.vocabulary import Blame, JobState


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
