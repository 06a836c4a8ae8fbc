"""Faults as they come: planned at times or at rates, aimed, carried out, counted, and over again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING

from controlplane.core.units import seconds
from controlplane.sim.faults.catalogue import Aim, Kind, NothingThere, Strike, Undo
from controlplane.sim.faults.plan import Arrivals, FaultPlan, check_plan
from controlplane.sim.kernel import START_NS

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

DAY_S = 86_400.0
TRACE = "stepfun_faults_days_0_174.json"
TRACE_DAYS = 174.0
MACHINES = frozenset({"node", "device", "node_reboot"})
"""Kinds after whose repair a machine may fail again soon."""


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """How long repairs take: log-normal with this median and mean, as on the public trace; shortened by `scale`.

    `again_share` of the repaired machines fail again within `again_s` (one in five within a day on the public trace), times
    `scale` as well.
    """

    median_s: float = 20 * 3_600.0
    mean_s: float = 133 * 3_600.0
    again_share: float = 0.2
    again_s: float = DAY_S
    scale: float = 1.0

    def draw_s(self, normal: float) -> float:
        """A duration for a draw from the standard normal distribution."""
        sigma = math.sqrt(2 * math.log(max(1.0, self.mean_s / self.median_s)))
        return self.scale * self.median_s * math.exp(sigma * normal)


class Injector:
    """Carries out the fault plans of one run.

    `counted`: faults that really struck, by kind; `missed`: those that found nothing to strike.
    """

    def __init__(self, world: World, plans: Sequence[FaultPlan], repairs: RepairPlan, duration_s: float) -> None:
        self.world = world
        self.repairs = repairs
        self.end_ns = START_NS + seconds(duration_s)
        self.counted: dict[str, int] = {}
        self.missed: dict[str, int] = {}
        self._open: dict[int, Undo] = {}
        self._number = 0
        self._stopped = False
        for at, plan in enumerate(plans):
            found = check_plan(plan, f"faults[{at}]")
            for moment_s in self._moments(at, plan, duration_s):
                world.kernel.at(START_NS + seconds(moment_s), partial(self.strike, plan, found))

    def _moments(self, at: int, plan: FaultPlan, duration_s: float) -> list[float]:
        if plan.at_s is not None:
            return [plan.at_s]
        random = self.world.kernel.stream(f"faults/{at}/{plan.kind}/times")
        limit = plan.limit or 100_000
        if plan.arrivals is Arrivals.STEPFUN:
            return _from_trace(random.random(), plan.per_day, duration_s)[:limit]
        moments: list[float] = []
        moment_s = random.expovariate(plan.per_day / DAY_S)
        while moment_s < duration_s and len(moments) < limit:
            moments.append(moment_s)
            moment_s += random.expovariate(plan.per_day / DAY_S)
        return moments

    def strike(self, plan: FaultPlan, kind: Kind) -> None:
        """One fault, now. Where nothing can be struck nothing happens."""
        if self._stopped:
            return
        world = self.world
        random = world.kernel.stream(f"faults/{plan.kind}/strikes")
        given = dict(plan.parameters)
        parameters = {name: given.get(name, bounds.default) for name, bounds in kind.parameters.items()}
        duration_s = kind.duration_s if plan.duration_s is None else plan.duration_s
        if duration_s is None:
            duration_s = self.repairs.draw_s(random.gauss(0.0, 1.0))
        try:
            target = plan.target or _pick(candidates(world, kind.aim), random.random())
            undo = kind.act(world, Strike(target, duration_s, parameters, random, plan.code))
        except NothingThere:
            self.missed[plan.kind] = self.missed.get(plan.kind, 0) + 1
            return
        self.counted[plan.kind] = self.counted.get(plan.kind, 0) + 1
        world.struck(plan.kind, target)
        if undo is not None:
            self._keep(undo, duration_s, plan, kind, target)

    def _keep(self, undo: Undo, duration_s: float, plan: FaultPlan, kind: Kind, target: str) -> None:
        self._number += 1
        number = self._number
        self._open[number] = undo
        self.world.kernel.after(duration_s, lambda: self._over(number, plan, kind, target))

    def _over(self, number: int, plan: FaultPlan, kind: Kind, target: str) -> None:
        undo = self._open.pop(number, None)
        if undo is None:
            return
        undo()
        if kind.name in MACHINES:
            random = self.world.kernel.stream(f"faults/{kind.name}/again")
            if random.random() < self.repairs.again_share:
                again_s = random.random() * self.repairs.again_s * self.repairs.scale
                same = FaultPlan(
                    plan.kind, target, 0.0, duration_s=plan.duration_s, code=plan.code, parameters=plan.parameters
                )
                self.world.kernel.after(again_s, lambda: self.strike(same, kind))

    def stop(self) -> None:
        """From now on nothing new happens, and everything that goes on is over."""
        self._stopped = True
        while self._open:
            self._open.pop(max(self._open))()

    @property
    def elapsed_share(self) -> float:
        """How much of the scenario's time has passed, 0 to 1."""
        total = self.end_ns - START_NS
        return min(1.0, (self.world.now_ns - START_NS) / total) if total else 1.0


def candidates(world: World, aim: Aim) -> list[str]:
    """What a fault of this aim could strike now, in a fixed order."""
    match aim:
        case Aim.RANK:
            moving = [gang for gang in world.gangs.newest.values() if not gang.broken]
            return [f"{gang.job}/{rank}" for gang in moving for rank in sorted(gang.members)]
        case Aim.JOB:
            state = world.control.leader.state if world.control.leader else None
            return [job.uid for job in state.active_jobs()] if state else []
        case Aim.CHECKPOINT:
            return [name for name, kept in world.stores.shards.items() if kept]
        case Aim.DEVICE:
            return [
                f"{n.name}/{i}"
                for n in world.nodes.values()
                if n.up
                for i in range(n.accelerators)
                if i not in n.faults
            ]
        case Aim.NODE:
            return [node.name for node in world.nodes.values() if node.up]
        case Aim.RELAY:
            return world.relays.names()
        case Aim.SITE:
            return ["site"]
        case Aim.RACK | Aim.SWITCH | Aim.POWER | Aim.SUPERPOD:
            up = [dict(node.labels).get(aim.value, "") for node in world.nodes.values() if node.up]
            return list(dict.fromkeys(name for name in up if name))


def _pick(names: Sequence[str], draw: float) -> str:
    if not names:
        raise NothingThere("nothing of this sort is there")
    return names[int(draw * len(names))]


@cache
def _trace_s() -> tuple[float, ...]:
    """When faults began on the public trace, seconds from its begin."""
    events = json.loads(resources.files("controlplane.sim").joinpath("data", TRACE).read_text())
    return tuple(event["event_time"] * DAY_S for event in events if event["event_type"] == "fault_start")


def _from_trace(draw: float, per_day: float, duration_s: float) -> list[float]:
    """Moments of a randomly shifted copy of the public trace, stretched in time to the wished mean rate; bursts stay bursts."""
    starts = _trace_s()
    stretch = len(starts) / TRACE_DAYS / per_day
    period_s = TRACE_DAYS * DAY_S * stretch
    shift_s = draw * period_s
    shifted = sorted((moment_s * stretch + shift_s) % period_s for moment_s in starts)
    return [moment_s for moment_s in shifted if moment_s < duration_s]
