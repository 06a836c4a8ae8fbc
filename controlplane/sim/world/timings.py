"""How long things take in the simulated world."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Timings:
    """Durations in seconds, in the order in which they occur. Mutable: a fault may stretch one for a while.

    `effect_s`: from a published effect to its agent. `notice_s`: until peers see that a rank's connections broke, and until
    the cell sees a lost raylet (times ten). `linger_s`: what is left of a killed process group. `redial_s`: until an agent
    whose session was refused dials again. `turn_s`: a controller's turn that writes something, its append included; what
    arrives meanwhile is decided together in the next one (0: every event has a turn of its own).
    """

    effect_s: float = 0.01
    park_s: float = 20.0
    join_s: float = 0.05
    rendezvous_s: float = 1.0
    restore_s: float = 5.0
    first_step_s: float = 2.0
    step_s: float = 1.0
    notice_s: float = 0.05
    raylet_notice_s: float = 0.5
    actor_notice_s: float = 1.0
    linger_s: float = 0.5
    redial_s: float = 0.2
    reconnect_s: float = 0.3
    retry_s: float = 0.5
    turn_s: float = 0.0
