"""One run: a gang, what strikes it and when, and what came of it."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

import numpy as np

from controlplane.core.draft import Policy
from controlplane.sim import gang_strikes
from controlplane.sim.ettr import arrivals
from controlplane.sim.ettr.arrivals import Times, stream
from controlplane.sim.ettr.conduct import Cause, Conduct
from controlplane.sim.ettr.renewal import DAY_S, NODES
from controlplane.sim.gang import Gang
from controlplane.sim.gang_shape import Shape, Tally

HOUR_S = 3_600.0
LARGE_SITE = 2_000
"""Nodes from which on the collector of cycles costs more than it is worth."""


class Arrivals(StrEnum):
    """When failures come: at any time alike; as in the public trace, in copies of it that are shifted at random; so, but each
    burst of it counted once; as in the trace, all copies shifted alike."""

    POISSON = "poisson"
    TRACE = "trace"
    ONCE = "once"
    CORRELATED = "correlated"


@dataclass(frozen=True, slots=True)
class Repairs:
    """How long a node is away, lognormal, from the median and mean of the public fault trace, in hours.

    `again`: share of repaired nodes that fault again within `again_h` hours, at any moment of them alike; that they do is
    on top of the rate of failures.
    """

    median_h: float = 20.4
    mean_h: float = 132.8
    false_alarm_h: float = 0.5
    again: float = 0.2
    again_h: float = 24.0

    def __post_init__(self) -> None:
        if not 0 < self.median_h <= self.mean_h or self.false_alarm_h < 0:
            raise ValueError(f"{self}: 0 < median_h <= mean_h and false_alarm_h >= 0 must hold")
        if not 0 <= self.again <= 1 or self.again_h <= 0:
            raise ValueError(f"{self}: 0 <= again <= 1 and again_h > 0 must hold")

    def draw_s(self, random: np.random.Generator) -> float:
        """One repair, seconds."""
        sigma = math.sqrt(2.0 * math.log(self.mean_h / self.median_h))
        return float(random.lognormal(math.log(self.median_h), sigma)) * HOUR_S


@dataclass(frozen=True, slots=True)
class Weather:
    """What goes wrong on a site.

    `rate`: job-stopping failures per 1,000 node-days of the job; `pool_rate`: failures of nodes beside it; `rack_rate`:
    losses of a whole rack per 1,000 rack-days; `rack_hits`: share of them that hit the job (None: its share of the nodes; for
    a small gang that stands for a large one); `false_alarms`: healthy nodes of the job taken for bad ones, per day.
    """

    rate: float
    pool_rate: float = 0.0
    arrivals: Arrivals = Arrivals.POISSON
    rack_rate: float = 0.0
    rack_hits: float | None = None
    false_alarms: float = 0.0
    repairs: Repairs = Repairs()

    def __post_init__(self) -> None:
        if min(self.rate, self.pool_rate, self.rack_rate, self.false_alarms) < 0:
            raise ValueError(f"{self}: no rate may be negative")


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a run depends on."""

    shape: Shape
    conduct: Conduct
    weather: Weather
    days: float
    seed: int
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        if self.days <= 0:
            raise ValueError(f"{self.days:g} days: must be above 0")

    def with_seed(self, seed: int) -> Plan:
        """The same run under other chance."""
        return replace(self, seed=seed)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. `share`: productive time over wall time; `failures`: when the job's nodes failed, seconds;
    `causes`: how many of them had which cause."""

    share: float
    failures: Times
    causes: Mapping[Cause, int]
    tally: Tally
    digest: str


def failure_times(weather: Weather, nodes: int, days: float, seed: int) -> Times:
    """When nodes of the job fail, seconds, ascending. Arrivals depend on seed, rate and size only, so that every policy
    meets the same failures (common random numbers)."""
    if not weather.rate:
        return np.zeros(0)
    random = stream(seed, f"failures/{weather.arrivals}")
    match weather.arrivals:
        case Arrivals.POISSON:
            return arrivals.poisson(weather.rate, nodes, days, random)
        case Arrivals.TRACE:
            return arrivals.superposed(arrivals.load_trace(), weather.rate, nodes, days, random)
        case Arrivals.ONCE:
            single = arrivals.load_trace().without_followers(arrivals.BURST_S)
            return arrivals.superposed(single, weather.rate, nodes, days, random)
        case Arrivals.CORRELATED:
            return arrivals.correlated(arrivals.load_trace(), weather.rate, nodes, days, random)


def equivalent(rate: float, nodes: int) -> float:
    """The rate at which a gang of `nodes` has the failures of the modelled 6,250: a small site with the same time between
    failures, for statistics of what does not depend on size."""
    return rate * NODES / nodes


def simulate(plan: Plan) -> Outcome:
    """Run a plan to its end.

    Raises:
        InvariantBroken: the core broke an invariant.
    """
    with _uncollected() if plan.shape.size >= LARGE_SITE else nullcontext():
        return _simulated(plan)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No collection of cycles while a run lasts: it makes none, and each collection would look at a whole site."""
    collects = gc.isenabled()
    gc.collect()  # the last run's site
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _simulated(plan: Plan) -> Outcome:
    gang = Gang(plan.shape, plan.conduct, seed=plan.seed, policy=plan.policy)
    repairs = stream(plan.seed, "repairs")
    weather = plan.weather

    def repair_s(cause: Cause) -> float:
        return weather.repairs.false_alarm_h * HOUR_S if cause is Cause.FALSE_ALARM else weather.repairs.draw_s(repairs)

    gang.repair_s = repair_s
    gang.bring_up()
    failures = failure_times(weather, plan.shape.nodes, plan.days, plan.seed)
    causes = _plan_failures(gang, plan, failures)
    _plan_pool(gang, plan)
    _plan_racks(gang, plan)
    _plan_false_alarms(gang, plan)
    gang.repaired = _faults_again(gang, plan)
    gang.run(plan.days * DAY_S)
    return Outcome(gang.productive_share(), failures, causes, gang.tally, gang.journal.digest)


