"""Quarantine, checks and trial: a node that health takes out of work, and how it comes back.

Failures do not follow from history: of repaired nodes about one in five fails again within a day, and nobody can say which.
So nobody is struck off for life. A node is taken out, repaired and checked by its agent, and comes back on a trial that grows
with each repair of the same part. An operator's word goes before all of that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.evidence import Facts, Reason
from controlplane.core.health.book import HealthBook, Stay, position_of
from controlplane.core.health.budget import Act, refusal
from controlplane.core.jobs import NONE, Job, LostRank
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.orders import fence, settle_all
from controlplane.core.units import ms
from controlplane.core.vocabulary import Blame, HandlingLevel, JobState, NodeService

HEALTH = "health"
"""Owner of the cordons that health sets."""

ISOLATE = HandlingLevel.ISOLATE
"""From this level on a fault of the node itself keeps it out."""

AWAY = (NodeService.QUARANTINED, NodeService.VALIDATING)


@dataclass(frozen=True, slots=True)
class Case:
    """Why a node is taken out. `serials`: the parts to blame, whose repairs are remembered; empty: the node itself.
    `code`: the fault's, "" when none led here."""

    reason: str
    evidence: tuple[str, ...] = ()
    level: HandlingLevel = HandlingLevel.ISOLATE
    serials: tuple[str, ...] = ()
    code: str = ""


def quarantine(draft: Draft, node: str, case: Case) -> str:
    """Take a node out: no new work; ranks that work there move in a planned way, when there is room.

    Returns:
        Why the action budget does not allow it; then nothing was done, and only fresh evidence asks again. "" when it
        is done, or was before.
    """
    number = draft.fleet.index[node]
    stay = draft.state.health.stays.get(node)
    if NodeService(int(draft.fleet.service[number])) in AWAY and stay and stay.level >= case.level:
        return ""
    if any(isinstance(record, r.NodeQuarantined) and record.node == node for record in draft.records):
        return ""
    disturbs = _works(draft, number)
    if disturbs:
        refused = refusal(draft.fleet, number, _acts(draft), draft.policy.actions, draft.now_ns)
        if refused:
            draft.write(r.ActRefused(node, f"quarantine: {case.reason}", refused))
            return refused
    draft.write(r.NodeQuarantined(node, case.reason, case.level, case.evidence, case.serials, disturbs))
    settle_all(draft)
    return ""


def isolate(draft: Draft, node: str, case: Case, *, whole_jobs: bool = True) -> str:
    """Take a node out at once: as `quarantine`, and its ranks are lost now. Returns what `quarantine` returns.

    `whole_jobs` False: ranks of jobs that are whole move as in a quarantine; those of a job that recovers anyway go with its
    running incident, which spares it a second generation.
    """
    refused = quarantine(draft, node, case)
    if refused:
        return refused
    number = draft.fleet.index[node]
    for job in draft.state.active_jobs():
        recovers = job.incident is not None or bool(already_lost(draft, job))
        if job.placed and not job.ending and (whole_jobs or recovers):
            _lose(draft, job, number, case)
    return ""


def _lose(draft: Draft, job: Job, number: int, case: Case) -> None:
    gone = already_lost(draft, job)
    here = np.flatnonzero((job.rank_node == number) & (job.rank_host != NONE)).tolist()
    ranks = [rank for rank in here if rank not in gone]
    if not ranks:
        return
    text = f"{draft.fleet.name(number)} is isolated: {case.reason}"
    told = draft.state.revision + len(draft.records)
    facts = Facts(Reason.DEVICE_FAULT, fault_level=case.level.name, fault_code=case.code, record=told)
    entry = LostRank(0, 0, text, Blame.INFRASTRUCTURE, draft.now_ns, f"health: {text}", facts=facts)
    lost = tuple(replace(entry, rank=rank, serial=int(job.rank_host[rank])) for rank in ranks)
    fence(draft, job, [known.serial for known in lost])
    lose_ranks(draft, job, lost, text)


def already_lost(draft: Draft, job: Job) -> set[int]:
    """Ranks of a job that this very decision has taken."""
    told = [record for record in draft.records if isinstance(record, r.RanksLost) and record.job == job.uid]
    return {entry.rank for record in told for entry in record.lost}


def _works(draft: Draft, number: int) -> bool:
    """Whether a job that is whole has ranks on a node: a job that recovers anyway is not disturbed."""
    broken = {record.job for record in draft.records if isinstance(record, r.RanksLost)}
    return any(
        job.placed and job.incident is None and job.ending is None and job.uid not in broken
        and bool((job.rank_node == number).any())
        for job in draft.state.active_jobs()
    )  # fmt: skip


def _acts(draft: Draft) -> tuple[Act, ...]:
    """Acts that the budget counts, those of this very decision too."""
    mine = tuple(
        Act(draft.fleet.index[record.node], draft.now_ns)
        for record in draft.records
        if isinstance(record, r.NodeQuarantined) and record.disturbs
    )
    return draft.state.acts + mine


def checks_done(draft: Draft, effect: Effect, *, ok: bool, message: str) -> None:
    """The agent of a quarantined node has answered. What it found it has reported before."""
    node = effect.node
    number = draft.fleet.number(node)
    stay = draft.state.health.stays.get(node)
    if number is None or stay is None or draft.fleet.service[number] != NodeService.VALIDATING:
        return
    policy = draft.policy.quarantine
    left = [
        f.note.code for f in draft.state.health.on(node) if position_of(f.note.entity) < 0 and f.note.level >= ISOLATE
    ]
    if ok and left:
        ok, message = False, f"the node still reports {', '.join(left)}"
    if not ok:
        keep_out(draft, node, message or "its agent did not say why")
    elif policy.pair_ms:
        draft.write(r.PairsAwaited(node, "its own checks passed"))
    else:
        readmit(draft, node, "checks passed")


