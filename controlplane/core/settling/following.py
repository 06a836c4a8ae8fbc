"""What follows from rules beside the rung: places judged, checkpoints poisoned, silent corruption contained."""

from __future__ import annotations

from controlplane.core import poison
from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.health.quarantine import Case, quarantine
from controlplane.core.jobs import NONE, Job, LostRank, root_cause
from controlplane.core.recovery import rules
from controlplane.core.recovery.corruption import PERSISTENT, suspicion
from controlplane.core.recovery.ruling import blames, costs_nothing
from controlplane.core.spec import NodeAction
from controlplane.core.state import MAX_EVIDENCE

OWNER = "rules"
"""Owner of the cordons that rules set."""


def evidence_ids(job: Job) -> tuple[int, ...]:
    """Journal revisions of the records that the running incident rests on: the root's first, at most `MAX_EVIDENCE`."""
    incident = job.incident
    if incident is None:
        return ()
    root = root_cause(incident.lost)
    told = [root.facts.record] if root else []
    told += [entry.facts.record for entry in incident.lost if not entry.consequence][:MAX_EVIDENCE]
    return tuple(sorted({record for record in (*told, *incident.records) if record}))[:MAX_EVIDENCE]


def follow_rules(draft: Draft, job: Job, choice: rules.Choice | None, *, due: bool) -> None:
    """Once a verdict on the job's incident is written: poison what the rule says, and judge the place where it began. Further
    verdicts on the same incident do neither again; where the way back failed too (`due`), more is poisoned."""
    incident = job.incident
    if incident is None or costs_nothing(incident):
        return
    root = root_cause(incident.lost)
    first = blames(job, root, draft.state.offences)
    if choice is not None and choice.poison and (first or due):
        _poison_newest(draft, job, choice)
    if root is None or not first:
        return
    _contain_corruption(draft, job, root)
    _judge_place(draft, job, root)


def _poison_newest(draft: Draft, job: Job, choice: rules.Choice) -> None:
    limit = rules.rollback_limit(job.checkpoints.values(), choice)
    newer = sum(1 for checkpoint in job.checkpoints.values() if checkpoint.restorable and checkpoint.step > limit)
    poison.roll_back(draft, job, newer, f"passed over: {rules.told(choice)}")


def _contain_corruption(draft: Draft, job: Job, root: LostRank) -> None:
    """Results that disagree persistently: their node is taken out, what was saved since the first sign is poisoned."""
    case = rules.case_of(job, root, draft.state.offences, draft.now_ns)
    suspect = suspicion(draft.state.offences, rules.offence_of(case))
    if suspect is None or not suspect.persistent:
        return
    text = f"silent corruption: results disagreed {suspect.signs} time{'s' * (suspect.signs != 1)} within a day"
    poison.suspect(draft, job, suspect.since_ns, text, (root.evidence,))
    quarantine(draft, draft.fleet.name(suspect.node), Case(text, (root.evidence,)))
    for number in _undecided(job, root) - {suspect.node}:
        quarantine(
            draft, draft.fleet.name(number), Case(f"{text}, and nobody can say on which of two nodes", (root.evidence,))
        )


def _undecided(job: Job, root: LostRank) -> set[int]:
    """Nodes of two ranks that hold, or computed, different things again, when no third can say which of them is wrong. When more
    leave so at once, it is no pair, and the root alone is judged."""
    incident = job.incident
    lost = incident.lost if incident and root.facts.exit_code == PERSISTENT else ()
    nodes = {int(job.rank_node[entry.rank]) for entry in lost if entry.facts.exit_code == PERSISTENT} - {NONE}
    return nodes if len(nodes) == 2 else set()


def _judge_place(draft: Draft, job: Job, root: LostRank) -> None:
    """All node rules; what they take from a working node draws on the action budget, and is dropped when that is spent."""
    case = rules.case_of(job, root, draft.state.offences, draft.now_ns)
    judged = rules.judge_node(job.spec.restart_policy, case)
    if not judged:
        return
    node = draft.fleet.name(case.node)
    lines = [f"{one.name}: {one.mismatch or f'matches, {one.rule.action}'}" for one in judged]
    matched = [one for one in judged if not one.mismatch]
    strongest = next((one for one in matched if one.rule.action is NodeAction.QUARANTINE), next(iter(matched), None))
    if strongest is None:
        draft.write(r.NodeJudged(job.uid, node, tuple(lines), evidence_ids=evidence_ids(job)))
        return
    action, reason = strongest.rule.action, rules.node_told(strongest, job.name)
    refused = _carry_out(draft, node, action, reason, root)
    if refused:
        lines.append(f"{strongest.name}: not done, {refused}")
    done = "" if refused else action.value
    draft.write(r.NodeJudged(job.uid, node, tuple(lines), done, reason, evidence_ids(job)))


def _carry_out(draft: Draft, node: str, action: NodeAction, reason: str, root: LostRank) -> str:
    """Do what a node rule says; why it is not done, "" when it is or was before."""
    match action:
        case NodeAction.QUARANTINE:
            return quarantine(draft, node, Case(reason, (root.evidence,)))
        case NodeAction.CORDON:
            cordons = draft.fleet.facts[draft.fleet.index[node]].cordons
            if any(cordon.owner == OWNER for cordon in cordons):
                return f"{OWNER} cordoned it before"
            draft.write(r.NodeCordoned(node, OWNER, reason))
            return ""