def _faults_again(gang: Gang, plan: Plan) -> Callable[[int], None]:
    """What becomes of a node that comes back from its repair."""
    random = stream(plan.seed, "repairs/again")
    repairs = plan.weather.repairs

    def repaired(node: int) -> None:
        fails, after_h = random.uniform() < repairs.again, random.uniform(0.0, repairs.again_h)
        if fails:
            gang.kernel.after(after_h * HOUR_S, partial(gang_strikes.repaired_node, gang, node))

    return repaired


def _plan_failures(gang: Gang, plan: Plan, times: Times) -> dict[Cause, int]:
    causes, weights = list(plan.conduct.shares), list(plan.conduct.shares.values())
    random = stream(plan.seed, "failures/what")
    which = random.choice(len(causes), size=len(times), p=np.array(weights) / sum(weights))
    ranks = random.integers(0, plan.shape.nodes * plan.shape.ranks_per_node, size=len(times))
    for at_s, cause, rank in zip(times.tolist(), which.tolist(), ranks.tolist(), strict=True):
        gang.after_start(at_s, partial(gang.strike_rank, rank, causes[cause]))
    return {cause: int(np.count_nonzero(which == number)) for number, cause in enumerate(causes)}


def _poisson_times(rate_per_day: float, days: float, random: np.random.Generator) -> list[float]:
    count = int(random.poisson(rate_per_day * days)) if rate_per_day else 0
    times: list[float] = np.sort(random.uniform(0, days * DAY_S, size=count)).tolist()
    return times


def _plan_pool(gang: Gang, plan: Plan) -> None:
    """Nodes beside the job fail too; they are missed when a spare is wanted."""
    random = stream(plan.seed, "failures/pool")
    shape = plan.shape
    for at_s in _poisson_times(plan.weather.pool_rate * shape.pool / 1_000.0, plan.days, random):
        gang.after_start(at_s, partial(gang_strikes.idle_node, gang, float(random.uniform())))


def _plan_racks(gang: Gang, plan: Plan) -> None:
    random = stream(plan.seed, "failures/rack")
    shape, weather = plan.shape, plan.weather
    hits = weather.rack_hits if weather.rack_hits is not None else shape.nodes / shape.size
    racks = -(-shape.size // shape.rack_nodes)
    for at_s in _poisson_times(weather.rack_rate * racks / 1_000.0, plan.days, random):
        of_the_job, where = random.uniform() < hits, float(random.uniform())
        rank = int(where * shape.nodes * shape.ranks_per_node)
        hit = (
            partial(gang_strikes.rack_of_rank, gang, rank)
            if of_the_job
            else partial(gang_strikes.idle_rack, gang, where)
        )
        gang.after_start(at_s, hit)


def _plan_false_alarms(gang: Gang, plan: Plan) -> None:
    random = stream(plan.seed, "false alarms")
    count = plan.shape.nodes * plan.shape.ranks_per_node
    for at_s in _poisson_times(plan.weather.false_alarms, plan.days, random):
        gang.after_start(at_s, partial(gang.strike_rank, int(random.integers(count)), Cause.FALSE_ALARM))
