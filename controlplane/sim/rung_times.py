"""How long each rung takes where nobody has measured it here: sums of the published phases, low, expected and high."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.core.recovery.prices import Range
from controlplane.core.vocabulary import Rung
from controlplane.sim.ettr.phases import Column, Phases, load

_SAME_PROCESSES = ("announce", "rebuild_communicators.affected_groups")
_IN_PLACE = (*_SAME_PROCESSES, "spare_ready.warm", "fetch_state.shared_storage")
PARTS: Mapping[Rung, tuple[str, ...]] = {
    Rung.RETRY_STEP: _SAME_PROCESSES,
    Rung.ROLLBACK: (*_SAME_PROCESSES, "fetch_state.shared_storage"),
    Rung.RESTART_RANK: _IN_PLACE,
    Rung.REPLACE_RANK: _IN_PLACE,
    Rung.SHRINK: ("announce", "elastic_stall", "fetch_state.shared_storage"),
    Rung.GROW: ("announce", "elastic_stall", "fetch_state.shared_storage"),
    Rung.RESTART_JOB: ("restart_job.cold", "rebuild_communicators.whole_job", "fetch_state.shared_storage"),
}
"""What follows a verdict, by rung."""


def published(phases: Phases | None = None) -> Mapping[Rung, Range]:
    """Seconds from the verdict to the first new step, by rung. `phases`: default those that come with the product."""
    known = phases or load()
    return {
        rung: (
            _sum(known.at(Column.LOW), parts),
            _sum(known.at(Column.EXPECTED), parts),
            _sum(known.at(Column.HIGH), parts),
        )
        for rung, parts in PARTS.items()
    }


def _sum(phases: Phases, parts: tuple[str, ...]) -> float:
    return sum(phases[name] for name in parts)
