"""What is odd about restart rules that are allowed: rules that can never match, or that an earlier one always precedes. Pure.

Every way in which a rank can be lost is written out as a kind of loss (a few hundred); a rule that matches none of them can
never match, and one whose kinds earlier rules take altogether is never reached. Conditions that no kind tells apart (message,
ranks, vendor codes, counts) are compared as they are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from controlplane.core.evidence import LARGEST_SIGNAL, NO_SENDER, SENDERS, UNKNOWN, Facts, Reason
from controlplane.core.jobs import NONE, PEER_LOST_EXIT
from controlplane.core.recovery.corruption import SIGNS
from controlplane.core.recovery.patterns import GROUPS, ranges_of
from controlplane.core.recovery.rules import Case, mismatch
from controlplane.core.spec import JobSpec, Match, Parallel, RestartPolicy, Violation
from controlplane.core.vocabulary import Blame, HandlingLevel

REMEMBERED = 1_024
"""Charges that a job remembers: a budget above it is never spent."""
_CODE = "a code"
_NO_DEGREES = Parallel(dp=1)


def review(spec: JobSpec) -> tuple[Violation, ...]:
    """Warnings about a job's rules, by path; the job is accepted all the same."""
    return (*review_policy(spec.restart_policy, "spec.restartPolicy"), *_against_job(spec))


def review_policy(policy: RestartPolicy, path: str) -> tuple[Violation, ...]:
    """Warnings about rules alone."""
    return (*_job_rules(policy, path), *_node_rules(policy, path), *_budgets(policy, path))


def _job_rules(policy: RestartPolicy, path: str) -> Iterator[Violation]:
    taken = [(rule.match, kinds_of(rule.match)) for rule in policy.job_rules]
    for index, (match, kinds) in enumerate(taken):
        here = f"{path}.jobRules[{index}]"
        if not kinds:
            yield Violation(f"{here}.match", "can never match: no loss has all of this at once", "drop a condition")
            continue
        before = [
            (number, others)
            for number, (earlier, others) in enumerate(taken[:index])
            if _is_wider(earlier, match) and kinds & others
        ]
        if kinds <= frozenset().union(*(others for _, others in before)):
            names = " and ".join(f"jobRules[{number}]" for number, _ in before)
            yield Violation(here, f"is never reached: {names} always matches first", f"put it before {names}")


def _node_rules(policy: RestartPolicy, path: str) -> Iterator[Violation]:
    for index, rule in enumerate(policy.node_rules):
        if not kinds_of(rule.match):
            reason = "can never match: no loss has all of this at once"
            yield Violation(f"{path}.nodeRules[{index}].match", reason, "drop a condition")


def _budgets(policy: RestartPolicy, path: str) -> Iterator[Violation]:
    named = (("user", policy.user), ("infrastructure", policy.infrastructure), ("preemption", policy.preemption))
    for name, budget in named:
        if budget.max > REMEMBERED:
            reason = f"is never spent: the newest {REMEMBERED} restarts of a job are remembered"
            yield Violation(f"{path}.budgets.{name}.max", reason, f"use at most {REMEMBERED}, or unlimited")


def _against_job(spec: JobSpec) -> Iterator[Violation]:
    policy, path = spec.restart_policy, "spec.restartPolicy"
    places = [
        *((f"{path}.jobRules[{index}].match", rule.match) for index, rule in enumerate(policy.job_rules)),
        *((f"{path}.nodeRules[{index}].match", rule.match) for index, rule in enumerate(policy.node_rules)),
    ]
    degrees = spec.parallel
    for here, match in places:
        if match.ranks and match.ranks not in GROUPS and all(a >= spec.ranks for a, _ in ranges_of(match.ranks)):
            reason = f"can never match: the job has ranks 0 to {spec.ranks - 1}"
            yield Violation(f"{here}.ranks", reason, "name ranks of the job")
        for axis, values in match.coordinates:
            degree = int(getattr(degrees, axis))
            if min(values) >= degree:
                reason = f"can never match: {axis} has {degree} coordinate{'s' * (degree != 1)}"
                yield Violation(f"{here}.coordinates.{axis}", reason, f"use 0 to {degree - 1}")


def kinds_of(match: Match) -> frozenset[int]:
    """Numbers of the kinds of loss that the conditions let through."""
    codes = {UNKNOWN} & {*match.fault_codes} | ({_CODE} if {*match.fault_codes} - {UNKNOWN} else set())
    plain = replace(match, message="", ranks="", coordinates=(), fault_codes=tuple(sorted(codes)), of_rank=0, on_node=0)
    told = bool(match.message) and match.message != UNKNOWN
    return frozenset(
        number
        for number, case in enumerate(_kinds())
        if not (told and not case.facts.message) and not mismatch(plain, case)
    )


def _is_wider(earlier: Match, later: Match) -> bool:
    """Whether the conditions that kinds of loss do not tell apart hold for the earlier match whenever they do for the later."""
    counts = [(earlier.of_rank, later.of_rank), (earlier.on_node, later.on_node)]
    return (
        earlier.message in ("", later.message)
        and earlier.ranks in ("", later.ranks)
        and earlier.coordinates in ((), later.coordinates)
        and (not earlier.fault_codes or ({*later.fault_codes} <= {*earlier.fault_codes} and bool(later.fault_codes)))
        and all(not one or one <= other for one, other in counts)
        and (not earlier.within_ms or earlier.within_ms >= later.within_ms)
    )


@cache
def _kinds() -> tuple[Case, ...]:
    """One case for each way of being lost."""
    found: list[tuple[Facts, Blame]] = []
    for code in range(256):
        if 128 < code <= 128 + LARGEST_SIGNAL:
            continue
        reason = Reason.PEER_LOST if code == PEER_LOST_EXIT else Reason.EXITED if code else Reason.UNFINISHED
        hardware = code in (PEER_LOST_EXIT, *SIGNS)
        facts = Facts(reason, code, 0, NO_SENDER, message="text")
        found.append((facts, Blame.INFRASTRUCTURE if hardware else Blame.USER))
    for signal in range(1, LARGEST_SIGNAL + 1):
        for sender in SENDERS:
            facts = Facts(Reason.KILLED, 128 + signal, signal, "" if sender == UNKNOWN else sender, message="text")
            found.append((facts, Blame.USER if sender == "oom" else Blame.INFRASTRUCTURE))
    told = {Reason.PEER_LOST, Reason.EXITED, Reason.UNFINISHED, Reason.KILLED, Reason.DEVICE_FAULT}
    found += [(Facts(reason), Blame.INFRASTRUCTURE) for reason in Reason if reason not in told]
    for level in ("", *(level.name for level in HandlingLevel)):
        found += [
            (Facts(Reason.DEVICE_FAULT, fault_level=level, fault_code=code), Blame.INFRASTRUCTURE)
            for code in ("", _CODE)
        ]
    found.append((Facts(), Blame.INFRASTRUCTURE))
    found += [(replace(facts, message="text"), blame) for facts, blame in found if facts.reason == Reason.VANISHED]
    found.append((Facts(), Blame.PREEMPTION))
    return tuple(Case(facts, blame, 0, 0, 1, 1, _NO_DEGREES, (), "", 0, NONE) for facts, blame in found)