def keep_out(draft: Draft, node: str, reason: str) -> None:
    """What a node was checked for is not well; the pause before it is checked again grows."""
    policy, stay = draft.policy.quarantine, draft.state.health.stays[node]
    pause_ms = min(policy.retry_ms * 2 ** min(stay.tries, 16), policy.retry_most_ms)
    draft.write(r.ChecksFailed(node, reason, draft.now_ns + ms(pause_ms)))


def readmit(draft: Draft, node: str, reason: str) -> None:
    """A node comes back, on trial."""
    policy, stay = draft.policy.quarantine, draft.state.health.stays[node]
    count = 1 + repairs(draft.state.health, stay.serials or (f"node:{node}",), draft.now_ns - ms(policy.memory_ms))
    trial_ms = min(policy.trial_ms * 2 ** (count - 1), policy.trial_most_ms)
    text = f"{reason}; repair {count} within {policy.memory_ms / 86_400_000:g} days"
    draft.write(r.TrialStarted(node, draft.now_ns + ms(trial_ms), text))
    settle_all(draft)


def readmitted_since(draft: Draft, number: int, since_ns: int) -> bool:
    """Whether a node has come back since a moment: by its checks, or by an operator's word."""
    facts, book = draft.fleet.facts[number], draft.state.health
    name = draft.fleet.name(number)
    parts = (f"node:{name}", *(device.serial for device in facts.accelerators))
    return repairs(book, parts, since_ns) > 0 or book.released.get(name, 0) > since_ns


def repairs(book: HealthBook, serials: tuple[str, ...], since_ns: int) -> int:
    """How often the part among these that was repaired most came back since a moment."""
    return max((sum(at_ns > since_ns for at_ns in book.repairs.get(serial, ())) for serial in serials), default=0)


def look_after(draft: Draft) -> None:
    """Checks that may begin, trials that are over."""
    stays = draft.state.health.stays
    if not stays:
        return
    checking = {e.node for e in draft.state.effects.values() if e.kind is EffectKind.RUN_CHECKS}
    fleet = draft.fleet
    numbers = [fleet.index[node] for node in stays]
    quarantined = fleet.service[numbers] == NodeService.QUARANTINED
    asleep = (quarantined & ~fleet.session[numbers]).tolist()  # most of those that are away: nothing to look at
    awake = [pair for pair, sleeps in zip(stays.items(), asleep, strict=True) if not sleeps]
    busy = held(draft) if awake else np.zeros(0, dtype=np.bool_)
    for node, stay in awake:
        number = fleet.index[node]
        service = NodeService(int(fleet.service[number]))
        if service is NodeService.VALIDATING and node not in checking and not stay.paired_ns:
            draft.write(
                r.ChecksFailed(node, "its agent gave no answer", draft.now_ns + ms(draft.policy.quarantine.retry_ms))
            )
        elif service is NodeService.PROBATION and draft.now_ns >= stay.next_ns:
            draft.write(r.TrialPassed(node))
        elif service is NodeService.QUARANTINED and not busy[number] and _may_begin(draft, number, stay):
            _begin(draft, node, stay.level)


def _begin(draft: Draft, node: str, level: HandlingLevel) -> None:
    entities = tuple(fault.note.entity for fault in draft.state.health.on(node))
    items = (level.name, *dict.fromkeys(entities))
    draft.write(r.ChecksStarted(node))
    draft.effect(EffectKind.RUN_CHECKS, f"node:{node}", items=items, timeout_ms=draft.policy.quarantine.checks_ms)


def _may_begin(draft: Draft, number: int, stay: Stay) -> bool:
    """Whether checks may begin: it is time, the agent listens, and no part is there that has to go back to its vendor."""
    if draft.now_ns < stay.next_ns or not draft.fleet.session[number]:
        return False
    return not _awaits_part(draft.state.health, draft.fleet.name(number))


def _awaits_part(book: HealthBook, node: str) -> bool:
    return any(fault.note.level is HandlingLevel.RETURN_TO_VENDOR for fault in book.on(node))


def held(draft: Draft) -> np.ndarray:
    """Mask over nodes on which processes of a job may still run, or may start soon. A suspended job starts none: it may be
    waiting for this very node."""
    mask = np.zeros(draft.fleet.size, dtype=np.bool_)
    for job in draft.state.active_jobs():
        mask[job.hosts.node[~job.hosts.gone()]] = True
        if job.placed and job.state is not JobState.SUSPENDED:
            mask[job.rank_node[job.present]] = True
    return mask


def waits_for(book: HealthBook, node: str, service: NodeService) -> str:
    """What a node in health's hands waits for, in words. An operator can let it out at any time."""
    match service:
        case NodeService.VALIDATING if book.stays[node].paired_ns:
            return "its own checks passed, it is tested in pairs with others"
        case NodeService.VALIDATING:
            return "its agent runs checks"
        case NodeService.PROBATION:
            return "it works on trial"
        case NodeService.QUARANTINED if _awaits_part(book, node):
            return "it waits for a new part"
        case NodeService.QUARANTINED if book.stays[node].tries:
            return f"its checks failed {book.stays[node].tries} times and are tried again"
        case NodeService.QUARANTINED:
            return "it waits until it is empty and its agent can run checks"
        case _:
            return ""
