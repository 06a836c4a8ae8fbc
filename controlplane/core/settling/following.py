"""What follows from rules beside the rung: places judged, checkpoints poisoned, silent corruption contained."""

from __future__ import annotations

from controlplane.core import poison
from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.health.budget import refusal
from controlplane.core.jobs import Job, LostRank, root_cause
from controlplane.core.recovery import rules
from controlplane.core.recovery.corruption import suspicion
from controlplane.core.recovery.ruling import costs_nothing
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


def follow_rules(draft: Draft, job: Job, choice: rules.Choice | None) -> None:
    """Once a verdict on the job's incident is written: poison what the rule says, and judge the place where it began."""
    incident = job.incident
    if incident is None or costs_nothing(incident):
        return
    if choice is not None and choice.poison:
        _poison_newest(draft, job, choice)
    root = root_cause(incident.lost)
    if root is None or root.planned:
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
    suspect = suspicion(draft.state.offences, rules.offence_of(case, root))
    if suspect is None or not suspect.persistent:
        return
    text = f"silent corruption: results disagreed {suspect.signs} time{'s' * (suspect.signs != 1)} within a day"
    poison.suspect(draft, job, suspect.since_ns, text, (root.evidence,))
    _take_out(draft, suspect.node, text)


def _take_out(draft: Draft, node: int, reason: str) -> None:
    """The node takes no more work, and what runs there moves: its devices compute wrongly, so no budget is asked."""
    facts = draft.fleet.facts[node]
    if not any(cordon.owner == OWNER and cordon.drain for cordon in facts.cordons):
        draft.write(r.NodeCordoned(facts.name, OWNER, reason, drain=True))


def _judge_place(draft: Draft, job: Job, root: LostRank) -> None:
    """All node rules; what they take from a working node draws on the action budget, and is dropped when that is spent."""
    policy = job.spec.restart_policy
    case = rules.case_of(job, root, draft.state.offences, draft.now_ns)
    judged = rules.judge_node(policy, case)
    if not judged:
        return
    facts = draft.fleet.facts[case.node]
    matched = [one for one in judged if not one.mismatch]
    strongest = next((one for one in matched if one.rule.action is NodeAction.QUARANTINE), next(iter(matched), None))
    lines = [f"{one.name}: {one.mismatch or f'matches, {one.rule.action}'}" for one in judged]
    action, reason = "", ""
    if strongest is not None:
        drain = strongest.rule.action is NodeAction.QUARANTINE
        reason = rules.node_told(strongest, job.name)
        held = any(cordon.owner == OWNER and cordon.drain >= drain for cordon in facts.cordons)
        spent = (
            refusal(draft.fleet, case.node, draft.state.acts, draft.policy.actions, draft.now_ns)
            if drain and not held
            else ""
        )
        if spent:
            lines.append(f"{strongest.name}: not done, {spent}")
        elif held:
            lines.append(f"{strongest.name}: is done already")
        else:
            action = strongest.rule.action.value
    ids = evidence_ids(job)
    draft.write(r.NodeJudged(job.uid, facts.name, tuple(lines), action, reason if action else "", ids))
    if action and not _cordoned_now(draft, facts.name):
        draft.write(r.NodeCordoned(facts.name, OWNER, reason, drain=action == NodeAction.QUARANTINE))


def _cordoned_now(draft: Draft, node: str) -> bool:
    return any(
        isinstance(record, r.NodeCordoned) and (record.node, record.owner, record.drain) == (node, OWNER, True)
        for record in draft.records
    )
