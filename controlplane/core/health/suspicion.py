"""The arithmetic of suspicion: silence, witnesses and what may be concluded. Vectorised over nodes, no state, no clock.

The table is "Believing" in docs/language.md: silence alone makes a node SUSPECT; DEAD needs a second witness or the long
time-out; ranks that still make steps prove the node alive and the path to it broken; many silent at once inside one failure
domain are lost with it when some of them have a witness; many that are scattered, without any, make *us* the suspect. Where
agent, cell and peers agree, each about its own part, the lease is not waited for (docs/design/0005-edges.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlplane.core.columns import BoolColumn, ByteColumn, IntColumn
from controlplane.core.health import domains
from controlplane.core.vocabulary import Code, NodeLiveness


@dataclass(frozen=True, slots=True)
class SuspicionPolicy:
    """Limits in seconds.

    `brief_s`: silence that is enough when three witnesses of different kinds agree; above a beat, so that an agent that was
    restarted can say hello. `scatter_minimum`, `scatter_share` of the site: so many silent at once without a witness of
    their own, and not in one domain, are our own fault. `domain_minimum`, `domain_share` of the domain: so many that fell
    silent at once inside it are its loss, when somebody saw some of them die within `domain_within_s`: a machine that is
    gone leaves the cell and its peers within that time, so what dies later did not die with the silence, and a raylet that
    left earlier than that says nothing of it.
    `slow_steps`: a job's steps have stopped when none came for so many of its usual step times, and for a lease.
    `link_witnesses`: nodes that must say that their links to a node are broken; one alone may have lost its own.
    """

    lease_s: float = 3.0
    brief_s: float = 0.75
    dead_without_witness_s: float = 300.0
    scatter_minimum: int = 3
    scatter_share: float = 0.05
    domain_minimum: int = 3
    domain_share: float = 0.5
    domain_within_s: float = 60.0
    slow_steps: int = 3
    link_witnesses: int = 2


class Ground(Code):
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
    LINKS_WITNESS = 9
    DOMAIN_LOST = 10


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
    Ground.LINKS_WITNESS: "silent past its lease, and other nodes say that their links to it are broken",
    Ground.DOMAIN_LOST: "fell silent together with its failure domain, and others saw nodes of that domain die",
}

WITNESSES = {
    Ground.NONE: (),
    Ground.BEAT: ("session",),
    Ground.LEASE: ("lease",),
    Ground.CELL_WITNESS: ("lease", "cell"),
    Ground.STEPS_WITNESS: ("lease", "rank progress"),
    Ground.LONG_SILENCE: ("lease",),
    Ground.CORRELATED: ("lease",),
    Ground.PROOF_OF_LIFE: ("rank progress",),
    Ground.THREE_WITNESSES: ("session", "cell", "peer ranks"),
    Ground.LINKS_WITNESS: ("lease", "peer links"),
    Ground.DOMAIN_LOST: ("lease", "failure domain"),
}
"""Who testifies for each ground."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of every node. `silence_s` is already free of our own lag.

    `member`: its raylet is in the cell, or was never seen there, or had left it long before the node fell silent (absence is
    no witness then). `stopped`: a job with ranks
    there has stopped making steps for longer than a lease. `stepping`: such a job made steps after the node's last beat.
    `reset`: its stream ended after a beat that we heard ourselves, with no lag of ours since. `halted`: of every job with
    ranks there, a rank on another node says that it cannot go on. `unlinked`: enough other nodes say that their links to it
    are broken. `path_broken`: what was concluded so far. `heard`: we heard a beat of it ourselves, so that the moment at
    which it fell silent is known. `outlived`: its job went on making steps for so long after its last beat that its path is
    to blame for the silence; that the steps end later says nothing of it. `alone_s`: for how long it has been silent while no
    crowd was; infinite where it never was part of one. `domains`: see `Fleet`. `distrusted`: we are late
    ourselves, silence means nothing now.
    """

    liveness: ByteColumn
    session: BoolColumn
    silence_s: np.ndarray
    member: BoolColumn
    stopped: BoolColumn
    stepping: BoolColumn
    reset: BoolColumn
    halted: BoolColumn
    unlinked: BoolColumn
    path_broken: BoolColumn
    heard: BoolColumn
    outlived: BoolColumn
    alone_s: np.ndarray
    domains: IntColumn
    distrusted: bool = False


@dataclass(frozen=True, slots=True)
class Belief:
    """The verdict per node; where the ground is NONE nothing changes."""

    liveness: ByteColumn
    path_broken: BoolColumn
    ground: ByteColumn


def judge(sight: Sight, policy: SuspicionPolicy) -> Belief:
    """What to believe of every node.

    DEAD nodes stay DEAD until they say hello. A missing session means nothing by itself: a reset stream is an event of its
    own, and after a restart of the controller every session is missing until the agents have dialled again.
    """
    live = sight.liveness
    result, path = live.copy(), sight.path_broken.copy()
    ground = np.zeros(len(live), dtype=np.uint8)
    judged = live != NodeLiveness.DEAD
    silent = judged & (sight.silence_s > policy.lease_s)

    def conclude(mask: np.ndarray, verdict: NodeLiveness, why: Ground, *, broken: bool = False) -> None:
        changed = mask & ((live != verdict) | (sight.path_broken != broken)) & (ground == Ground.NONE)
        result[changed] = verdict
        path[changed] = broken
        ground[changed] = why

    conclude(judged & ~silent & sight.session, NodeLiveness.ALIVE, Ground.BEAT)
    if sight.distrusted:
        return Belief(result, path, ground)
    agreed = judged & sight.reset & ~sight.member & sight.halted & ~sight.stepping
    conclude(agreed & (sight.silence_s > policy.brief_s), NodeLiveness.DEAD, Ground.THREE_WITNESSES)
    proven = silent & sight.stepping
    conclude(proven, NodeLiveness.ALIVE, Ground.PROOF_OF_LIFE, broken=True)
    mute = silent & ~proven
    stopped = sight.stopped & ~sight.outlived
    conclude(mute & ~sight.member, NodeLiveness.DEAD, Ground.CELL_WITNESS)
    conclude(mute & sight.unlinked, NodeLiveness.DEAD, Ground.LINKS_WITNESS)
    own = mute & (~sight.member | sight.unlinked)
    in_lost_domain = _lost_with_domain(sight, policy, mute & (own | ~sight.outlived), own | (mute & stopped))
    conclude(in_lost_domain & mute & ~own & ~stopped, NodeLiveness.DEAD, Ground.DOMAIN_LOST)
    # One stop of one job has one cause: it convicts a few silent nodes, never a scattered crowd of them.
    lone = mute & ~own & ~in_lost_domain
    many = max(policy.scatter_minimum, policy.scatter_share * np.count_nonzero(judged))
    crowd = np.count_nonzero(lone) >= many
    conclude(in_lost_domain & mute & stopped, NodeLiveness.DEAD, Ground.STEPS_WITNESS)
    if not crowd:
        conclude(lone & stopped, NodeLiveness.DEAD, Ground.STEPS_WITNESS)
        # What was silent in a crowd is alone only from now on: those that are left while others return are not dead.
        unseen = live == NodeLiveness.UNKNOWN
        conclude(lone & unseen, NodeLiveness.SUSPECT, Ground.LEASE)
        alone_s = np.minimum(sight.silence_s, sight.alone_s)
        conclude(lone & (alone_s > policy.dead_without_witness_s), NodeLiveness.DEAD, Ground.LONG_SILENCE)
    at_once = lone & (sight.silence_s <= 2 * policy.lease_s)
    if np.count_nonzero(at_once) >= many:
        conclude(at_once, NodeLiveness.UNKNOWN, Ground.CORRELATED)
    conclude(lone & (live == NodeLiveness.ALIVE), NodeLiveness.SUSPECT, Ground.LEASE)
    return Belief(result, path, ground)


def _lost_with_domain(sight: Sight, policy: SuspicionPolicy, mute: BoolColumn, witnessed: BoolColumn) -> BoolColumn:
    """Nodes that are silent with their domain. A node that is DEAD already and fell silent at the same moment belongs to
    it, and is a witness. Who has been silent for long has outlived it: a raylet that dies minutes later says nothing of them."""
    mute = mute & (sight.silence_s <= policy.domain_within_s)
    fallen = (sight.liveness == NodeLiveness.DEAD) & sight.heard
    fall = domains.Fall(
        silent=(mute & sight.heard) | fallen,
        witnessed=(witnessed & sight.heard) | fallen,
        silence_s=sight.silence_s,
        living=sight.liveness != NodeLiveness.DEAD,
    )
    return domains.lost(sight.domains, fall, domains.Many(policy.lease_s, policy.domain_minimum, policy.domain_share))
