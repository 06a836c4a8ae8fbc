"""Which rank is slow and for what: the comparison alone, and a site that is told where its ranks' time goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from controlplane.catalogues import built_in, merge
from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Policy
from controlplane.core.health.shadow import measured
from controlplane.core.health.stragglers import (
    LOOKS,
    MAX_FLAGS,
    Cause,
    Slow,
    Standing,
    StragglerPolicy,
    compare,
    groups_of,
    standing,
)
from controlplane.core.spec import Parallel, SparePolicy
from controlplane.core.state import State
from controlplane.core.vocabulary import JobState, NodeService
from controlplane.engine.recover import load
from controlplane.sim.soft import SimSoft
from tests.support.world import World, spec

if TYPE_CHECKING:
    from controlplane.sim.world.controller import Controller

POLICY = StragglerPolicy()
COMPUTE, DATA, COLLECTION, CHECKPOINT = range(4)


def look(ranks: int, generator: np.random.Generator, *, noise: float = 0.02) -> np.ndarray:
    """Usual times of a step, in microseconds: compute, data, collection, checkpoint."""
    usual = np.array([100_000.0, 5_000.0, 1_000.0, 2_000.0])
    return usual * (1 + noise * generator.standard_normal((ranks, 4)))


def judged(
    looks: list[np.ndarray], parallel: Parallel, load: np.ndarray | None = None, policy: StragglerPolicy = POLICY
) -> tuple[Slow, ...]:
    ranks = len(looks[0])
    group = groups_of(ranks, parallel)
    times = np.stack(looks)
    window = compare(np.concatenate([times, times.sum(axis=2, keepdims=True)], axis=2), group)
    found = standing(window, np.zeros(ranks) if load is None else load, policy)
    assert found is not None
    return found.slow


def looks_of(ranks: int, count: int = LOOKS) -> list[np.ndarray]:
    generator = np.random.default_rng(7)
    return [look(ranks, generator) for _ in range(count)]


def flagged(slow: tuple[Slow, ...]) -> dict[int, Cause]:
    return {one.rank: one.cause for one in slow if one.share >= POLICY.share}


def test_the_groups_are_stages_and_coordinates_and_experts_where_enough_replicas_hold_them() -> None:
    assert groups_of(8, Parallel(tp=2, pp=2, dp=2)).tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert groups_of(4, Parallel(dp=4, ep=2)).tolist() == [0, 0, 0, 0], "two replicas are too few"
    assert groups_of(6, Parallel(dp=6, ep=2)).tolist() == [0, 1, 0, 1, 0, 1]


def test_nobody_is_slow_where_all_do_the_same() -> None:
    assert judged(looks_of(64), Parallel(dp=64)) == ()


@pytest.mark.parametrize(
    ("column", "times", "cause"),
    [
        (COMPUTE, 1.4, Cause.COMPUTE),
        (DATA, 9.0, Cause.DATA),
        (COLLECTION, 40.0, Cause.COLLECTION),
        (CHECKPOINT, 30.0, Cause.CHECKPOINT),
    ],
)
def test_one_slow_rank_is_found_and_told_for_what(column: int, times: float, cause: Cause) -> None:
    looks = looks_of(16)
    for one in looks:
        one[5, column] *= times
    (found,) = judged(looks, Parallel(dp=16))
    assert (found.rank, found.cause, found.share) == (5, cause, 1.0)
    if cause is Cause.COMPUTE:
        assert found.factor == pytest.approx(1.4, abs=0.05)


def test_of_two_replicas_the_slower_is_the_slow_one() -> None:
    looks = looks_of(2)
    for one in looks:
        one[0, COMPUTE] *= 1.5
    assert flagged(judged(looks, Parallel(dp=2))) == {0: Cause.COMPUTE}


def test_uneven_stages_flag_nobody_and_a_slow_rank_in_the_fast_stage_is_found() -> None:
    parallel = Parallel(pp=2, dp=4)
    looks = looks_of(8)
    for one in looks:
        one[4:, COMPUTE] *= 3
    assert judged(looks, parallel) == ()
    for one in looks:
        one[1, COMPUTE] *= 1.5
    assert flagged(judged(looks, parallel)) == {1: Cause.COMPUTE}, "though half as fast as each of the other stage"


@pytest.mark.parametrize("spread", [0.3, 0.6, 1.0])
def test_uneven_sequences_flag_nobody(spread: float) -> None:
    generator = np.random.default_rng(3)
    looks = looks_of(32)
    for one in looks:
        one[:, COMPUTE] *= np.exp(spread * generator.standard_normal(32))
    assert flagged(judged(looks, Parallel(dp=32))) == {}


def test_a_slow_rank_is_found_among_uneven_sequences() -> None:
    generator = np.random.default_rng(3)
    looks = looks_of(32)
    for one in looks:
        one[:, COMPUTE] *= np.exp(0.05 * generator.standard_normal(32))
        one[9, COMPUTE] *= 1.6
    assert flagged(judged(looks, Parallel(dp=32))) == {9: Cause.COMPUTE}


def test_a_few_slow_steps_make_no_straggler() -> None:
    looks = looks_of(8)
    for one in looks[: LOOKS // 2]:
        one[2, COMPUTE] *= 5
    assert flagged(judged(looks, Parallel(dp=8))) == {}


def test_a_rank_whose_experts_get_most_is_slow_for_its_routing() -> None:
    looks = looks_of(4)
    load = np.array([1.0, 3.5, 1.1, 1.0])
    for one in looks:
        one[1, COMPUTE] *= 2
    assert flagged(judged(looks, Parallel(dp=4, ep=4), load)) == {1: Cause.ROUTING}


def test_who_has_no_peer_or_tells_nothing_is_not_judged() -> None:
    looks = looks_of(4)
    for one in looks:
        one[0, COMPUTE] *= 9
        one[3] = np.nan
    assert judged(looks, Parallel(pp=4)) == ()
    assert set(flagged(judged(looks, Parallel(dp=4)))) == {0}


def test_too_short_a_window_says_nothing() -> None:
    window = np.zeros((POLICY.looks - 1, 4, 4), dtype=np.float32)
    assert standing(window, np.zeros(4), POLICY) is None


def test_what_is_slow_is_bounded_and_the_worst_come_first() -> None:
    looks = looks_of(1_000)
    for one in looks:
        one[:100, COMPUTE] *= np.linspace(4, 2, 100)
    found = judged(looks, Parallel(dp=1_000))
    assert len(found) == MAX_FLAGS
    assert found[0].rank == 0


class TimedSoft(SimSoft):
    """The closed form, with a word of its own on who is slow."""

    standing: Standing | None = None

    def committed(self, records: Iterable[r.Record]) -> None:
        """As production does: a new generation begins with an empty window."""
        told = list(records)
        super().committed(told)
        if any(isinstance(record, r.GenerationStarted) for record in told):
            self.standing = None

    def slow_ranks(self, job_uid: str, ranks: int, parallel: Parallel, policy: StragglerPolicy) -> Standing | None:
        return self.standing


class TimedWorld(World):
    """Its controllers hear where time goes."""

    def began(self, controller: Controller) -> None:
        controller.soft = controller.engine.soft = TimedSoft(self, controller.clock_ns, controller.state.fleet)

    def tell(self, *slow: Slow, known: int = 4) -> None:
        soft = self.soft
        assert isinstance(soft, TimedSoft)
        soft.standing = Standing(slow, np.arange(4) < known)
        self.run(2, 0.5)


def site(policy: Policy | None = None) -> TimedWorld:
    world = TimedWorld(4, 2, 1, policy or Policy(catalogue=built_in()))
    world.submit(spec("moe", 4, spares=SparePolicy(warm_nodes=0)))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    return world


def records(world: World, *kinds: type[r.Record]) -> list[r.Record]:
    entries = world.journal.newest(1_000, types=tuple(kind.__name__ for kind in kinds))
    return [r.decode(entry.type, entry.version, entry.body) for entry in entries]


def flags(world: World) -> dict[int, Cause]:
    return {one.rank: one.cause for one in world.state().stragglers.of(world.job("moe").uid)}


SLOW = Slow(1, Cause.COMPUTE, 1.6, 0.95)


def test_a_slow_rank_is_flagged_once_with_its_place_and_nothing_else_happens() -> None:
    world = site()
    assert "stragglers" not in world.state().to_json(), "a journal without stragglers keeps its digest"
    generation, job = world.job("moe").generation, world.job("moe")
    for _ in range(3):
        world.tell(SLOW)
    (record,) = records(world, r.StragglersFound)
    assert isinstance(record, r.StragglersFound)
    (one,) = record.found
    assert (one.rank, one.node) == (1, world.state().fleet.name(int(job.rank_node[1])))
    assert one.devices == tuple(job.rank_acc[1].tolist())
    assert world.job("moe").generation == generation
    assert (world.state().fleet.service == NodeService.IN_SERVICE).all()
    assert not any(facts.cordons for facts in world.state().fleet.facts)
    (hits,) = measured(world.state().shadows, world.now_ns)
    assert (hits.vendor, hits.code, hits.open_) == ("phalanx", "STRAGGLER", 1)
    state = world.state()
    assert State.from_json(state.to_json()).stragglers == state.stragglers
    assert load(world.journal).digest() == state.digest()


def test_a_flag_stays_until_the_rank_is_rarely_slow_and_goes_then() -> None:
    world = site()
    world.tell(SLOW)
    world.tell(replace(SLOW, share=0.5))
    assert flags(world) == {1: Cause.COMPUTE}
    world.tell(known=0)
    assert flags(world) == {1: Cause.COMPUTE}, "who tells nothing proves nothing"
    world.tell()
    assert flags(world) == {}
    assert len(records(world, r.StragglersFound, r.StragglersGone)) == 2
    world.tell(replace(SLOW, share=0.5))
    assert flags(world) == {}, "half of the looks make no straggler"


def test_data_and_collections_and_routing_are_held_against_no_node() -> None:
    world = site()
    for rank, cause in enumerate((Cause.DATA, Cause.COLLECTION, Cause.ROUTING)):
        world.tell(Slow(rank, cause, 2.0, 1.0))
    assert records(world, r.FaultsReported, r.FaultShadowed) == []
    assert flags(world)[2] is Cause.ROUTING


def test_several_slow_ranks_of_a_node_name_the_node() -> None:
    world = site()
    on = world.job("moe").rank_node
    ranks = [rank for rank in range(4) if on[rank] == on[0]]
    world.tell(*(Slow(rank, Cause.COMPUTE, 1.5, 1.0) for rank in ranks))
    (record,) = records(world, r.StragglersFound)
    assert isinstance(record, r.StragglersFound)
    assert record.nodes == (world.state().fleet.name(int(on[0])),)
    assert len(records(world, r.FaultShadowed)) == 1, "one fault of the node, not one for each rank"


def test_ranks_of_many_nodes_suspect_no_hardware() -> None:
    world = site()
    on = world.job("moe").rank_node
    assert len(set(on.tolist())) > 1
    world.tell(*(Slow(rank, Cause.COMPUTE, 1.5, 1.0) for rank in range(4)))
    assert len(flags(world)) == 4
    assert records(world, r.FaultShadowed, r.FaultsReported) == []


def evicting() -> tuple[TimedWorld, str]:
    """A site whose own table takes slow nodes out, after it has; and that node."""
    table = 'vendor = "phalanx"\nsource = "this test"\ndate = "2026-11-23"\n[[code]]\ncode = "STRAGGLER"\nlevel = "ISOLATE"\n'
    world = site(Policy(catalogue=merge(built_in(), [("site.toml", table)])))
    fleet = world.state().fleet
    number = int(world.job("moe").rank_node[1])
    world.tell(SLOW)
    assert [record.node for record in records(world, r.NodeQuarantined)] == [fleet.name(number)]  # type: ignore[union-attr] # of this type
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING and int(world.job("moe").rank_node[1]) != number)
    return world, fleet.name(number)


def test_a_rank_that_keeps_up_elsewhere_proves_that_its_place_was_slow() -> None:
    world, _ = evicting()
    assert flags(world) == {1: Cause.COMPUTE}, "until it is judged there"
    world.tell()
    (gone,) = records(world, r.StragglersGone)
    assert isinstance(gone, r.StragglersGone)
    assert gone.reason == "they keep up with their peers where they run now"


def test_a_rank_that_is_slow_elsewhere_too_takes_no_second_node() -> None:
    world, first = evicting()
    world.tell(SLOW)
    (one,) = world.state().stragglers.of(world.job("moe").uid)
    assert one.elsewhere == first
    assert "its work is slow, not its place" in one.text
    assert len(records(world, r.NodeQuarantined)) == 1


def test_the_end_of_a_job_ends_its_flags() -> None:
    world = site()
    world.tell(SLOW)
    uid = world.job("moe").uid
    world.turn(ev.CancelJob("", "moe", ""))
    world.run_until(lambda: world.job("moe").terminal)
    assert not world.state().stragglers.of(uid)
