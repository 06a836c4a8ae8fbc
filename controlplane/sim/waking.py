"""When a closed form next lets the controller tick: while a node is silent and not yet judged, or a job does not run."""

from __future__ import annotations

from controlplane.core.draft import Policy
from controlplane.core.softstate import SoftState
from controlplane.core.state import State
from controlplane.core.units import ms, seconds
from controlplane.core.vocabulary import JobState, NodeLiveness

TICK_NS = ms(100)
"""Between two ticks of the controller: no two ticks are closer."""
WAITING_NS = ms(1_000)
"""Between two ticks while a job is on its way and nothing is silent: what it waits for comes as events."""


def wakes_ns(state: State, soft: SoftState, now_ns: int, policy: Policy) -> int | None:
    """The next tick, Unix ns; None: nothing that a tick could decide is in motion."""
    beats = soft.last_beat_ns(state.fleet.size)
    silent = (beats != now_ns) & (state.fleet.liveness != NodeLiveness.DEAD)
    if silent.any():
        return max(now_ns + TICK_NS, int(beats[silent].min()) + seconds(policy.suspicion.lease_s) + 1)
    if any(job.state is not JobState.RUNNING for job in state.active_jobs()):
        return now_ns + WAITING_NS
    return None
