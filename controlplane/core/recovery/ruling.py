"""What is settled about an incident before any rung is looked at: the rule, the ledger, the budget, the wait. Pure.

A ledger pays once for an incident. It pays again when a process fails by itself in a generation that the incident led to
(the way back has failed, not only taken long), and for every further round over the whole ladder: so no loop is without a
budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.core.evidence import Offence
from controlplane.core.jobs import NONE, Incident, Job, LostRank, root_cause
from controlplane.core.recovery import rules
from controlplane.core.recovery.budgets import Reading, backoff_ns, jittered_ns, read_budget
from controlplane.core.recovery.corruption import suspicion
from controlplane.core.recovery.exhaustion import excuses_node
from controlplane.core.spec import RestartPolicy, RuleAction
from controlplane.core.vocabulary import Blame, Rung


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What an incident is judged against. `now_ns`: Unix time; `step`: newest step that the job's ranks have proven, only a
    lower bound when not `step_known`; `offences`: earlier incidents of the site; `draw`: a random number in [0, 1);
    `readmitted`: the root's node has passed its checks, or an operator let it back, since the root's fault."""

    now_ns: int
    step: int
    step_known: bool = True
    offences: Sequence[Offence] = ()
    draw: float = 0.0
    readmitted: bool = False


@dataclass(frozen=True, slots=True)
class Ruling:
    """The rule that chose (`choice` None: nothing has failed, none was asked), who is charged, and what the budgets say.

    `refused`: FAIL or SUSPEND with its reason when no rung may be climbed. `moved`: ranks that the rule moves elsewhere;
    `leaving`: nodes that this very verdict takes out of service, so that no rank may move there with it. `barred`: what the
    moved ranks compute where they are is wrong, and nobody has checked the node since: they wait rather than go back.
    `due`: the ledger pays for the next verdict. `start_ns`: nothing starts before; `backoff_ns`: the wait without its random part.
    """

    choice: rules.Choice | None
    action: RuleAction
    blame: Blame
    cause: str
    reading: Reading
    readings: tuple[str, ...]
    backoff_ns: int
    start_ns: int
    offence: Offence | None
    refused: tuple[Rung, str] | None
    moved: tuple[int, ...]
    leaving: frozenset[int]
    barred: bool
    due: bool


def rule(job: Job, incident: Incident, at: Circumstances) -> Ruling:
    """Ask the rules and read the budgets."""
    root = root_cause(incident.lost)
    free = costs_nothing(incident)
    case = rules.case_of(job, root, at.offences, at.now_ns)
    policy = job.spec.restart_policy
    choice = None if free else rules.choose(policy, case, released=incident.released)
    blame = choice.ledger if choice else case.blame
    action = choice.action if choice else RuleAction.AUTO
    readings = {ledger: read_budget(job, ledger, at.now_ns, at.step, known=at.step_known) for ledger in Blame}
    reading = readings[blame]
    wait_ns = 0
    due = owes(job, incident)
    if due and blame is Blame.USER:  # failures of the user's code wait longer each time; the machine's do not
        wait_ns = backoff_ns(policy.backoff, reading.used + reading.unread)
    cause = root.cause if root else incident.cause
    return Ruling(
        choice=choice,
        action=action,
        blame=blame,
        cause=cause,
        reading=reading,
        readings=tuple(map(str, readings.values())),
        backoff_ns=wait_ns,
        start_ns=max(
            at.now_ns + jittered_ns(wait_ns, policy.backoff.jitter, at.draw, job.serial),
            0 if due or free else job.not_before_ns,
        ),
        offence=None if root is None or free or root.planned or excuses_node(root.facts) else rules.offence_of(case),
        refused=None if choice is None else refusal(choice, cause, reading if due else None, job.last_error),
        moved=_own(incident.lost) if action is RuleAction.REPLACE_RANK else (),
        leaving=_leaving(policy, case) if blames(job, root, at.offences) and not free else frozenset(),
        barred=choice is not None and choice.rule == rules.DISAGREE_AGAIN and not at.readmitted,
        due=due,
    )


def blames(job: Job, root: LostRank | None, offences: Sequence[Offence]) -> bool:
    """Whether a verdict judges the place of an incident's root: once, by the first verdict that counts it."""
    return root is not None and not root.planned and rules.counted_before(job, root, offences) is None


def refusal(choice: rules.Choice, cause: str, reading: Reading | None, last_error: str) -> tuple[Rung, str] | None:
    """FAIL or SUSPEND with its reason, when the rule or the budget of its ledger (None: nothing is due) says so."""
    match choice.action:
        case RuleAction.FAIL:
            return Rung.FAIL, f"{cause}; {rules.told(choice)}"
        case RuleAction.SUSPEND:
            return Rung.SUSPEND, f"{cause}; {rules.told(choice)}"
        case _ if reading and not reading.allows:
            error = f"; last error: {last_error}" if last_error else ""
            return Rung.FAIL, f"{cause}; restart budget spent ({reading}){error}"
        case _:
            return None


def _leaving(policy: RestartPolicy, case: rules.Case) -> frozenset[int]:
    """The root's node, when a node rule or results that disagree again take it out: what `settling.following` does next.
    Also where the action budget will refuse it: another rank need not go there."""
    suspect = suspicion(case.offences, rules.offence_of(case))
    wrong = suspect is not None and suspect.persistent
    ruled = any(not judged.mismatch for judged in rules.judge_node(policy, case))
    return frozenset({case.node} - {NONE}) if wrong or ruled else frozenset()


def _own(lost: tuple[LostRank, ...]) -> tuple[int, ...]:
    """Lost ranks that are no mere consequence."""
    return tuple(entry.rank for entry in lost if not entry.consequence)


def costs_nothing(incident: Incident) -> bool:
    """Whether nothing has failed: an operator wanted it, replicas come back, or a rank without a process has to be placed
    once more."""
    if not incident.lost:
        return incident.rung == Rung.GROW
    return all(entry.planned or entry.serial == NONE for entry in incident.lost)


def owes(job: Job, incident: Incident) -> bool:
    """Whether a ledger pays for the next verdict."""
    if costs_nothing(incident):
        return False
    if incident.charged_generation == NONE:
        return True
    own = (entry for entry in incident.lost if not entry.consequence and not entry.planned and entry.serial != NONE)
    later = job.generation > incident.charged_generation and any(
        entry.fault_ns > job.clock.announced_ns for entry in own
    )
    return later or Rung.RESTART_JOB in incident.spent_rungs
