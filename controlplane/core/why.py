"""What would have to change for a job, rank, node or checkpoint to be otherwise: rule, budget, cordon, spare. Pure.

Each answer is tried out on a copy of the state where that can be done ("uncordon node-3" is only said when the job would
then have a place); the rest says which words of the policy decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from controlplane.core import records as r
from controlplane.core.checkpoints import restore_point
from controlplane.core.fleet import FREE, Fleet
from controlplane.core.jobs import NONE, Job, root_cause
from controlplane.core.placement.gang import Placement, place
from controlplane.core.recovery import rules
from controlplane.core.recovery.decide import decide
from controlplane.core.recovery.ruling import Circumstances
from controlplane.core.spec import RestartPolicy, RuleAction
from controlplane.core.state import State
from controlplane.core.units import to_s
from controlplane.core.vocabulary import Blame, CheckpointState, JobState, NodeLiveness, NodeService, Rung

TRIED = 8
"""Nodes, and jobs, that are tried one by one."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When it is asked, and what is only soft then: `step`, the newest that the job's ranks have proven."""

    now_ns: int
    step: int


def job_changes(state: State, job: Job, verdict: r.RecoveryDecided | None, at: Moment) -> tuple[str, ...]:
    """What would have to change for a job that does not run; nothing for one that does.

    `verdict`: the newest one of the journal, None when there is none.
    """
    if job.state is JobState.FAILED and verdict is not None and verdict.rung is Rung.FAIL:
        return tuple(_refused(job, verdict, at))
    if job.terminal or job.state is JobState.RUNNING:
        return ()
    found = []
    if verdict is not None and job.state is JobState.SUSPENDED and _by_rule(job, verdict, RuleAction.SUSPEND):
        found += [f"`phalanx restart {job.name}` lets it go on", *_without_rule(state, job, verdict, at)]
    elif job.state is JobState.SUSPENDED or not job.placed:
        found += _room(state, job, at)
    elif at.now_ns < job.not_before_ns:
        left_s = to_s(job.not_before_ns - at.now_ns)
        found.append(f"{left_s:.1f} s have to pass, or a shorter restartPolicy.backoff")
    return tuple(found)


def _by_rule(job: Job, verdict: r.RecoveryDecided, action: RuleAction) -> bool:
    rule = _index(verdict.rule)
    listed = job.spec.restart_policy.job_rules
    return rule is not None and rule < len(listed) and listed[rule].action is action


def _index(name: str) -> int | None:
    head, _, tail = name.partition("[")
    return int(tail.rstrip("]")) if head == "jobRules" and tail else None


def _refused(job: Job, verdict: r.RecoveryDecided, at: Moment) -> Iterator[str]:
    """A job that has failed by a verdict."""
    if _by_rule(job, verdict, RuleAction.FAIL):
        yield f"without {verdict.rule} the rules after it would have decided: `phalanx policy backtest` shows what"
        return
    policy = job.spec.restart_policy
    budget = {Blame.USER: policy.user, Blame.INFRASTRUCTURE: policy.infrastructure, Blame.PREEMPTION: policy.preemption}
    spent = budget[verdict.blame]
    path = f"restartPolicy.budgets.{verdict.blame}"
    yield f"{path}.max above {spent.max}, or a window shorter than {to_s(spent.window_ms * 1_000_000):g} s"
    charges = [charge.step for charge in job.restarts if charge.blame is verdict.blame]
    made = verdict.step - min(charges, default=verdict.step)
    if spent.reset_on_progress and made < spent.reset_on_progress:
        yield f"{path}.resetOnProgress of {max(1, made)} or less: {made} steps were made since the first charge"
    elif not spent.reset_on_progress and made > 0:
        yield f"{path}.resetOnProgress: {made} steps were made since the first charge, and they give nothing back"
    yield "a job rule that charges another ledger; `phalanx policy backtest` tries it on what has happened"


def _without_rule(state: State, job: Job, verdict: r.RecoveryDecided, at: Moment) -> Iterator[str]:
    """What the rules would choose if the one that chose were not there."""
    index = _index(verdict.rule)
    incident = job.incident
    if index is None or incident is None:
        return
    listed = job.spec.restart_policy.job_rules
    fewer: RestartPolicy = replace(job.spec.restart_policy, job_rules=(*listed[:index], *listed[index + 1 :]))
    case = rules.case_of(job, root_cause(incident.lost), state.offences, at.now_ns)
    choice = rules.choose(fewer, case, released=incident.released)
    then = "the ladder would decide" if choice.action is RuleAction.AUTO else f"it would be {choice.action}"
    yield f"without {verdict.rule} {then}"


# --- room ------------------------------------------------------------------------------------------------------------


def _room(state: State, job: Job, at: Moment) -> Iterator[str]:
    """What would give the job a place, each tried alone."""
    if _fits(state.fleet, job, at):
        yield f"there is room: {job.blocker or 'its turn comes'}"
        return
    found = False
    for change in (*_cordons(state, job, at), *_reserves(state, job, at), *_others(state, job, at)):
        found = True
        yield change
    if not found:
        wanted = job.spec.accelerators_per_rank
        missing = job.spec.ranks if not job.placed else max(1, len(job.incident.lost) if job.incident else 1)
        yield f"more nodes: room for {missing} ranks of {wanted} accelerator{'s' * (wanted != 1)} each, usable and free"


def _fits(fleet: Fleet, job: Job, at: Moment) -> bool:
    """Whether the job would have a place on this fleet."""
    if not job.placed:
        return isinstance(place(fleet, job.spec), Placement)
    if job.incident is None:
        return False
    circumstances = Circumstances(now_ns=at.now_ns, step=at.step, step_known=job.incident.step_known)
    return decide(job, fleet, circumstances).rung not in (Rung.SUSPEND, Rung.FAIL)


