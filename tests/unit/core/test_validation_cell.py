"""Nodes that come back are tested in pairs: the bad one among many is named, and nobody else pays for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from controlplane.catalogues import built_in
from controlplane.core import events as ev
from controlplane.core.draft import Policy, QuarantinePolicy
from controlplane.core.health.cell import PairAnswer, ValidationCell, results
from controlplane.core.spec import SparePolicy
from controlplane.core.vocabulary import JobState, NodeService, PairWord
from tests.support.world import World, spec

POLICY = Policy(
    catalogue=built_in(),
    quarantine=QuarantinePolicy(pair_ms=30_000, pair_wait_ms=60_000, retry_ms=600_000),
)  # fmt: skip
BROKEN = ev.FaultRow("node", "BOARD-7", "simulated")
BACK, OUT, SERVES = NodeService.PROBATION, NodeService.QUARANTINED, NodeService.IN_SERVICE


def site(nodes: int, ill: Iterable[int], spoilers: Iterable[int], policy: Policy = POLICY) -> World:
    """Nodes of which some were taken out, and some spoil what they work out with others."""
    world = World(nodes, 1, 1, policy)
    for number in spoilers:
        world.nodes[f"node-{number:02d}"].spoils_pairs = True
    world.run(1)
    for number in ill:
        world.agents.raise_fault(world.nodes[f"node-{number:02d}"], BROKEN)
    return world


def services(world: World) -> list[NodeService]:
    return [NodeService(int(value)) for value in world.state().fleet.service]


def told(world: World, word: str) -> list[str]:
    return [line for line in world.lines if line.split()[1] == word]


def over(world: World) -> bool:
    return bool(told(world, "ValidationEnded")) and world.state().health.cell is None


def why(world: World, name: str) -> str:
    fleet = world.state().fleet
    return "; ".join(cordon.reason for cordon in fleet.facts[fleet.index[name]].cordons)


@pytest.mark.parametrize("bad", range(6))
def test_the_one_bad_node_among_many_stays_out_and_all_others_come_back(bad: int) -> None:
    world = site(6, range(6), [bad])
    world.run_until(lambda: over(world), 120)
    assert services(world) == [OUT if number == bad else BACK for number in range(6)]
    assert "a sum with a known answer came out wrong" in why(world, f"node-{bad:02d}")


@pytest.mark.parametrize("bad", [(0, 1), (0, 2), (1, 4)])
def test_two_bad_nodes_are_never_cleared_and_nobody_else_is_convicted(bad: tuple[int, int]) -> None:
    world = site(6, range(6), bad)
    world.run_until(lambda: over(world), 120)
    assert services(world) == [OUT if number in bad else BACK for number in range(6)]


def test_nodes_in_service_are_lent_so_that_one_alone_can_be_judged() -> None:
    world = site(5, [2], [])
    world.run_until(lambda: over(world), 120)
    assert services(world) == [BACK if number == 2 else SERVES for number in range(5)]
    assert len(told(world, "PairsStarted")) == 1, "no second round without a doubt"


def test_a_lent_node_that_spoils_everything_is_the_one_that_is_taken_out() -> None:
    world = site(4, [2], [0])
    world.run_until(lambda: over(world), 120)
    assert services(world) == [OUT, SERVES, BACK, SERVES]


def test_a_lent_node_is_not_taken_out_for_one_bad_test() -> None:
    """Five nodes of a gang: the fifth is tested in the second round only."""
    world = site_that_tests_gangs(5, bad=4)
    world.submit(spec("moe", 5, spares=SparePolicy()))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING, 300)
    (ended,) = told(world, "ValidationEnded")
    assert "convicted=('node-04',)" in ended
    assert services(world) == [SERVES] * 5


def test_nobody_is_lent_who_works_for_a_job() -> None:
    world = World(4, 1, 1, POLICY)
    world.submit(spec("moe", 3, spares=SparePolicy()))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    idle = next(node for node in world.nodes.values() if not node.live())
    idle.spoils_pairs = True
    world.agents.raise_fault(idle, BROKEN)
    world.run(30, 1)
    number = world.state().fleet.index[idle.name]
    assert services(world)[number] is NodeService.VALIDATING
    world.run(40, 1)
    assert services(world)[number] is BACK, "nobody was free for so long that its own checks count alone"
    assert any("was not tested with others: no other node was free" in line for line in told(world, "TrialStarted"))
    assert not told(world, "PairsStarted")


def test_a_node_whose_partner_dies_in_the_test_is_not_convicted_by_it() -> None:
    world = site(4, range(4), [])
    world.run_until(lambda: len(told(world, "PairsAwaited")) == 4, 60)
    world.nodes["node-01"].deaf = True
    world.run_until(lambda: over(world), 400)
    assert services(world) == [BACK, OUT, BACK, BACK]
    assert "its agent gave no answer" in why(world, "node-01")
    assert not any("failed" in line for line in told(world, "TrialStarted"))


def test_an_older_agent_is_judged_by_its_own_checks_and_that_is_said() -> None:
    world = site(4, [0], [])
    world.agents.raise_fault(world.nodes["node-00"], BROKEN)
    world.run_until(lambda: bool(told(world, "PairsAwaited")), 60)
    world.nodes["node-00"].knows_checks = False
    world.run_until(lambda: over(world), 120)
    assert services(world) == [BACK, SERVES, SERVES, SERVES]
    (line,) = told(world, "TrialStarted")
    assert "it was not tested with others: its agent is older and knows no such test" in line


def test_a_site_that_asks_for_no_pairs_has_none() -> None:
    world = site(4, range(4), [0], Policy(catalogue=built_in()))
    world.run(30, 1)
    assert services(world) == [BACK] * 4
    assert not told(world, "PairsAwaited")


def test_a_controller_that_comes_back_goes_on_with_the_cell() -> None:
    world = site(4, range(4), [3])
    world.run_until(lambda: bool(told(world, "PairsStarted")), 60)
    world.restart_controller()
    world.run_until(lambda: over(world), 200)
    assert services(world) == [BACK, BACK, BACK, OUT]


def site_that_tests_gangs(nodes: int, bad: int = 1) -> World:
    """Of whose nodes one spoils what it works out with others."""
    world = World(nodes, 1, 1, replace(POLICY, quarantine=replace(POLICY.quarantine, pair_age_ms=3_600_000)))
    world.nodes[f"node-{bad:02d}"].spoils_pairs = True
    world.run(1)
    return world


def test_a_gang_gets_nodes_that_were_tested_and_the_bad_one_is_taken_out_before() -> None:
    world = site_that_tests_gangs(5)
    world.submit(spec("moe", 3, spares=SparePolicy()))
    assert "3 of its nodes are tested in pairs first" in world.job("moe").blocker
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING, 300)
    (line,) = told(world, "NodeQuarantined")
    assert "node=node-01 reason=tests in pairs: with" in line
    assert 1 not in world.job("moe").nodes()
    assert len(told(world, "JobPlaced")) == 1


def test_doubt_keeps_no_gang_waiting() -> None:
    world = site_that_tests_gangs(2)
    world.submit(spec("moe", 2, spares=SparePolicy()))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING, 300)
    assert services(world) == [SERVES, SERVES], "nobody knows which of the two it is"


def answers(
    word: PairWord, other: PairWord, speed: float = 0.0, pair: tuple[str, str] = ("a", "b")
) -> list[PairAnswer]:
    one, two = pair
    return [PairAnswer(one, two, word, "", speed), PairAnswer(two, one, other, "", speed)]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (PairWord.PASSED, PairWord.PASSED, True),
        (PairWord.PASSED, PairWord.UNMET, False),
        (PairWord.UNMET, PairWord.UNMET, False),
        (PairWord.FAILED, PairWord.PASSED, False),
        (PairWord.UNMET, PairWord.NOT_RUN, None),
        (PairWord.FAILED, PairWord.UNSPECIFIED, None),
    ],
)
def test_a_pair_has_a_result_only_when_both_took_part(one: PairWord, other: PairWord, expected: bool | None) -> None:
    waves = ((("a", "b"),),)
    cell = ValidationCell(("a", "b"), waves=waves, answers=tuple(answers(one, other)))
    assert results(cell, waves).get(("a", "b")) is expected
    alone = ValidationCell(("a", "b"), waves=waves, answers=tuple(answers(one, other)[:1]))
    assert not results(alone, waves)


def test_a_pair_that_is_ten_times_as_slow_as_another_has_failed() -> None:
    waves = ((("a", "b"), ("c", "d"), ("e", "f")),)
    passed = (PairWord.PASSED, PairWord.PASSED)
    told = [*answers(*passed, 1e9), *answers(*passed, 0.9e8, ("c", "d")), *answers(*passed, 1.1e8, ("e", "f"))]
    cell = ValidationCell(("a", "b", "c", "d", "e", "f"), waves=waves, answers=tuple(told))
    assert results(cell, waves) == {("a", "b"): True, ("c", "d"): False, ("e", "f"): True}
