"""A rank that ended badly: what it says, who is to blame, and the incident that it opens."""

from __future__ import annotations

from dataclasses import replace

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.evidence import Facts, Reason, exit_facts
from controlplane.core.jobs import PEER_LOST_EXIT, Exit, Job, LostRank
from controlplane.core.recovery.corruption import PERSISTENT, SIGNS
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


def _reason(exit_: Exit, signal: int) -> Reason:
    if not exit_.observed:
        return Reason.VANISHED
    if signal > 0:
        return Reason.KILLED
    if exit_.code == PEER_LOST_EXIT:
        return Reason.PEER_LOST
    return Reason.EXITED if exit_.code else Reason.UNFINISHED


def exit_facts_of(exit_: Exit, record: int) -> Facts:
    """Facts of a process's end, told by the record of that journal revision."""
    facts = exit_facts(
        observed=exit_.observed, code=exit_.code, signal=exit_.signal, sender=exit_.sender, message=exit_.message,
        record=record,
    )  # fmt: skip
    return replace(facts, reason=_reason(exit_, facts.signal))


def lost_rank(node: str, rank: int, serial: int, exit_: Exit, fault_ns: int, *, record: int = 0) -> LostRank:
    """A rank's end as a loss: who is to blame, and whether it is only a consequence of another.

    An exit code of 128+n, and a signal, are judged by who sent the signal: the kernel for want of memory blames the code. A
    disagreement of results (16, 17) blames the hardware. `record`: journal revision of the end.
    """
    text = f"rank {rank} {describe_exit(exit_)}"
    facts = exit_facts_of(exit_, record)
    own_doing = facts.signal == 0 or facts.sender == "oom"
    user = exit_.observed and own_doing and exit_.code not in (PEER_LOST_EXIT, *SIGNS)
    tail = exit_.message.strip().splitlines()[-1] if exit_.message.strip() else ""
    evidence = f"node agent of {node}: host {serial} {describe_exit(exit_)}" + (f": {tail}" if tail else "")
    blame = Blame.USER if user else Blame.INFRASTRUCTURE
    consequence = exit_.code == PEER_LOST_EXIT
    return LostRank(rank, serial, text, blame, fault_ns, evidence, consequence=consequence, facts=facts)


def planned_loss(rank: int, serial: int, cause: str, now_ns: int) -> LostRank:
    """A rank that an operator takes from its process, by a restart or a drain: nothing failed."""
    text = f"operator: {cause}"
    facts = Facts(Reason.OPERATOR)
    return LostRank(rank, serial, cause, Blame.INFRASTRUCTURE, now_ns, text, planned=True, facts=facts)


def lose_ranks(
    draft: Draft,
    job: Job,
    lost: tuple[LostRank, ...],
    cause: str,
    why: str = "",
    *,
    released: bool = False,
    intact: bool = False,
    collect: bool = False,
    since_ns: int = 0,
) -> None:
    """Open or widen the job's incident.

    What the machine did first is decided at once; what the code did is collected, and so are consequences whose cause has
    not shown itself yet, and all that follows within an incident: a whole gang that ends together must not cost a verdict
    per rank, and the earliest root decides. Where only nodes have died the verdict waits for those that fall with them, and
    for nothing else (`settling.waiting`). `why`: constant name of what happened when no rank is lost; `released`: an
    operator lets the job go on; `intact`: a collective failed, and no rank has lost its process or its state; `collect`: wait
    for more of the kind in any case; `since_ns`: since when the job cannot go on, where no loss says so.
    """
    if job.ending or job.state in (JobState.QUEUED,):
        return
    collect |= any(entry.blame is Blame.USER for entry in lost)
    collect |= any(entry.facts.exit_code == PERSISTENT for entry in lost)  # of two that disagree both may leave
    collect |= bool(lost) and job.incident is not None and not _all_by_nodes(job.incident.lost + lost)
    collect |= bool(lost) and all(entry.consequence for entry in lost)
    window = job.spec.restart_policy.collect_window_ms if collect else 0
    newest, told_ns = draft.soft.progress(job.uid)
    known = told_ns > 0 or not job.clock.running_ns
    step = max(newest, job.restore_step)
    draft.write(
        r.RanksLost(job.uid, lost, draft.now_ns + ms(window), step, cause, known, why, released, intact, since_ns)
    )
    draft.settle(job.uid)


def _all_by_nodes(lost: tuple[LostRank, ...]) -> bool:
    """Whether all were lost with nodes that died."""
    return all(entry.facts.reason is Reason.NODE_DEAD for entry in lost)
