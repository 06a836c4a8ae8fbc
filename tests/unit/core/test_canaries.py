"""Canaries on the simulated site: where they are released, what they may never do, and when one counts as missed."""

from __future__ import annotations

from dataclasses import replace

from controlplane.catalogues import built_in
from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Policy
from controlplane.core.health.canaries import CODE, NO_CANARIES, VENDOR, CanaryPolicy, Outcome
from controlplane.core.spec import SparePolicy
from controlplane.core.state import State
from controlplane.core.vocabulary import Assertion, HandlingLevel, JobState, NodeService
from controlplane.engine.recover import load
from tests.support.world import World, spec

POLICY = Policy(catalogue=built_in(), canaries=CanaryPolicy(every_ms=10_000, deadline_ms=5_000))


def records(world: World, kind: type[r.Record]) -> list[r.Record]:
    entries = world.journal.newest(1_000, types=(kind.__name__,))
    return [r.decode(entry.type, entry.version, entry.body) for entry in entries]


def ended(world: World) -> list[Outcome]:
    return [record.outcome for record in records(world, r.CanaryEnded) if isinstance(record, r.CanaryEnded)]


def site(nodes: int = 3, policy: Policy = POLICY) -> World:
    world = World(nodes, 2, 1, policy)
    world.run(1)
    return world


def test_none_is_released_unless_the_site_asks_for_them() -> None:
    world = site(policy=Policy(catalogue=built_in()))
    world.run(600, 10)
    assert world.state().canaries == NO_CANARIES
    assert "canaries" not in world.state().to_json(), "a journal without canaries keeps its digest"


def test_they_are_released_at_their_rate_and_caught() -> None:
    world = site()
    world.run(35, 0.5)
    book = world.state().canaries
    assert 3 <= book.released <= 4
    assert ended(world) == [Outcome.CAUGHT] * book.caught
    assert book.caught >= book.released - 1
    assert not book.missed


def test_a_canary_takes_nothing_and_stands_nowhere() -> None:
    world = site()
    before = world.state().fleet
    world.run(25, 0.5)
    state = world.state()
    assert state.canaries.caught
    notes = [note for record in records(world, r.FaultsReported) for note in record.notes]  # type: ignore[union-attr] # of this type
    assert {(note.vendor, note.level, note.assertion) for note in notes} == {
        (VENDOR, HandlingLevel.OBSERVE, Assertion.ONCE)
    }
    assert not state.health.standing
    assert not state.acts
    assert (state.fleet.acc_state == before.acc_state).all()
    assert not any(facts.cordons for facts in state.fleet.facts)
    assert (state.fleet.service == NodeService.IN_SERVICE).all()


def test_no_table_makes_a_canary_act() -> None:
    """Not even a row that stands, and calls itself critical, of an agent that has its own idea of canaries."""
    world = site(policy=Policy(catalogue=built_in()))
    row = ev.FaultRow("node", CODE, VENDOR, "critical", sequence=7, raised_ns=world.now_ns)
    world.agents.raise_fault(world.nodes["node-00"], row)
    world.run(2)
    assert not world.state().health.on("node-00")
    assert world.state().fleet.service[0] == NodeService.IN_SERVICE


def test_never_on_a_node_with_ranks() -> None:
    world = site(nodes=3)
    world.submit(spec("moe", 4, spares=SparePolicy()))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    begun = world.state().canaries.released
    world.run(300, 1)
    free = ({0, 1, 2} - set(world.job("moe").nodes())).pop()
    released = [record for record in records(world, r.CanaryReleased) if isinstance(record, r.CanaryReleased)]
    assert {one.node for one in released[begun:]} == {f"node-{free:02d}"}
    assert len(released) - begun <= 6, "one node has one a minute at most"


def test_a_site_without_a_free_node_releases_none() -> None:
    world = site(nodes=1, policy=replace(POLICY, canaries=CanaryPolicy()))
    world.submit(spec("moe", 2, spares=SparePolicy()))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.machine = replace(world.machine, policy=POLICY)
    world.run(60, 1)
    assert world.state().canaries == NO_CANARIES


def test_one_that_nobody_records_is_missed() -> None:
    world = site(nodes=1)
    world.nodes["node-00"].deaf = True  # beats go on, orders are taken, nothing comes of them
    world.run_until(lambda: world.state().canaries.missed == 1)
    (*_, record) = [one for one in records(world, r.CanaryEnded) if isinstance(one, r.CanaryEnded)]
    assert record.outcome is Outcome.MISSED
    assert 5_000 <= record.after_ms < 7_000
    assert world.state().canaries.late_node == "node-00"


def test_one_whose_node_falls_silent_says_nothing_of_detection() -> None:
    world = site(nodes=1, policy=replace(POLICY, canaries=CanaryPolicy(every_ms=10_000, deadline_ms=600_000)))
    world.nodes["node-00"].deaf = True
    world.run_until(lambda: bool(world.state().canaries.flying))
    world.cut("node-00", up=True)
    world.run_until(lambda: not world.state().canaries.flying)
    assert ended(world)[-1] is Outcome.CALLED_OFF
    assert not world.state().canaries.missed


def test_an_older_agent_that_knows_no_canary_is_no_miss() -> None:
    world = site(nodes=1)
    world.nodes["node-00"].deaf = True
    world.run_until(lambda: bool(world.state().canaries.flying))
    (effect,) = [one for one in world.state().effects.values() if one.kind.value == "raise_canary"]
    world.turn(ev.EffectDone(effect.id, ok=False, message="this agent does not know this kind of effect"))
    assert ended(world)[-1] is Outcome.CALLED_OFF
    assert not world.state().canaries.missed


def test_the_book_outlives_a_restart() -> None:
    world = site()
    world.run(25, 0.5)
    known = world.state().canaries
    assert known.caught
    assert load(world.journal).canaries == known
    assert State.from_json(world.state().to_json()).canaries == known
