"""What faults a scenario asks for: at a time or at a rate, on a target or on a random one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from controlplane.sim.faults.catalogue import CATALOGUE, Kind
from controlplane.sim.reading import BadScenario, unknown


class Arrivals(StrEnum):
    """How faults at a rate come: independent of each other, or in the bursts of the public fault trace (StepFun)."""

    POISSON = "poisson"
    STEPFUN = "stepfun"


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Faults of one kind.

    `at_s` from the begin of the scenario, or `per_day` on the whole site; `limit`: at most so many (0: no limit).
    `duration_s` None: what the kind says. `target` "": a random one each time. `code`: for kinds that strike devices.
    """

    kind: str
    target: str = ""
    at_s: float | None = None
    per_day: float = 0.0
    limit: int = 0
    duration_s: float | None = None
    code: str = ""
    arrivals: Arrivals = Arrivals.POISSON
    parameters: tuple[tuple[str, float], ...] = ()


def check_plan(plan: FaultPlan, place: str) -> Kind:
    """The kind of a plan that can be carried out.

    Raises:
        BadScenario: an unknown kind or parameter, a value out of bounds, no time, or two.
    """
    found = CATALOGUE.get(plan.kind)
    if found is None:
        raise unknown(f"{place}.kind", plan.kind, list(CATALOGUE), "kind of fault")
    for name, value in plan.parameters:
        bounds = found.parameters.get(name)
        if bounds is None:
            raise unknown(f"{place}.parameters", name, list(found.parameters), f"parameter of {plan.kind}")
        if not bounds.least <= value <= bounds.most:
            raise BadScenario(f"{place}.parameters.{name}: {value} is not between {bounds.least} and {bounds.most}")
    if (plan.at_s is None) == (plan.per_day == 0):
        raise BadScenario(f"{place}: give `at_s` for one fault at a time, or `per_day` for a rate")
    return found
