"""Effective training time of a site that a user describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from controlplane.sim.ettr.conduct import Conduct, ours
from controlplane.sim.ettr.phases import Column, Phases
from controlplane.sim.ettr.policies import FALSE_ALARMS, POOL_SHARE, RACK_NODES, RACK_RATE, World, share_of, warm_nodes
from controlplane.sim.ettr.renewal import NODES, PLAIN_CASES, mtbf_s
from controlplane.sim.ettr.run import Outcome, Plan, Weather
from controlplane.sim.ettr.tables import Table
from controlplane.sim.gang_shape import Shape


def worlds_of(phases: Phases, nodes: int, rate: float) -> dict[Column, World]:
    """Our policy on a job of `nodes`, for each column of durations: spares for a day at P99, false alarms by size."""
    warm = warm_nodes(nodes, rate)
    weather = Weather(rate, pool_rate=rate, rack_rate=RACK_RATE, false_alarms=FALSE_ALARMS * nodes / NODES)
    return {
        column: World(ours(phases.at(column), warm_nodes=warm), weather, round(nodes * POOL_SHARE)) for column in Column
    }


def plans_of(worlds: Mapping[Column, World], nodes: int, days: float, seeds: Sequence[int]) -> dict[Column, list[Plan]]:
    """The runs of every column, under the same failures."""
    return {
        column: [
            Plan(Shape(nodes, world.pool, rack_nodes=RACK_NODES), _bounded(world), world.weather, days, seed)
            for seed in seeds
        ]
        for column, world in worlds.items()
    }


def _bounded(world: World) -> Conduct:
    """No more warm spares than there are nodes beside the job."""
    return replace(world.conduct, warm_nodes=min(world.conduct.warm_nodes, world.pool))


def own_table(
    plans: Mapping[Column, Sequence[Plan]], outcomes: Mapping[Column, Sequence[Outcome]], rate: float
) -> Table:
    """Share, recoveries and failures of every column, and the floor below which no recovery can come."""
    shape = plans[Column.EXPECTED][0].shape
    rows = []
    for column, runs in outcomes.items():
        share = share_of(list(plans[column]), list(runs))
        rungs: dict[str, int] = {}
        for outcome in runs:
            for rung, count in outcome.tally.rungs.items():
                rungs[rung] = rungs.get(rung, 0) + count
        total = ", ".join(f"{rung} {count}" for rung, count in sorted(rungs.items())) or "none"
        failures = sum(len(outcome.failures) for outcome in runs)
        rows.append((str(column), f"{share.percent:.2f}", f"{share.half_width:.2f}", str(failures), total))
    floor = next(case for case in PLAIN_CASES if case.key == "c'").ettr(mtbf_s(rate, shape.nodes))
    plan = plans[Column.EXPECTED][0]
    note = (
        f"{shape.nodes:,} nodes of 8 accelerators (one rank each) and {shape.pool} beside them, r {rate:g}, "
        f"{plan.conduct.warm_nodes} warm spares, {len(runs)} runs of {plan.days:g} days. Physical floor: {100 * floor:.2f} %."
    )
    headers = ("durations", "productive %", "95 % ±", "failures", "recoveries")
    return Table("own-site", "Effective training time", headers, tuple(rows), note)
