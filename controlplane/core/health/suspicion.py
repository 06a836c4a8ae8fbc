"""The arithmetic of suspicion: silence, witnesses and what may be concluded. Vectorised over nodes, no state, no clock.

The table is "Believing" in docs/language.md: silence alone makes a node SUSPECT; DEAD needs a second witness or the long
time-out; ranks that still make steps prove the node alive; many silent at once without any witness make *us* the suspect.
Where agent, cell and peers agree, each about its own part, the lease is not waited for (docs/design/0005-edges.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from controlplane.core.columns import BoolColumn, ByteColumn
from controlplane.core.vocabulary import NodeLiveness


@dataclass(frozen=True, slots=True)
class SuspicionPolicy:
    """Limits in seconds. `brief_s`: silence that is enough when three witnesses of different kinds agree; above a beat, so
    that an agent that was restarted can say hello. `scatter_share`: from this share of the site on, silence without witness
    is our own fault."""

    lease_s: float = 3.0
    brief_s: float = 0.75
    dead_without_witness_s: float = 300.0
    scatter_minimum: int = 3
    scatter_share: float = 0.3


class Ground(IntEnum):
    """Why a verdict was reached; 0 means no change."""

    NONE = 0
    BEAT = 1
    LEASE = 2
    CELL_WITNESS = 3
    STEPS_WITNESS = 4
    LONG_SILENCE = 5
    CORRELATED = 6
    PROOF_OF_LIFE = 7
    THREE_WITNESSES = 8


GROUND_TEXT = {
    Ground.NONE: "",
    Ground.BEAT: "beats arrive again",
    Ground.LEASE: "silent past its lease",
    Ground.CELL_WITNESS: "silent past its lease, and its raylet is gone from the cell",
    Ground.STEPS_WITNESS: "silent past its lease, and the steps of its job have stopped",
    Ground.LONG_SILENCE: "silent past the long time-out",
    Ground.CORRELATED: "many nodes fell silent at once without any witness: this controller cannot see",
    Ground.PROOF_OF_LIFE: "its job still makes steps, so it lives; only the path to it is broken",
    Ground.THREE_WITNESSES: "its stream was reset, its raylet is gone from the cell, and ranks elsewhere lost its ranks",
}


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of every node. `silence_s` is already free of our own lag.

    `member`: its raylet is in the cell, or was never seen there (absence is no witness then). `stopped`: a job with ranks
    there has stopped making steps for longer than a lease. `stepping`: such a job made steps after the node's last beat.
    `reset`: its stream ended after a beat that we heard ourselves, with no lag of ours since. `halted`: of every job with
    ranks there, a rank on another node says that it cannot go on.
    """

    liveness: ByteColumn
    session: BoolColumn
    silence_s: np.ndarray
    member: BoolColumn
    stopped: BoolColumn
    stepping: BoolColumn
    reset: BoolColumn
    halted: BoolColumn


def judge(sight: Sight, policy: SuspicionPolicy) -> tuple[ByteColumn, ByteColumn]:
    """(liveness, ground) per node; where the ground is NONE nothing changes.

    DEAD nodes stay DEAD until they say hello. A missing session means nothing by itself: a reset stream is an event of its
    own, and after a restart of the controller every session is missing until the agents have dialled again.
    """
    live = sight.liveness
    result = live.copy()
    ground = np.zeros(len(live), dtype=np.uint8)
    judged = live != NodeLiveness.DEAD
    silent = judged & (sight.silence_s > policy.lease_s)
    heard = judged & ~silent & sight.session & (live != NodeLiveness.ALIVE)

    def conclude(mask: np.ndarray, verdict: NodeLiveness, why: Ground) -> None:
        changed = mask & (live != verdict) & (ground == Ground.NONE)
        result[changed] = verdict
        ground[changed] = why

    conclude(heard, NodeLiveness.ALIVE, Ground.BEAT)
    agreed = judged & sight.reset & ~sight.member & sight.halted & ~sight.stepping
    conclude(agreed & (sight.silence_s > policy.brief_s), NodeLiveness.DEAD, Ground.THREE_WITNESSES)
    cell_says = silent & ~sight.member & ~sight.stepping
    steps_say = silent & sight.stopped & ~sight.stepping
    conclude(cell_says, NodeLiveness.DEAD, Ground.CELL_WITNESS)
    conclude(steps_say, NodeLiveness.DEAD, Ground.STEPS_WITNESS)
    alone = silent & ~cell_says & ~steps_say & ~sight.stepping
    many = max(policy.scatter_minimum, policy.scatter_share * np.count_nonzero(judged))
    at_once = alone & (sight.silence_s <= 2 * policy.lease_s)
    if np.count_nonzero(at_once) >= many:
        conclude(at_once, NodeLiveness.UNKNOWN, Ground.CORRELATED)
    if np.count_nonzero(alone) < many:
        conclude(alone & (sight.silence_s > policy.dead_without_witness_s), NodeLiveness.DEAD, Ground.LONG_SILENCE)
    conclude(alone & (live == NodeLiveness.ALIVE), NodeLiveness.SUSPECT, Ground.LEASE)
    conclude(silent & sight.stepping & (live == NodeLiveness.ALIVE), NodeLiveness.SUSPECT, Ground.PROOF_OF_LIFE)
    return result, ground
