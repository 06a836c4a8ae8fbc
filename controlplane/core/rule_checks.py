"""What a restart rule must keep, wherever it comes from: each finding with the path of the field, the reason and the fix."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.core.evidence import AXES, LARGEST_SIGNAL, SENDERS, UNKNOWN, UNOBSERVED, Reason
from controlplane.core.recovery.patterns import PatternError, compiled, is_group
from controlplane.core.spec import Match, RestartPolicy, RuleAction, Violation
from controlplane.core.vocabulary import HandlingLevel

MAX_RULES = 64
MAX_VALUES = 64
"""Values of one condition."""
MAX_REASON = 200
MAX_FAILURES = 1_000
MAX_WITHIN_MS = 30 * 24 * 3_600_000
"""Offences are remembered for a while only."""
MAX_PASSED_OVER = 100

_LEVELS = frozenset((*(level.name for level in HandlingLevel), UNKNOWN))
_REASONS = frozenset((*(reason.value for reason in Reason), UNKNOWN))


def check_rules(policy: RestartPolicy, path: str) -> Iterator[Violation]:
    """Every broken rule of a policy at `path`."""
    for name, count in (("jobRules", len(policy.job_rules)), ("nodeRules", len(policy.node_rules))):
        if count > MAX_RULES:
            yield Violation(f"{path}.{name}", f"has {count} rules", f"use at most {MAX_RULES}")
    for index, rule in enumerate(policy.job_rules):
        here = f"{path}.jobRules[{index}]"
        yield from _check_match(rule.match, f"{here}.match")
        yield from _check_reason(rule.reason, here)
        if rule.action is RuleAction.AUTO:
            yield Violation(f"{here}.action", "is missing", "say what is to be done, for example `action: fail`")
        if rule.action is RuleAction.ROLLBACK and not 1 <= rule.checkpoints <= MAX_PASSED_OVER:
            yield Violation(f"{here}.checkpoints", f"{rule.checkpoints} is out of range", f"use 1 to {MAX_PASSED_OVER}")
        if rule.action is not RuleAction.ROLLBACK and (rule.checkpoints or rule.then_poison):
            field = "checkpoints" if rule.checkpoints else "thenPoison"
            yield Violation(f"{here}.{field}", f"says nothing beside {rule.action}", "use it with `action: rollback`")
    for index, node_rule in enumerate(policy.node_rules):
        here = f"{path}.nodeRules[{index}]"
        yield from _check_match(node_rule.match, f"{here}.match")
        yield from _check_reason(node_rule.reason, here)


def _check_reason(reason: str, path: str) -> Iterator[Violation]:
    if len(reason) > MAX_REASON or not reason.isprintable():
        yield Violation(f"{path}.reason", "is no short line of text", f"use at most {MAX_REASON} printable characters")


def _check_match(match: Match, path: str) -> Iterator[Violation]:
    yield from _check_numbers(match, path)
    for name, words, known in (
        ("sender", match.senders, SENDERS),
        ("fault.level", match.fault_levels, _LEVELS),
        ("reason", match.reasons, _REASONS),
        ("coordinates", tuple(axis for axis, _ in match.coordinates), AXES),
    ):
        for word in words:
            if word not in known:
                yield Violation(
                    f"{path}.{name}", f'"{word[:60]}" is not known', f"use one of {', '.join(sorted(known))}"
                )
    for code in match.fault_codes:
        if not 0 < len(code) <= 100 or not code.isprintable():
            yield Violation(f"{path}.fault.code", "is no code", "use 1 to 100 printable characters")
    if match.ranks and not is_group(match.ranks):
        fix = "write first, last, all, or ascending ranges such as `0-3,8`"
        yield Violation(f"{path}.ranks", f'"{match.ranks[:60]}" does not name ranks', fix)
    if match.message:
        try:
            compiled(match.message)
        except PatternError as error:
            fix = "write a shorter RE2 pattern: no backreferences, no look-around, no huge repetitions"
            yield Violation(f"{path}.message", str(error), fix)


def _check_numbers(match: Match, path: str) -> Iterator[Violation]:
    for name, numbers, most in (("exitCode", match.exit_codes, 255), ("signal", match.signals, LARGEST_SIGNAL)):
        for number in numbers:
            if not UNOBSERVED <= number <= most:
                yield Violation(f"{path}.{name}", f"{number} is out of range", f"use 0 to {most}, or `{UNKNOWN}`")
    for axis, values in match.coordinates:
        if not values or min(values) < 0:
            yield Violation(f"{path}.coordinates.{axis}", "holds no coordinates", "write numbers from 0 on")
    for name, count in (("failuresOfRank", match.of_rank), ("failuresOnNode", match.on_node)):
        if not 0 <= count <= MAX_FAILURES:
            yield Violation(f"{path}.{name}", f"{count} is out of range", f"use 1 to {MAX_FAILURES}")
    counts = match.of_rank or match.on_node
    if counts and not 0 < match.within_ms <= MAX_WITHIN_MS:
        yield Violation(
            f"{path}.within", "is missing or too long", "say in which time failures are counted, at most 720h"
        )
    if match.within_ms and not counts:
        yield Violation(f"{path}.within", "counts nothing", "add failuresOfRank or failuresOnNode")
    lists: tuple[tuple[str, tuple[int, ...] | tuple[str, ...]], ...] = (
        ("exitCode", match.exit_codes),
        ("signal", match.signals),
        ("fault.code", match.fault_codes),
    )
    for name, given in lists:
        if len(given) > MAX_VALUES:
            yield Violation(f"{path}.{name}", f"has {len(given)} values", f"use at most {MAX_VALUES}")
