"""The exact share of productive time under the plainest assumptions: what the simulator is calibrated against.

Failures come with exponential gaps and stop the whole job; each costs the same downtime, which another failure starts anew;
work counts from save to save. Then (Daly's renewal argument)

    ETTR = tau / (M e^(D/M) (e^((tau + d)/M) - 1))

with M the time between failures of the job, D the downtime, tau the work between two saves and d the stall of a save.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DAY_S = 86_400.0
NODES = 6_250
"""Nodes of the modelled job; 8 accelerators each."""
RATES = (2.3, 3.8, 6.5)
"""Job-stopping failures per 1,000 node-days: the low, the middle and the high published value."""
STEP_S = 5.0
"""Step time of the modelled job."""


def mtbf_s(rate: float, nodes: int = NODES) -> float:
    """Time between failures of a job, seconds, from failures per 1,000 node-days."""
    if rate <= 0 or nodes <= 0:
        raise ValueError(f"a rate of {rate:g} per 1,000 node-days on {nodes} nodes: both must be above 0")
    return DAY_S * 1_000.0 / (rate * nodes)


def ettr(mtbf: float, downtime: float, interval: float, stall: float = 0.0) -> float:
    """The exact formula above; all arguments in seconds."""
    return interval / (mtbf * math.exp(downtime / mtbf) * math.expm1((interval + stall) / mtbf))


def young_interval_s(mtbf: float, stall: float) -> float:
    """Young's interval between saves, seconds: sqrt(2 M d)."""
    return math.sqrt(2.0 * mtbf * stall)


@dataclass(frozen=True, slots=True)
class PlainCase:
    """One way to recover, in three numbers (seconds). `interval_s` 0: Young's interval for the rate at hand."""

    key: str
    title: str
    downtime_s: float
    interval_s: float
    stall_s: float = 0.0

    def interval_at(self, mtbf: float) -> float:
        """Work between two saves, seconds, at a time between failures."""
        return self.interval_s or young_interval_s(mtbf, self.stall_s)

    def ettr(self, mtbf: float) -> float:
        """The exact share at a time between failures."""
        return ettr(mtbf, self.downtime_s, self.interval_at(mtbf), self.stall_s)


PLAIN_CASES = (
    PlainCase("a", "restart 600 s, checkpoint every 30 min, stall 5 s", 600.0, 1_800.0, 5.0),
    PlainCase("a'", "restart 600 s, Young's interval, stall 5 s", 600.0, 0.0, 5.0),
    PlainCase("flash", "FlashRecovery-like: 150 s, one step", 150.0, STEP_S),
    PlainCase("byte", "ByteRobust-like: 110 s, every 10 s, stall 0.05 s", 110.0, 10.0, 0.05),
    PlainCase("b", "spare swap 60 s, memory copy every 60 s, stall 0.05 s", 60.0, 60.0, 0.05),
    PlainCase("c", "10 s pause of the whole job, half a step", 10.0, STEP_S),
    PlainCase("c'", "2 s pause, half a step: the physical floor", 2.0, STEP_S),
)
