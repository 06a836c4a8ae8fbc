"""What is compared: our policy in its world, the same without one of its parts, and the published ways to recover."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from controlplane.core.placement.spares import spares_for
from controlplane.sim.ettr.calibration import Estimate, estimate, replay
from controlplane.sim.ettr.conduct import (
    Cause,
    Conduct,
    Survivors,
    full_restart,
    kubernetes,
    memory_copies,
    ours,
    warm_restart,
)
from controlplane.sim.ettr.phases import Phases
from controlplane.sim.ettr.progress import Saving
from controlplane.sim.ettr.renewal import DAY_S, NODES, STEP_S, ettr, mtbf_s
from controlplane.sim.ettr.run import Arrivals, Outcome, Plan, Weather, equivalent
from controlplane.sim.gang_shape import Shape

P99 = 0.99
RACK_RATE = 0.1
"""Losses of a whole rack per 1,000 rack-days; assumed: about one in 54 days on 205 racks."""
FALSE_ALARMS = 1.0
"""Healthy nodes taken for bad ones, per day: the most that the project allows itself on 6,250 nodes."""
POOL_SHARE = 0.05
"""Nodes beside the job, as a share of it: what is down for repair on average, and room for bursts."""
RACK_NODES = 32
EQUIVALENT_NODES = 64
"""Nodes of the gang in comparisons, with the failures of 6,250 (see `run.equivalent`)."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the simulated gang is and how long it runs. `ranks_per_node` 1: one rank of 8 accelerators."""

    nodes: int = NODES
    ranks_per_node: int = 1
    days: float = 54.0

    @property
    def words(self) -> str:
        """For the note below a table."""
        ranks = "one rank of 8 accelerators" if self.ranks_per_node == 1 else f"{self.ranks_per_node} ranks"
        if self.nodes == NODES:
            return f"{self.nodes:,} nodes with {ranks} each, {self.days:g} days a run"
        return (
            f"{self.nodes:,} nodes with {ranks} each and the failures of {NODES:,} (the same time between failures), "
            f"{self.days:g} days a run"
        )


@dataclass(frozen=True, slots=True)
class World:
    """What our policy is tried in: conduct and weather, before the size is chosen."""

    conduct: Conduct
    weather: Weather
    pool: int


def warm_nodes(nodes: int, rate: float) -> int:
    """Warm spares of a job: what covers the failures of a day, on 99 of 100 days."""
    return spares_for(nodes, rate / 1_000.0, DAY_S, P99)


def our_world(phases: Phases, rate: float) -> World:
    """Our policy, with rack losses and false alarms; state is held by data-parallel replicas, so that nothing is copied."""
    weather = Weather(rate, pool_rate=rate, rack_rate=RACK_RATE, false_alarms=FALSE_ALARMS)
    return World(ours(phases, warm_nodes=warm_nodes(NODES, rate)), weather, round(NODES * POOL_SHARE))


