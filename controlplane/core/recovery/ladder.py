"""The rungs that could end an incident, what each would cost, and the cheapest that can work. Pure.

The cost of a rung is its expected loss in accelerator-seconds: the time until the job makes a new step, times the devices
that wait for it; the steps that are done twice; and for a smaller job what the missing replicas would have done until they
are back. A tie goes to the rung that disturbs less.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.core.jobs import Job
from controlplane.core.placement.gang import Placement
from controlplane.core.recovery.phase_times import PhaseTimes
from controlplane.core.units import NS_PER_S, ms, seconds
from controlplane.core.vocabulary import RankState, Rung


@dataclass(frozen=True, slots=True)
class Option:
    """A rung with everything that carrying it out takes. `blocked`: why it cannot work; "": it can."""

    rung: Rung
    text: str
    blocked: str = ""
    loss: float = 0.0
    warm: bool = False
    ranks: tuple[int, ...] = ()
    moved: tuple[int, ...] = ()
    moves: Placement | None = None
    fence: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.blocked:
            return f"{self.rung}: {self.blocked}"
        return f"{self.rung}: {self.text}, expected loss {self.loss:,.0f} accelerator-s"


LADDER = tuple(Rung)


def cheapest(options: Iterable[Option], wanted: Rung | None = None) -> Option | None:
    """The option with the least expected loss among those that can work; None when none can.

    Where a rule asks for a rung, it is that one, or the next dearer one that can work.
    """
    open_options = [option for option in options if not option.blocked]
    if wanted is not None:
        asked = [option for option in open_options if LADDER.index(option.rung) >= LADDER.index(wanted)]
        if asked:
            return min(asked, key=lambda option: LADDER.index(option.rung))
    return min(open_options, key=lambda option: (option.loss, LADDER.index(option.rung)), default=None)


def warm(job: Job, nodes: np.ndarray) -> bool:
    """Whether every one of these places (a node number per rank) finds a parked process."""
    if not len(nodes):
        return True
    hosts = job.hosts
    size = int(max(nodes.max(initial=0), hosts.node.max(initial=0))) + 1
    parked = np.bincount(hosts.node[(hosts.generation == 0) & (hosts.state == RankState.PARKED)], minlength=size)
    return bool((np.bincount(nodes, minlength=size) <= parked).all())


def step_s(job: Job, now_ns: int, step: int, times: PhaseTimes) -> float:
    """Seconds that one step of the job takes: as measured since it last came to run, else as assumed."""
    incident = job.incident
    until_ns = incident.fault_ns if incident else now_ns
    made = step - job.restore_step
    took = (until_ns - job.clock.running_ns) / NS_PER_S
    return took / made if job.clock.running_ns and made > 0 and took > 0 else times.policy.step_s


def loss(job: Job, rung: Rung, times: PhaseTimes, *, is_warm: bool, redone_s: float, gone: int = 0) -> float:
    """Expected loss of a rung in accelerator-seconds. `redone_s`: work since the restore point; `gone`: accelerators of
    replicas that leave until a lost node is repaired."""
    again = 0.0 if rung is Rung.RETRY_STEP else redone_s
    stall = (times.expected_s(rung, warm=is_warm) + again) * job.devices
    return stall + gone * times.policy.repair_s


def deadline_ns(job: Job, option: Option, times: PhaseTimes, start_ns: int) -> int:
    """When the rung has failed, Unix ns: a multiple of what it usually takes, inside the policy's floor and the job's own
    time-outs, which are the limit while nothing is measured."""
    limits = job.spec.timeouts
    cap_ms = limits.join_ms if not option.ranks and not option.moved else limits.start_ms + limits.join_ms
    usual_s = times.late_after_s(option.rung, warm=option.warm)
    if usual_s is None:
        return start_ns + ms(cap_ms)
    floor_ms = min(times.policy.deadline_floor_ms, cap_ms)
    return start_ns + min(max(seconds(usual_s), ms(floor_ms)), ms(cap_ms))


SHOWN = 8
"""Spans of ranks, and distinct pieces of evidence, that a verdict spells out; the records that led to it hold the rest."""


def spans(ranks: Iterable[int] | np.ndarray) -> str:
    """Different numbers as a bounded text: `0-3, 8`."""
    column = np.sort(ranks if isinstance(ranks, np.ndarray) else np.fromiter(ranks, dtype=np.int64))
    if not len(column):
        return "none"
    cuts = np.flatnonzero(np.diff(column) > 1) + 1
    parts = [f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in np.split(column, cuts)[:SHOWN]]
    more = f" and more, {len(column)} in all" if len(cuts) >= SHOWN else ""
    return ", ".join(parts) + more


def ranks_text(ranks: Sequence[int] | np.ndarray) -> str:
    """`rank 3`, or `ranks 0-3, 8`."""
    return f"rank{'s' * (len(ranks) > 1)} {spans(ranks)}"
