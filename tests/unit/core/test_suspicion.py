"""Every row of the table "Believing", as arithmetic over columns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from controlplane.core.fleet import NO_DOMAIN
from controlplane.core.health.suspicion import GROUND_TEXT, WITNESSES, Ground, Sight, SuspicionPolicy, judge
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
    unlinked: bool = False
    path_broken: bool = False
    heard: bool = True
    outlived: bool = False
    alone_s: float = np.inf
    rack: int = NO_DOMAIN
    power: int = NO_DOMAIN


LOST = Seen(SUSPECT, session=False, member=False, reset=True, halted=True)


def sight(*crowd: Seen, distrusted: bool = False) -> Sight:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(node, name) for node in crowd])

    return Sight(
        column("liveness").astype(np.uint8), column("session"), column("silence_s"), column("member"),
        column("stopped"), column("stepping"), column("reset"), column("halted"), column("unlinked"),
        column("path_broken"), column("heard"), column("outlived"), column("alone_s"),
        np.stack([column("rack"), column("power")], axis=1), distrusted,
    )  # fmt: skip


def verdicts(*nodes: Seen, distrusted: bool = False) -> list[tuple[NodeLiveness, Ground]]:
    """Judge these nodes among enough healthy ones that nothing looks scattered by share alone."""
    belief = judge(sight(*nodes, *[Seen()] * 20, distrusted=distrusted), POLICY)
    assert (belief.ground[len(nodes) :] == Ground.NONE).all(), "healthy nodes are left alone"
    pairs = zip(belief.liveness.tolist(), belief.ground.tolist(), strict=True)
    return [(NodeLiveness(live), Ground(ground)) for live, ground in pairs][: len(nodes)]


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
        # ... counted, for those that are left of a crowd, from when it fell apart
        (Seen(UNKNOWN, silence_s=60.1), SUSPECT, Ground.LEASE),
        (Seen(SUSPECT, silence_s=600.0, alone_s=59.9), SUSPECT, Ground.NONE),
        (Seen(SUSPECT, silence_s=600.0, alone_s=60.1), DEAD, Ground.LONG_SILENCE),
        # raylet dead: membership only, never DEAD by it alone; nor stopped steps
        (Seen(member=False), ALIVE, Ground.NONE),
        (Seen(stopped=True), ALIVE, Ground.NONE),
        # ... or links of other nodes to it, as they say
        (Seen(silence_s=3.1, unlinked=True), DEAD, Ground.LINKS_WITNESS),
        (Seen(unlinked=True), ALIVE, Ground.NONE),
        # ranks on a silent node still make steps: it lives, whatever the others say and however long
        (Seen(silence_s=10.0, stepping=True), ALIVE, Ground.PROOF_OF_LIFE),
        (Seen(SUSPECT, silence_s=10.0, stepping=True), ALIVE, Ground.PROOF_OF_LIFE),
        (Seen(UNKNOWN, silence_s=10.0, stepping=True), ALIVE, Ground.PROOF_OF_LIFE),
        (Seen(silence_s=10.0, stepping=True, member=False, unlinked=True), ALIVE, Ground.PROOF_OF_LIFE),
        (Seen(silence_s=10.0, stepping=True, stopped=True), ALIVE, Ground.PROOF_OF_LIFE),
        (Seen(silence_s=600.0, stepping=True, path_broken=True), ALIVE, Ground.NONE),
        # ... until its beats are back, or the steps end as well
        (Seen(path_broken=True), ALIVE, Ground.BEAT),
        (Seen(silence_s=10.0, path_broken=True), SUSPECT, Ground.LEASE),
        (Seen(silence_s=10.0, path_broken=True, stopped=True), DEAD, Ground.STEPS_WITNESS),
        # ... but when they went on for long, its path is to blame, and their end says nothing of it
        (Seen(silence_s=10.0, path_broken=True, stopped=True, outlived=True), SUSPECT, Ground.LEASE),
        (Seen(silence_s=10.0, stopped=True, outlived=True, member=False), DEAD, Ground.CELL_WITNESS),
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


def test_one_stop_of_a_job_does_not_convict_a_scattered_crowd() -> None:
    """Its steps stopped for one reason; twelve silent nodes in twelve places are not it."""
    nodes = [Seen(silence_s=4.0, stopped=True, rack=number) for number in range(12)]
    assert verdicts(*nodes) == [(UNKNOWN, Ground.CORRELATED)] * 12
    assert verdicts(*nodes[:2]) == [(DEAD, Ground.STEPS_WITNESS)] * 2


RACK = [Seen(silence_s=4.0, rack=1)] * 6


def test_a_domain_is_lost_when_some_of_its_silent_nodes_have_a_witness() -> None:
    seen = [*[replace(RACK[0], member=False)] * 2, *RACK[2:]]
    assert verdicts(*seen) == [(DEAD, Ground.CELL_WITNESS)] * 2 + [(DEAD, Ground.DOMAIN_LOST)] * 4


def test_one_machine_that_dies_behind_a_broken_path_is_no_word_about_those_beside_it() -> None:
    """A relay is gone, and the raylet of one of its nodes had crashed before."""
    seen = [replace(RACK[0], member=False), *[RACK[0]] * 11]
    assert verdicts(*seen) == [(DEAD, Ground.CELL_WITNESS)] + [(UNKNOWN, Ground.CORRELATED)] * 11


def test_a_domain_that_lies_across_the_racks_is_lost_too() -> None:
    nodes = [Seen(silence_s=4.0, rack=number, power=0, unlinked=number < 2) for number in range(4)]
    assert verdicts(*nodes) == [(DEAD, Ground.LINKS_WITNESS)] * 2 + [(DEAD, Ground.DOMAIN_LOST)] * 2


def test_stopped_steps_of_a_whole_domain_are_a_witness_for_those_without_ranks() -> None:
    nodes = [*[replace(RACK[0], stopped=True)] * 4, *RACK[:2]]
    assert verdicts(*nodes) == [(DEAD, Ground.STEPS_WITNESS)] * 4 + [(DEAD, Ground.DOMAIN_LOST)] * 2


def test_the_loss_of_a_domain_reaches_nobody_outside_and_nobody_who_speaks() -> None:
    nodes = [*[replace(RACK[0], member=False)] * 2, *RACK[2:4], Seen(rack=1), Seen(silence_s=4.0, rack=2)]
    found = verdicts(*nodes)
    assert found[4:] == [(ALIVE, Ground.NONE), (SUSPECT, Ground.LEASE)]
    assert found[2:4] == [(DEAD, Ground.DOMAIN_LOST)] * 2


def test_a_domain_without_witness_is_not_lost() -> None:
    assert verdicts(*RACK, *RACK) == [(UNKNOWN, Ground.CORRELATED)] * 12


def test_few_silent_nodes_are_no_lost_domain() -> None:
    quiet = [Seen(rack=1)] * 6
    gone = [replace(RACK[0], member=False)] * 2
    assert verdicts(*gone, *RACK[:2], *quiet)[2:4] == [(SUSPECT, Ground.LEASE)] * 2
    assert verdicts(gone[0], RACK[0])[1] == (SUSPECT, Ground.LEASE)


def test_who_fell_silent_at_another_time_did_not_fall_with_the_domain() -> None:
    seen = [*[replace(RACK[0], member=False)] * 2, *RACK[:4], replace(RACK[0], silence_s=30.0)]
    assert verdicts(*seen)[-1] == (SUSPECT, Ground.LEASE)


def test_who_has_outlived_the_silence_of_the_domain_is_not_lost_by_what_dies_later() -> None:
    """Their relay is gone for minutes, and two raylets crash: no word about the machines beside them."""
    long_silent = Seen(UNKNOWN, silence_s=370.0, rack=1)
    seen = [*[replace(long_silent, member=False)] * 2, *[long_silent] * 12]
    assert verdicts(*seen) == [(DEAD, Ground.CELL_WITNESS)] * 2 + [(UNKNOWN, Ground.NONE)] * 12


def test_a_node_of_the_domain_that_is_dead_already_is_a_witness_if_it_fell_at_that_moment() -> None:
    dead = replace(RACK[0], liveness=DEAD)
    assert verdicts(dead, dead, *RACK[:4])[2:] == [(DEAD, Ground.DOMAIN_LOST)] * 4
    long_ago = replace(dead, silence_s=9_000.0)
    assert verdicts(long_ago, long_ago, *RACK[:2])[2:] == [(SUSPECT, Ground.LEASE)] * 2
    not_heard_by_us = replace(dead, heard=False)
    assert verdicts(not_heard_by_us, not_heard_by_us, *RACK[:2])[2:] == [(SUSPECT, Ground.LEASE)] * 2


@pytest.mark.parametrize(
    "node",
    [
        Seen(silence_s=9.0),
        Seen(silence_s=9.0, member=False, stopped=True, unlinked=True),
        Seen(SUSPECT, silence_s=900.0),
        replace(LOST, silence_s=0.8),
    ],
)
def test_while_we_distrust_ourselves_silence_says_nothing(node: Seen) -> None:
    assert verdicts(node, distrusted=True) == [(node.liveness, Ground.NONE)]


def test_beats_count_also_while_we_distrust_ourselves() -> None:
    assert verdicts(Seen(SUSPECT), distrusted=True) == [(ALIVE, Ground.BEAT)]


def test_an_empty_site() -> None:
    none = np.zeros(0, dtype=bool)
    empty = Sight(
        np.zeros(0, dtype=np.uint8), none, np.zeros(0), *[none] * 9, np.zeros(0), np.zeros((0, 4), dtype=np.int32)
    )  # fmt: skip
    assert len(judge(empty, POLICY).ground) == 0


def test_every_ground_has_a_sentence() -> None:
    assert set(GROUND_TEXT) == set(WITNESSES) == set(Ground)