def plan_of(world: World, scale: Scale, seed: int) -> Plan:
    """A run of a world at a size. A smaller gang has the failures, racks and pool of the whole site; it stands in two racks at
    least, since a lost rack of the whole site leaves nodes of the job that witness it."""
    weather, rack_nodes = world.weather, RACK_NODES
    if scale.nodes != NODES:
        rack_nodes = max(1, min(RACK_NODES, scale.nodes // 2))
        racks = -(-(NODES + world.pool) // RACK_NODES)
        here = -(-(scale.nodes + world.pool) // rack_nodes)
        weather = replace(
            weather, rate=equivalent(weather.rate, scale.nodes), rack_rate=weather.rack_rate * racks / here,
            rack_hits=NODES / (NODES + world.pool),
        )  # fmt: skip
    shape = Shape(scale.nodes, world.pool, scale.ranks_per_node, rack_nodes=rack_nodes)
    return Plan(shape, world.conduct, weather, scale.days, seed)


def cost_s(conduct: Conduct, cause: Cause) -> float:
    """What one failure of a cause costs when nothing else happens, seconds: its detection, the phases, half a step."""
    phases = conduct.decide_s + conduct.announce_s + conduct.join_s + conduct.affected_s + conduct.fetch_s
    return conduct.detect_s[cause] + phases + conduct.saving.steps * conduct.saving.step_s / 2.0


def controlled(plan: Plan, outcome: Outcome) -> float:
    """The share of a run, less the chance of how many failures of which cause it had (a control variate).

    Where every failure restarts the whole job the control is the plain recursion of `calibration` with the mean downtime, on
    the same failures; its mean is the formula. Elsewhere it is the sum of `cost_s` over the failures of the job. Its mean is
    known exactly whatever the arrivals: copies of the trace are shifted evenly, so that each moment has the mean rate.
    """
    weather, conduct = plan.weather, plan.conduct
    if not weather.rate:
        return outcome.share
    if conduct.survivors is Survivors.EXIT and weather.arrivals is Arrivals.POISSON:
        return outcome.share - _recursion_luck(plan, outcome)
    total = sum(conduct.shares.values())
    mean_cost = sum(share * cost_s(conduct, cause) for cause, share in conduct.shares.items()) / total
    expected = plan.days * DAY_S / mtbf_s(weather.rate, plan.shape.nodes) * mean_cost
    seen = sum(count * cost_s(conduct, cause) for cause, count in outcome.causes.items())
    return outcome.share + (seen - expected) / (plan.days * DAY_S)


def _recursion_luck(plan: Plan, outcome: Outcome) -> float:
    """By how much the plain recursion does better on the failures of a run than it does on average."""
    conduct, saving = plan.conduct, plan.conduct.saving
    shares = conduct.shares
    seen_s = sum(share * conduct.detect_s[cause] for cause, share in shares.items()) / sum(shares.values())
    down_s = (
        seen_s
        + conduct.decide_s
        + conduct.announce_s
        + conduct.start_s
        + conduct.join_s
        + conduct.whole_s
        + conduct.fetch_s
    )
    interval_s = saving.steps * saving.step_s
    expected = ettr(mtbf_s(plan.weather.rate, plan.shape.nodes), down_s, interval_s, saving.stall_s)
    return replay(outcome.failures, plan.days * DAY_S, down_s, interval_s, saving.stall_s) - expected


def share_of(plans: list[Plan], outcomes: list[Outcome]) -> Estimate:
    """Mean and interval over runs, with the control variate."""
    return estimate([controlled(plan, outcome) for plan, outcome in zip(plans, outcomes, strict=True)])


Change = Callable[[World, Phases, float], World]


def _conduct(**changes: object) -> Change:
    return lambda world, phases, rate: replace(world, conduct=replace(world.conduct, **changes))  # type: ignore[arg-type]


def _weather(**changes: object) -> Change:
    return lambda world, phases, rate: replace(world, weather=replace(world.weather, **changes))  # type: ignore[arg-type]


def _cold_spares(world: World, phases: Phases, rate: float) -> World:
    return replace(world, conduct=replace(world.conduct, warm_nodes=0))


def _all_groups(world: World, phases: Phases, rate: float) -> World:
    return replace(world, conduct=replace(world.conduct, affected_s=world.conduct.whole_s))


def _shared_storage(world: World, phases: Phases, rate: float) -> World:
    steps = round(1_800.0 / STEP_S)
    conduct = replace(
        world.conduct, fetch_s=phases["fetch_state.shared_storage"], saving=Saving(STEP_S, steps, 5.0)
    )  # fmt: skip
    return replace(world, conduct=conduct)


def _copies(world: World, phases: Phases, rate: float) -> World:
    return replace(world, conduct=replace(world.conduct, saving=memory_copies(phases, mtbf_s(rate))))


def _copies_every_step(world: World, phases: Phases, rate: float) -> World:
    saving = Saving(STEP_S, 1, phases["checkpoint.memory_stall_per_step"])
    return replace(world, conduct=replace(world.conduct, saving=saving))


def _restart_job(world: World, phases: Phases, rate: float) -> World:
    conduct = replace(full_restart(phases), saving=world.conduct.saving)
    return replace(world, conduct=conduct)


def _sound_repairs(world: World, phases: Phases, rate: float) -> World:
    repairs = replace(world.weather.repairs, again=0.0)
    return replace(world, weather=replace(world.weather, repairs=repairs))


CHANGES: Mapping[str, tuple[str, Change]] = {
    "restart job": ("without REPLACE_RANK and RESTART_RANK: every failure restarts the whole job", _restart_job),
    "no parked": ("without RESTART_RANK in place: no parked process on the node, a new one starts", _conduct(parked_per_node=0)),
    "cold spares": ("without warm spares: the replacement starts from nothing", _cold_spares),
    "all groups": ("all communicators are built anew, not only those of the lost rank", _all_groups),
    "shared storage": ("state from shared storage, a checkpoint every 30 min, stall 5 s", _shared_storage),
    "copies": ("no replica holds the state: copies in a peer's memory, at Young's interval", _copies),
    "copies each step": ("the same, a copy after every step", _copies_every_step),
    "no false alarms": ("no false convictions", _weather(false_alarms=0.0)),
    "ten false alarms": ("ten false convictions a day", _weather(false_alarms=10.0)),
    "no racks": ("no rack losses", _weather(rack_rate=0.0)),
    "many racks": ("ten times as many rack losses", _weather(rack_rate=10 * RACK_RATE)),
    "sound repairs": ("repaired nodes fault no more often than others", _sound_repairs),
    "bursts": ("failures as in the public trace (randomly shifted copies)", _weather(arrivals=Arrivals.TRACE)),
    "stress": ("the same, fully correlated copies", _weather(arrivals=Arrivals.CORRELATED)),
}  # fmt: skip
"""What our policy is worth without one of its parts, and in another weather: title and change, by name."""

OTHERS: Mapping[str, tuple[str, Callable[[Phases], Conduct]]] = {
    "full restart": ("full restart, checkpoint every 30 min", full_restart),
    "kubernetes": ("Kubernetes-style eviction (350 s), then the same", kubernetes),
    "warm restart": ("full restart with warm spares, checkpoint every 30 min", warm_restart),
}
"""Published ways to recover, in our world."""


@dataclass(frozen=True, slots=True)
class Published:
    """A system at the figure that its authors give; definitions of effective time differ."""

    name: str
    scale: str
    percent: str
    source: str


PUBLISHED = (
    Published("ByteRobust", "9,600 GPUs, 3 months", "97", "arXiv 2509.16293 (SOSP 2025)"),
    Published("Meta FT-HSDP", "about 100,000 GPUs", "80 (44 synchronous)", "arXiv 2602.00277"),
    Published("Google Gemini 1.0", "TPU v4/v5e fleets", "97 (85 before)", "arXiv 2312.11805"),
    Published("MegaScale", "12,288 GPUs", "more than 90", "arXiv 2402.15627 (NSDI 2024)"),
    Published("Llama 3", "16,384 GPUs, 54 days", "more than 90", "arXiv 2407.21783"),
)
