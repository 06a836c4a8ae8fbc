"""How many spares: the P99 of node failures while a lost spare is being replaced, from measured rates. Pure.

The rule is ByteRobust's (SOSP'25): of the nodes that work, more than this many fail within one refill window only once in
a hundred windows. Failures are taken as independent inside a failure domain; what a whole domain costs is the ladder's
business (shrink, suspend), because no number of spares covers it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from controlplane.core.units import NS_PER_DAY, NS_PER_S

WEAR_DAYS = 32
"""Days over which failures are counted."""
REFILLS = 64
"""Refills whose duration is remembered."""
MAX_SPARES = 10_000
"""Bound of the number for one failure domain: beyond it the rate is nonsense, not a plan."""


@dataclass(frozen=True, slots=True)
class SparePlan:
    """Site-wide settings of the number of spares.

    `quantile`: share of refill windows in which the spares must be enough. `prior_per_node_day` failures of a node in a day
    count like `prior_node_days` days of own experience (the middle of what is published, 3.8 per 1,000 node-days).
    `prior_refill_s`: how long it takes to replace a spare until enough of them were replaced here (`prior_refills`); never
    less than `least_refill_s`, because a free node that takes a spare's place is cold and may not be there the next time.
    """

    quantile: float = 0.99
    prior_per_node_day: float = 0.0038
    prior_node_days: float = 2_000.0
    prior_refill_s: float = 86_400.0
    prior_refills: int = 4
    least_refill_s: float = 1_800.0


@dataclass(frozen=True, slots=True)
class DayOfWear:
    """One day: number since the epoch, node failures, and node-time in service (ns)."""

    day: int
    failures: int
    node_ns: int


@dataclass(frozen=True, slots=True)
class Wear:
    """What the site has lived through, in state: failures by day, and how long spares took to be replaced.

    `short_since_ns`: since when fewer spares are held than wanted; 0: enough are held.
    """

    days: tuple[DayOfWear, ...] = ()
    refills_ns: tuple[int, ...] = ()
    short_since_ns: int = 0


NO_WEAR = Wear()


def with_time(wear: Wear, at_ns: int, node_ns: int, failures: int = 0) -> Wear:
    """Wear after more node-time in service, booked to the day of `at_ns`, and after failures."""
    day = at_ns // NS_PER_DAY
    last = wear.days[-1] if wear.days and wear.days[-1].day == day else DayOfWear(day, 0, 0)
    older = wear.days[:-1] if wear.days and wear.days[-1].day == day else wear.days
    days = (*older, DayOfWear(day, last.failures + failures, last.node_ns + node_ns))[-WEAR_DAYS:]
    return Wear(days, wear.refills_ns, wear.short_since_ns)


def with_stock(wear: Wear, *, short: bool, at_ns: int) -> Wear:
    """Wear once it is known whether enough spares are held; the end of a shortage is a measured refill."""
    if short and not wear.short_since_ns:
        return Wear(wear.days, wear.refills_ns, at_ns)
    if not short and wear.short_since_ns:
        took = max(0, at_ns - wear.short_since_ns)
        return Wear(wear.days, (*wear.refills_ns, took)[-REFILLS:], 0)
    return wear


def failures_per_node_day(wear: Wear, plan: SparePlan) -> float:
    """The rate: own experience beside the prior, weighted by node-days (the mean of a gamma posterior)."""
    failures = sum(day.failures for day in wear.days)
    node_days = sum(day.node_ns for day in wear.days) / NS_PER_DAY
    return (plan.prior_per_node_day * plan.prior_node_days + failures) / (plan.prior_node_days + node_days)


def refill_s(wear: Wear, plan: SparePlan) -> float:
    """How long a taken spare is missing: the ninth decile of the measured ones, the prior counting `prior_refills` times."""
    known = sorted([*(took / NS_PER_S for took in wear.refills_ns), *[plan.prior_refill_s] * plan.prior_refills])
    if not known:
        return max(plan.least_refill_s, plan.prior_refill_s)
    return max(plan.least_refill_s, known[math.ceil(0.9 * len(known)) - 1])


def binomial_quantile(nodes: int, chance: float, quantile: float) -> int:
    """The smallest s for which at most s of `nodes` fail with at least that probability, each failing with `chance`.

    Summed term by term in log space, so that thousands of nodes do not underflow. Exact to double precision.
    """
    if nodes <= 0 or chance <= 0:
        return 0
    if chance >= 1:
        return nodes
    log_term = nodes * math.log1p(-chance)
    log_odds = math.log(chance) - math.log1p(-chance)
    total = math.exp(log_term)
    spares = 0
    while total < quantile and spares < min(nodes, MAX_SPARES):
        log_term += math.log(nodes - spares) - math.log(spares + 1) + log_odds
        spares += 1
        total += math.exp(log_term)
    return spares


def spares_for(nodes: int, per_node_day: float, window_s: float, quantile: float) -> int:
    """Spares for `nodes` working nodes of one failure domain."""
    return binomial_quantile(nodes, -math.expm1(-per_node_day * window_s / 86_400), quantile)


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many spares the site should hold, by failure domain, and why in a sentence."""

    by_domain: tuple[int, ...]
    reason: str

    @property
    def total(self) -> int:
        """Over all failure domains."""
        return sum(self.by_domain)


def wanted(working: Iterable[int], wear: Wear, plan: SparePlan) -> Wanted:
    """The spares of a site. `working`: nodes that run ranks, for each failure domain in which a spare can stand in."""
    counts = tuple(working)
    rate, window_s = failures_per_node_day(wear, plan), refill_s(wear, plan)
    numbers = tuple(spares_for(count, rate, window_s, plan.quantile) for count in counts)
    reason = (
        f"P{100 * plan.quantile:g} of failures of {sum(counts)} nodes in {window_s / 3600:.3g} h "
        f"at {1000 * rate:.3g} per 1,000 node-days"
    )
    return Wanted(numbers, reason + (f", over {len(counts)} failure domains" if len(counts) > 1 else ""))


def shares(total: int, sizes: Iterable[int]) -> tuple[int, ...]:
    """A pool of spares dealt out to jobs by their number of nodes (largest remainder, earlier jobs first): where each spare
    is kept warm. Every job may take any of them by priority; see `pool`."""
    nodes = tuple(sizes)
    whole = sum(nodes)
    if not whole:
        return (0,) * len(nodes)
    dealt = [total * size // whole for size in nodes]
    left = sorted(range(len(nodes)), key=lambda job: (-(total * nodes[job] % whole), job))
    for job in left[: total - sum(dealt)]:
        dealt[job] += 1
    return tuple(dealt)
