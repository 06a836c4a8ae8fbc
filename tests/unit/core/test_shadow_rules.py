"""A fault rule in shadow mode: it judges, it does nothing, and operators' words measure it."""

from __future__ import annotations

from dataclasses import replace

from controlplane.catalogues import built_in, merge
from controlplane.core import events as ev
from controlplane.core.draft import Policy
from controlplane.core.health.shadow import DAY_NS, MAX_HITS, Hit, Measured, ShadowBook, measured, with_cordon, with_hit
from controlplane.core.spec import SparePolicy
from controlplane.core.state import State
from controlplane.core.vocabulary import Assertion, HandlingLevel, JobState, NodeService
from tests.support.world import World, spec

TABLE = """
vendor = "simulated"
source = "this test"
date = "2026-11-22"
[[code]]
code = "BOARD-7"
level = "ISOLATE"
mode = "shadow"
"""
BOARD = ev.FaultRow("node", "BOARD-7", "simulated")


def hit(node: str, at_ns: int) -> Hit:
    return Hit(node, "node", HandlingLevel.ISOLATE, at_ns)


def site() -> World:
    world = World(4, 2, 1, Policy(catalogue=merge(built_in(), [("site.toml", TABLE)])))
    world.submit(spec("moe", 4, spares=SparePolicy()))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    return world


def test_a_shadow_rule_is_recorded_and_takes_no_node_and_no_rank() -> None:
    world = site()
    generation = world.job("moe").generation
    world.agents.raise_fault(world.nodes["node-00"], BOARD)
    world.run(5, 1)
    fleet = world.state().fleet
    assert fleet.service[fleet.index["node-00"]] == NodeService.IN_SERVICE
    assert not fleet.facts[fleet.index["node-00"]].cordons
    assert world.job("moe").generation == generation
    (fault,) = world.state().health.on("node-00")
    assert fault.note.level is HandlingLevel.OBSERVE
    assert fault.note.reason.startswith("in shadow mode, only observed: BOARD-7 is ISOLATE")
    assert measured(world.state().shadows, world.now_ns) == (Measured("simulated", "BOARD-7", 0, 0, 1),)


def test_the_same_part_counts_once_a_day_and_a_snapshot_keeps_it() -> None:
    world = site()
    for _ in range(3):
        world.agents.raise_fault(world.nodes["node-00"], BOARD)
        world.run(2, 1)
        world.agents.raise_fault(world.nodes["node-00"], replace(BOARD, assertion=Assertion.RECOVERED))
        world.run(2, 1)
    state = world.state()
    assert [len(hits) for hits in state.shadows.hits.values()] == [1]
    again = State.from_json(state.to_json())
    assert again.shadows == state.shadows
    assert again.digest() == state.digest()


def test_an_operators_cordon_within_a_day_confirms_and_silence_refutes() -> None:
    book = ShadowBook()
    for number, node in enumerate(("a", "b", "c", "d")):
        book = with_hit(book, "acme", "X", hit(node, number + 1))
    book = with_cordon(book, "a", "operator", DAY_NS // 2)
    book = with_cordon(book, "b", "health", DAY_NS // 2)
    book = with_cordon(book, "c", "operator", DAY_NS + 10)
    (early,) = measured(book, DAY_NS // 2)
    assert (early.confirmed, early.refuted, early.open_, early.precision) == (1, 0, 3, 1.0)
    (late,) = measured(book, 2 * DAY_NS)
    assert (late.confirmed, late.refuted, late.open_, late.precision) == (1, 3, 0, 0.25)


def test_nothing_judged_is_no_precision() -> None:
    (only,) = measured(with_hit(ShadowBook(), "acme", "X", hit("a", 1)), 2)
    assert only.precision is None


def test_the_book_is_bounded() -> None:
    book = ShadowBook()
    for number in range(MAX_HITS + 5):
        book = with_hit(book, "acme", "X", hit(f"n{number}", number))
    assert len(book.hits["acme/X"]) == MAX_HITS
    assert book.hits["acme/X"][0].node == "n5"


def test_a_cordon_of_an_operator_reaches_the_book() -> None:
    world = site()
    world.agents.raise_fault(world.nodes["node-00"], BOARD)
    world.run(2, 1)
    world.turn(ev.CordonNode("q1", "node-00", "operator", "smells burnt"))
    (found,) = measured(world.state().shadows, world.now_ns)
    assert (found.confirmed, found.precision) == (1, 1.0)