def _cordons(state: State, job: Job, at: Moment) -> Iterator[str]:
    fleet = state.fleet
    held = np.flatnonzero(fleet.cordoned & (fleet.liveness == NodeLiveness.ALIVE)).tolist()
    owners = dict.fromkeys(cordon.owner for node in held for cordon in fleet.facts[node].cordons)
    for owner in owners:
        nodes = [node for node in held if {c.owner for c in fleet.facts[node].cordons} == {owner}]
        if not nodes or not _fits(_uncordoned(fleet, nodes), job, at):
            continue
        alone = [node for node in nodes[:TRIED] if _fits(_uncordoned(fleet, [node]), job, at)]
        names = [fleet.name(node) for node in (alone or nodes)]
        what = f"{names[0]}" if alone else f"all {len(names)} nodes that {owner} cordoned, among them {names[0]}"
        others = f" (or {', '.join(names[1:4])})" if alone and len(names) > 1 else ""
        yield f"uncordon {what}{others}: {owner} holds {'it' if alone else 'them'}"


def _uncordoned(fleet: Fleet, nodes: list[int]) -> Fleet:
    changed = fleet.clone()
    changed.cordoned = fleet.cordoned.copy()
    changed.service = fleet.service.copy()
    changed.cordoned[nodes] = False
    changed.service[nodes] = NodeService.IN_SERVICE
    return changed


def _reserves(state: State, job: Job, at: Moment) -> Iterator[str]:
    """Spares that other jobs hold."""
    fleet = state.fleet
    holders = [other for other in state.active_jobs() if other.uid != job.uid and other.spare_nodes]
    for other in holders[:TRIED]:
        changed = fleet.clone()
        changed.reserved = np.where(fleet.reserved == other.serial, FREE, fleet.reserved).astype(np.int32)
        if _fits(changed, job, at):
            count = len(other.spare_nodes)
            yield f"the {count} spare node{'s' * (count != 1)} of {other.name}"


def _others(state: State, job: Job, at: Moment) -> Iterator[str]:
    """Jobs of the same or a lower priority that hold devices."""
    fleet = state.fleet
    holders = [
        other
        for other in sorted(state.active_jobs(), key=lambda other: (other.spec.priority, -other.serial))
        if other.uid != job.uid and other.placed and other.spec.priority <= job.spec.priority
    ]
    for other in holders[:TRIED]:
        changed = fleet.clone()
        changed.acc_owner = np.where(fleet.acc_owner == other.serial, FREE, fleet.acc_owner).astype(np.int32)
        changed.reserved = np.where(fleet.reserved == other.serial, FREE, fleet.reserved).astype(np.int32)
        if _fits(changed, job, at):
            yield f"the end of {other.name} (priority {other.spec.priority})"
            return


# --- nodes and checkpoints -------------------------------------------------------------------------------------------


def node_changes(state: State, number: int) -> tuple[str, ...]:
    """What would have to change for a node to take new work; nothing when it does."""
    fleet = state.fleet
    facts = fleet.facts[number]
    found = [
        f"{cordon.owner} takes its cordon back: `phalanx uncordon {facts.name} --owner {cordon.owner}`"
        for cordon in facts.cordons
    ]
    match NodeService(int(fleet.service[number])):
        case NodeService.QUARANTINED | NodeService.VALIDATING:
            found.append("its checks pass; an operator's uncordon ends the quarantine at once")
        case NodeService.RETIRED:
            return ("nothing: it is retired; the machine may join under another name",)
        case NodeService.OUT_OF_SERVICE:
            found.append("it is taken back into service")
        case _:
            pass
    if fleet.liveness[number] == NodeLiveness.DEAD:
        found.append("its agent opens a new session: start it, or repair the node")
    elif not fleet.session[number] or fleet.liveness[number] != NodeLiveness.ALIVE:
        found.append("its agent is heard again")
    if not fleet.cell_member[number]:
        found.append("its raylet joins the cell")
    return tuple(found)


def rank_changes(state: State, job: Job, rank: int, verdict: r.RecoveryDecided | None, at: Moment) -> tuple[str, ...]:
    """What would have to change for a rank that does not run: that of its job, and of its node."""
    found = job_changes(state, job, verdict, at)
    if job.placed and not job.terminal and int(job.rank_host[rank]) == NONE:
        node = int(job.rank_node[rank])
        if node != NONE:
            found = (*found, *(f"for {state.fleet.name(node)}: {change}" for change in node_changes(state, node)))
    return found


def checkpoint_changes(job: Job, name: str) -> tuple[str, ...]:
    """What would have to change for a checkpoint to be the one that is restored; nothing when it is."""
    checkpoint = job.checkpoints.get(name)
    if checkpoint is None:
        return ("a pin, set before retention deleted it: `phalanx checkpoints pin`",)
    match checkpoint.state:
        case CheckpointState.WRITING:
            missing = job.spec.ranks - len(checkpoint.shards)
            return (
                f"{missing} more rank{'s' * (missing != 1)} of generation {checkpoint.generation} report their part",
            )
        case CheckpointState.POISONED:
            how = "the doubt is cleared" if checkpoint.suspected else "nothing: it was passed over or is damaged"
            return (f"{how}; a poisoned checkpoint is never restored",)
        case _:
            pass
    newest = restore_point(job.checkpoints.values(), job.restore_limit)
    if newest is None or newest.id == name:
        return ()
    if 0 <= job.restore_limit < checkpoint.step:
        return (f"the rollback ends: until the job runs again nothing after step {job.restore_limit} is restored",)
    return (f"{newest.id} would have to be poisoned or gone: the newest that is good is restored",)
