"""Mistakes of a person in a scenario file that could be played and would only puzzle: names that nothing has, moments after
the end, jobs that no machine can hold. What cannot be played at all is `scenario.check`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from controlplane.sim.faults.catalogue import CATALOGUE, Aim
from controlplane.sim.faults.plan import FaultPlan
from controlplane.sim.reading import BadScenario

if TYPE_CHECKING:
    from controlplane.sim.scenario import Scenario
    from controlplane.sim.topology import Place


SHOWN = 8
"""Names that an error lists."""


@dataclass(frozen=True, slots=True)
class _Names:
    """What faults can be aimed at, by aim; of jobs the names, because their numbers come later."""

    of: dict[Aim, Collection[str]]
    jobs: tuple[str, ...]


def check_sense(scenario: Scenario) -> None:
    """Refuse what nobody can have meant.

    Raises:
        BadScenario: with the place, the reason, and the nearest name.
    """
    if scenario.duration_s <= 0:
        raise BadScenario("duration_s: nothing happens in no time; write a duration such as 4h")
    places = scenario.topology.places()
    widest = max(place.accelerators for place in places)
    for at, planned in enumerate(scenario.jobs):
        width = planned.spec.accelerators_per_rank
        if width > widest:
            text = f"a rank of {planned.spec.name} needs {width} accelerators on one machine, the widest has {widest}"
            raise BadScenario(f"jobs[{at}].spec.acceleratorsPerRank: {text}")
        _in_time(planned.at_s, scenario.duration_s, f"jobs[{at}].at_s")
    names = _names(places, tuple(planned.spec.name for planned in scenario.jobs))
    for at, plan in enumerate(scenario.faults):
        _in_time(plan.at_s or 0.0, scenario.duration_s, f"faults[{at}].at_s")
        _aimed(plan, names, f"faults[{at}].target")


def _in_time(at_s: float, duration_s: float, place: str) -> None:
    if at_s >= duration_s:
        raise BadScenario(f"{place}: {at_s:g} s is after the end; duration_s is {duration_s:g} s")


def _names(places: Sequence[Place], jobs: tuple[str, ...]) -> _Names:
    labels = [dict(place.all_labels()) for place in places]
    domains = (Aim.RACK, Aim.SWITCH, Aim.POWER, Aim.SUPERPOD)
    of: dict[Aim, Collection[str]] = {
        aim: sorted({found[aim.value] for found in labels if found.get(aim.value)}) for aim in domains
    }
    of[Aim.NODE] = [place.name for place in places]
    of[Aim.DEVICE] = [f"{place.name}/{index}" for place in places for index in range(place.accelerators)]
    return _Names(of, jobs)


def _aimed(plan: FaultPlan, names: _Names, place: str) -> None:
    aim, target = CATALOGUE[plan.kind].aim, plan.target
    if not target:
        return
    if aim in names.of:
        known = names.of[aim]
        if target not in known:
            near = get_close_matches(target, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(list(known)[:SHOWN]) or 'none'}"
            raise BadScenario(f"{place}: no {aim} is named `{target}`; {hint}")
    elif aim in (Aim.RANK, Aim.JOB, Aim.CHECKPOINT):
        job = target.partition("/")[0]
        if job not in names.jobs and job.rpartition("-")[0] not in names.jobs:
            known = ", ".join(names.jobs[:SHOWN]) or "none"
            raise BadScenario(f"{place}: `{target}` is of no job of this file; its jobs are {known}")
