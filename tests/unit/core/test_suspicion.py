"""Every row of the table "Believing", as arithmetic over columns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from controlplane.core.health.suspicion import GROUND_TEXT, Ground, Sight, SuspicionPolicy, judge
from controlplane.core.vocabulary import NodeLiveness

ALIVE, SUSPECT, UNKNOWN, DEAD = NodeLiveness
POLICY = SuspicionPolicy(lease_s=3.0, dead_without_witness_s=60.0, scatter_minimum=3, scatter_share=0.3)


@dataclass(frozen=True)
class Seen:
    """One node as it is seen."""

    liveness: NodeLiveness = ALIVE
    session: bool = True
    silence_s: float = 0.0
    member: bool = True
    stopped: bool = False
    stepping: bool = False
    reset: bool = False
    halted: bool = False


LOST = Seen(SUSPECT, session=False, member=False, reset=True, halted=True)


def verdicts(*nodes: Seen) -> list[tuple[NodeLiveness, Ground]]:
    """Judge these nodes among enough healthy ones that nothing looks scattered by share alone."""
    crowd = [*nodes, *[Seen()] * 20]
    sight = Sight(
        np.array([n.liveness for n in crowd], dtype=np.uint8),
        np.array([n.session for n in crowd]),
        np.array([n.silence_s for n in crowd]),
        np.array([n.member for n in crowd]),
        np.array([n.stopped for n in crowd]),
        np.array([n.stepping for n in crowd]),
        np.array([n.reset for n in crowd]),
        np.array([n.halted for n in crowd]),
    )
    live, ground = judge(sight, POLICY)
    assert (ground[len(nodes) :] == Ground.NONE).all(), "healthy nodes are left alone"
    return [(NodeLiveness(int(a)), Ground(int(b))) for a, b in zip(live, ground, strict=True)][: len(nodes)]


@pytest.mark.parametrize(
    ("node", "liveness", "ground"),
    [
        # beats
        (Seen(), ALIVE, Ground.NONE),
        (Seen(SUSPECT), ALIVE, Ground.BEAT),
        (Seen(UNKNOWN), ALIVE, Ground.BEAT),
        (Seen(SUSPECT, session=False), SUSPECT, Ground.NONE),
        # a missing session is no evidence: after a restart every one is missing
        (Seen(session=False), ALIVE, Ground.NONE),
        (Seen(session=False, member=False, stopped=True), ALIVE, Ground.NONE),
        # silence past the lease: SUSPECT, never DEAD by it alone
        (Seen(silence_s=3.0), ALIVE, Ground.NONE),
        (Seen(silence_s=3.1), SUSPECT, Ground.LEASE),
        (Seen(session=False, silence_s=3.1), SUSPECT, Ground.LEASE),
        (Seen(SUSPECT, silence_s=59.0), SUSPECT, Ground.NONE),
        # ... DEAD needs a second witness
        (Seen(silence_s=3.1, member=False), DEAD, Ground.CELL_WITNESS),
        (Seen(SUSPECT, silence_s=3.1, member=False), DEAD, Ground.CELL_WITNESS),
        (Seen(UNKNOWN, silence_s=3.1, member=False), DEAD, Ground.CELL_WITNESS),
        (Seen(silence_s=3.1, stopped=True), DEAD, Ground.STEPS_WITNESS),
        (Seen(silence_s=3.1, member=False, stopped=True), DEAD, Ground.CELL_WITNESS),
        # ... or the longer policy time-out
        (Seen(SUSPECT, silence_s=60.1), DEAD, Ground.LONG_SILENCE),
        (Seen(UNKNOWN, silence_s=60.1), DEAD, Ground.LONG_SILENCE),
        # raylet dead: membership only, never DEAD by it alone; nor stopped steps
        (Seen(member=False), ALIVE, Ground.NONE),
        (Seen(stopped=True), ALIVE, Ground.NONE),
        # ranks on a silent node still make steps: it lives, whatever the cell says and however long
        (Seen(silence_s=10.0, stepping=True), SUSPECT, Ground.PROOF_OF_LIFE),
        (Seen(silence_s=10.0, stepping=True, member=False), SUSPECT, Ground.PROOF_OF_LIFE),
        (Seen(silence_s=10.0, stepping=True, stopped=True), SUSPECT, Ground.PROOF_OF_LIFE),
        (Seen(SUSPECT, silence_s=600.0, stepping=True), SUSPECT, Ground.NONE),
        # three witnesses of different kinds: the lease adds nothing, a short grace is kept
        (replace(LOST, silence_s=0.7), SUSPECT, Ground.NONE),
        (replace(LOST, silence_s=0.8), DEAD, Ground.THREE_WITNESSES),
        (replace(LOST, silence_s=0.8, liveness=UNKNOWN), DEAD, Ground.THREE_WITNESSES),
        # ... two of them are not enough before the lease is over, whichever
        (replace(LOST, silence_s=2.9, reset=False), SUSPECT, Ground.NONE),
        (replace(LOST, silence_s=2.9, member=True), SUSPECT, Ground.NONE),
        (replace(LOST, silence_s=2.9, halted=False), SUSPECT, Ground.NONE),
        # ... and steps outweigh all of them
        (replace(LOST, silence_s=2.9, stepping=True), SUSPECT, Ground.NONE),
        # DEAD stays DEAD until a hello
        (Seen(DEAD), DEAD, Ground.NONE),
        (Seen(DEAD, silence_s=600.0), DEAD, Ground.NONE),
    ],
)
def test_one_node(node: Seen, liveness: NodeLiveness, ground: Ground) -> None:
    assert verdicts(node) == [(liveness, ground)]


def test_scattered_silence_without_witness_makes_us_the_suspect() -> None:
    assert verdicts(*[Seen(silence_s=4.0)] * 12) == [(UNKNOWN, Ground.CORRELATED)] * 12


def test_unknown_is_not_dead_however_long_the_silence_lasts() -> None:
    assert verdicts(*[Seen(UNKNOWN, silence_s=9_999.0)] * 12) == [(UNKNOWN, Ground.NONE)] * 12


def test_few_silent_nodes_are_no_scatter() -> None:
    assert verdicts(Seen(silence_s=4.0), Seen(silence_s=4.0)) == [(SUSPECT, Ground.LEASE)] * 2


def test_witnesses_count_also_amid_scattered_silence() -> None:
    """Those of whom a second witness tells are DEAD; the others only UNKNOWN."""
    nodes = [Seen(silence_s=4.0, member=False)] * 2 + [Seen(silence_s=4.0)] * 12
    assert verdicts(*nodes) == [(DEAD, Ground.CELL_WITNESS)] * 2 + [(UNKNOWN, Ground.CORRELATED)] * 12


def test_proof_of_life_does_not_count_as_silence_of_the_crowd() -> None:
    nodes = [Seen(silence_s=4.0, stepping=True)] * 12 + [Seen(silence_s=4.0)]
    assert verdicts(*nodes)[-1] == (SUSPECT, Ground.LEASE)


def test_an_empty_site() -> None:
    empty = np.zeros(0)
    none = np.zeros(0, dtype=bool)
    live, ground = judge(Sight(empty.astype(np.uint8), none, empty, none, none, none, none, none), POLICY)
    assert len(live) == len(ground) == 0


def test_every_ground_has_a_sentence() -> None:
    assert set(GROUND_TEXT) == set(Ground)
