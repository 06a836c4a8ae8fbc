"""How the world of one gang behaves: what fails in which way, how long every phase takes, what survives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from controlplane.sim.ettr.phases import Phases
from controlplane.sim.ettr.progress import Saving
from controlplane.sim.ettr.renewal import STEP_S, PlainCase, young_interval_s


class Cause(StrEnum):
    """Ways to fail, by what can be seen of them.

    DEVICE: the node's agent sees the device go. PROCESS: a rank process dies, the hardware is good. NETWORK: a link or port
    of the node goes. SILENCE: the node is gone without a word. HANG: a rank stands still and nothing says so.
    FALSE_ALARM: a healthy node is taken for a bad one.
    """

    DEVICE = "device"
    PROCESS = "process"
    NETWORK = "network"
    SILENCE = "silence"
    HANG = "hang"
    FALSE_ALARM = "false alarm"


CAUSE_SOURCE = "Meta FT-HSDP (arXiv 2602.00277), 678 unexpected interruptions of 32k H100"
_PUBLISHED_PERCENT: Mapping[Cause, tuple[float, ...]] = {
    Cause.DEVICE: (22.9, 18.0, 7.4, 5.5, 6.2),  # HBM, PCIe, faulty GPU, silent corruption once found, host maintenance
    Cause.PROCESS: (7.1,),  # software
    Cause.NETWORK: (5.3,),  # network
    Cause.SILENCE: (5.8, 5.6),  # kernel, reboot
    Cause.HANG: (9.0,),  # collective time-out
}
_TOTAL = sum(sum(parts) for parts in _PUBLISHED_PERCENT.values())
CAUSE_SHARE: Mapping[Cause, float] = {cause: sum(parts) / _TOTAL for cause, parts in _PUBLISHED_PERCENT.items()}
"""Shares of job-stopping failures by what can be seen of them: the named rows of one published table, made to sum to 1."""

REPAIRED = frozenset({Cause.DEVICE, Cause.NETWORK, Cause.SILENCE})
"""Causes after which the node is away until it is repaired."""


class Survivors(StrEnum):
    """What the ranks do that a failure has not hit: keep their processes, or end with the lost one."""

    KEEP = "keep"
    EXIT = "exit"


@dataclass(frozen=True, slots=True)
class Conduct:
    """Durations in seconds. `detect_s`: from the failure to the evidence; of silence, to the verdict.

    `start_s`: a process that was not parked, up to PARKED. `join_s`: a parked process takes its rank. `affected_s`: the
    groups of the lost ranks are built anew; `whole_s`: all groups, when no rank kept its process. `fetch_s`: state.
    """

    saving: Saving
    detect_s: Mapping[Cause, float]
    decide_s: float
    announce_s: float
    start_s: float
    join_s: float
    affected_s: float
    whole_s: float
    fetch_s: float
    survivors: Survivors = Survivors.KEEP
    warm_nodes: int = 8
    parked_per_node: int = 1
    shares: Mapping[Cause, float] = field(default_factory=lambda: CAUSE_SHARE)


def _detection(phases: Phases) -> dict[Cause, float]:
    local = phases["detect.local_evidence"]
    return {
        Cause.DEVICE: local,
        Cause.PROCESS: local,
        Cause.NETWORK: phases["detect.network"],
        Cause.SILENCE: phases["detect.silence"],
        Cause.HANG: phases["detect.hang"],
        Cause.FALSE_ALARM: 0.0,
    }


def ours(phases: Phases, *, warm_nodes: int, saving: Saving | None = None) -> Conduct:
    """Phalanx: survivors keep their processes and state, a parked process on a warm spare takes the lost rank."""
    return Conduct(
        saving or Saving(STEP_S), _detection(phases), phases["decide"], phases["announce"], phases["spare_ready.cold"],
        phases["spare_ready.warm"], phases["rebuild_communicators.affected_groups"],
        phases["rebuild_communicators.whole_job"], phases["fetch_state.memory_peer"], warm_nodes=warm_nodes,
    )  # fmt: skip


def memory_copies(phases: Phases, mtbf: float) -> Saving:
    """For state that no replica holds: copies in a peer's memory, at Young's interval in whole steps."""
    stall = phases["checkpoint.memory_stall_per_step"]
    return Saving(STEP_S, max(1, round(young_interval_s(mtbf, stall) / STEP_S)), stall)


HALF_HOUR_S = 1_800.0
DISK_STALL_S = 5.0
EVICTION_S = 350.0
"""Stock Kubernetes: a node is declared lost after 50 s and its pods are evicted 300 s later."""


def _restart(
    phases: Phases, detect_s: Mapping[Cause, float], start_s: float, fetch_s: float, whole_s: float
) -> Conduct:
    saving = Saving(STEP_S, round(HALF_HOUR_S / STEP_S), DISK_STALL_S)
    return Conduct(
        saving, detect_s, phases["decide"], 0.0, start_s, 0.0, whole_s, whole_s, fetch_s,
        survivors=Survivors.EXIT, warm_nodes=0, parked_per_node=0,
    )  # fmt: skip


def full_restart(phases: Phases) -> Conduct:
    """The whole job starts from scratch (scheduling included) from a checkpoint that is at most 30 minutes old."""
    return _restart(phases, _detection(phases), phases["restart_job.cold"], 0.0, 0.0)


def kubernetes(phases: Phases) -> Conduct:
    """The same restart, after nothing has been replaced for as long as an eviction takes."""
    late = {cause: max(seen, EVICTION_S) for cause, seen in _detection(phases).items()}
    return _restart(phases, late, phases["restart_job.cold"], 0.0, 0.0)


def warm_restart(phases: Phases) -> Conduct:
    """The whole job restarts on nodes and spares that are ready: processes, all groups, state from shared storage."""
    return _restart(
        phases, _detection(phases), phases["spare_ready.cold"], phases["fetch_state.shared_storage"],
        phases["rebuild_communicators.whole_job"],
    )  # fmt: skip


def pinned(case: PlainCase, mtbf: float) -> Conduct:
    """Decisions and durations of a plain case: seen at once, one downtime, saves at its interval."""
    interval = case.interval_at(mtbf)
    steps = max(1, round(interval / STEP_S))
    saving = Saving(interval / steps, steps, case.stall_s)
    at_once = dict.fromkeys(Cause, 0.0)
    restart = case.downtime_s >= PINNED_RESTART_S
    start, groups = (case.downtime_s, 0.0) if restart else (0.0, case.downtime_s)
    return Conduct(
        saving, at_once, 0.0, 0.0, start, 0.0, groups, groups, 0.0,
        survivors=Survivors.EXIT if restart else Survivors.KEEP, warm_nodes=0 if restart else 8,
        parked_per_node=0 if restart else 1, shares={Cause.PROCESS: 1.0},
    )  # fmt: skip


PINNED_RESTART_S = 600.0
"""Plain cases from this downtime on are restarts of the whole job; below it survivors keep their processes."""
