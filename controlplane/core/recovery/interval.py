"""How often to save: the interval that loses least, from the measured stall of a save and the measured time between failures.

Young (1974) and Daly (2006): saving every tau seconds costs stall/tau, a failure loses tau/2 on average; the sum is least
near tau = sqrt(2 x stall x time between failures). Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CHANGE = 1.25
"""A new interval must differ by this factor from the one in force: the loss is flat around its minimum (a factor of 1.25
costs under 3 % of the loss), so that smaller changes are noise."""
MIN_SAVES = 2
"""Saves that must have been measured before the interval follows them."""


@dataclass(frozen=True, slots=True)
class SaveCosts:
    """What was measured. `stall_s`: the job stands still per save; `step_s`: one step; `between_failures_s`: expected time
    until this job is next interrupted."""

    stall_s: float
    step_s: float
    between_failures_s: float


def best_interval_s(stall_s: float, between_failures_s: float) -> float:
    """Work between two saves that loses least, in seconds.

    Daly's higher-order form; where a save takes longer than two times between failures nothing better than that time is
    known.
    """
    if math.isinf(between_failures_s):
        return math.inf
    if stall_s >= 2 * between_failures_s:
        return between_failures_s
    share = math.sqrt(stall_s / (2 * between_failures_s))
    return math.sqrt(2 * stall_s * between_failures_s) * (1 + share / 3 + share * share / 9) - stall_s


def loss(interval_s: float, costs: SaveCosts) -> float:
    """Share of time lost to saving and to redoing work, small-loss form: stall/tau + tau/(2 M)."""
    return costs.stall_s / interval_s + interval_s / (2 * costs.between_failures_s)


def steps_between_saves(costs: SaveCosts, least: int, most: int) -> int:
    """The best interval in whole steps, inside the job's limits."""
    interval_s = best_interval_s(costs.stall_s, costs.between_failures_s)
    if costs.step_s <= 0 or math.isinf(interval_s):
        return most
    return max(least, min(most, max(1, round(interval_s / costs.step_s))))


def worth_changing(current: int, best: int) -> bool:
    """Whether the best interval is far enough from the one in force, so that the interval does not flap."""
    if current < 1:
        return True
    return best >= current * CHANGE or best * CHANGE <= current


def between_failures_s(lived_s: float, failures: int, nodes: int, per_node_day: float) -> float:
    """Expected time between interruptions of a job: the site's rate for its nodes counts like one failure, beside what the
    job has lived through itself."""
    expected_s = 86_400 / (nodes * per_node_day) if nodes and per_node_day > 0 else math.inf
    if math.isinf(expected_s):
        return lived_s / failures if failures else math.inf
    return (expected_s + lived_s) / (1 + failures)
