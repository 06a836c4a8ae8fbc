"""Verbs of operators: drains, restarts, pins, hurried cancellations, the queue; what must not happen with them."""

from __future__ import annotations

import numpy as np
import pytest

from controlplane.core import events as ev
from controlplane.core.draft import Answer, Refusal
from controlplane.core.effects import EffectKind
from controlplane.core.fleet import NodeFacts
from controlplane.core.health.budget import Act, ActionBudget, limit, refusal
from controlplane.core.placement.queue import must_yield_to
from controlplane.core.placement.shortage import shortage
from controlplane.core.spec import Budget, RestartPolicy, SparePolicy
from controlplane.core.state import free_devices
from controlplane.core.units import NS_PER_S, ms
from controlplane.core.vocabulary import CheckpointState, JobState, NodeService, Rung
from tests.support.fleets import cordon, fleet, spoil
from tests.support.world import World, spec

ALONE = SparePolicy()
POOR = RestartPolicy(user=Budget(0, 3_600_000), infrastructure=Budget(0, 3_600_000))


def running(world: World, name: str = "moe", ranks: int = 4, **changes: object) -> World:
    world.submit(spec(name, ranks, **{"spares": ALONE, **changes}))
    world.run_until(lambda: world.job(name).state is JobState.RUNNING)
    world.run(1)
    return world


def reason(answer: Answer | Refusal | None) -> str:
    return answer.reason if isinstance(answer, Refusal) else "accepted"


def service(world: World, node: str) -> NodeService:
    state = world.state().fleet
    return NodeService(int(state.service[state.index[node]]))


def home(world: World, rank: int, name: str = "moe") -> str:
    return world.process(name, rank)[0].name


# -- drains -----------------------------------------------------------------------------------------------------------


def test_a_drain_costs_no_budget_even_where_none_is_left() -> None:
    world = running(World(4), restart_policy=POOR)
    world.turn(ev.DrainNode("", home(world, 0), "operator", "firmware"))
    world.run(8)
    job = world.job("moe")
    assert (job.state, job.generation, job.restarts) == (JobState.RUNNING, 2, ())
    assert job.recoveries[0].blame == ""


def test_the_job_runs_on_until_processes_are_parked_at_the_new_place() -> None:
    world = running(World(4))
    world.turn(ev.DrainNode("", home(world, 0), "operator", "firmware"))
    world.run(1.5)
    assert (world.job("moe").state, world.job("moe").generation) == (JobState.RUNNING, 1)
    world.run(5)
    assert world.job("moe").generation == 2


def test_processes_that_cannot_start_elsewhere_leave_the_job_where_it_is() -> None:
    world = running(World(4), restart_policy=POOR)
    world.broken["moe"] = "ImportError: no module named flash"
    node = home(world, 0)
    world.turn(ev.DrainNode("", node, "operator", "firmware"))
    world.run(120, 0.5)
    assert (world.job("moe").state, world.job("moe").generation) == (JobState.RUNNING, 1)
    assert f"drain of {node} waits" in world.job("moe").blocker
    assert service(world, node) is NodeService.DRAINING
    world.turn(ev.UncordonNode("", node, "operator"))
    assert world.job("moe").blocker == ""
    assert service(world, node) is NodeService.IN_SERVICE


def test_a_rank_that_fails_while_others_leave_is_charged_to_its_author() -> None:
    world = running(World(4), spares=SparePolicy(1, 1))
    world.run(4)
    node = home(world, 0)
    other = next(rank for rank in range(4) if home(world, rank) != node)
    world.together(lambda: (world.turn(ev.DrainNode("", node, "operator", "firmware")), world.kill_rank("moe", other)))
    world.run(10)
    job = world.job("moe")
    assert job.state is JobState.RUNNING
    assert len(job.restarts) == 1
    assert service(world, node) is NodeService.OUT_OF_SERVICE


def test_a_drained_node_stays_out_when_its_agent_comes_back() -> None:
    world = World(3)
    world.turn(ev.DrainNode("", "node-02", "operator", "firmware"))
    world.run(0.2)
    assert service(world, "node-02") is NodeService.OUT_OF_SERVICE
    world.lose_agent("node-02")
    world.return_agent("node-02")
    assert service(world, "node-02") is NodeService.OUT_OF_SERVICE


def test_a_drain_ends_with_its_last_owner_and_plain_cordons_stay() -> None:
    world = World(3)
    for owner in ("ann", "ben"):
        world.turn(ev.DrainNode("", "node-02", owner, "firmware"))
    world.turn(ev.CordonNode("", "node-02", "eve", "look"))
    world.turn(ev.UncordonNode("", "node-02", "ann"))
    assert service(world, "node-02") is not NodeService.IN_SERVICE
    world.turn(ev.UncordonNode("", "node-02", "ben"))
    assert service(world, "node-02") is NodeService.IN_SERVICE
    assert not world.state().fleet.schedulable()[2], "eve's cordon stays"


def test_the_controllers_own_cordon_belongs_to_nobody_else() -> None:
    world = World(3)
    assert reason(world.turn(ev.CordonNode("", "node-02", "fencing", "mine"))[0]) == "NOT_YOURS"
    assert reason(world.turn(ev.UncordonNode("", "node-02", "fencing"))[0]) == "NOT_YOURS"


def test_the_action_budget_counts_nodes_at_work_in_a_window() -> None:
    budget, minute = ActionBudget(share=0.05, window_ms=60_000), 60 * NS_PER_S
    assert limit(fleet(100, racks=50), budget) == 5
    assert limit(fleet(8, racks=4), budget) == 2
    unlabelled = fleet(8)
    unlabelled.racks = ("",)
    assert limit(unlabelled, budget) == 1, "nodes without a rack label are no rack"
    site = fleet(8, racks=4)
    acts = (Act(0, 0), Act(1, 10 * NS_PER_S))
    assert "try again in 40 s" in refusal(site, 2, acts, budget, 20 * NS_PER_S)
    assert refusal(site, 2, acts, budget, minute + NS_PER_S) == "", "the first one is long ago"
    site.service[:2] = NodeService.DRAINING
    assert "until one of them is empty" in refusal(site, 2, (), budget, 10 * minute)
    assert refusal(site, 2, (Act(0, 0), Act(0, 1)), ActionBudget(window_ms=1), minute), "draining still counts"


def test_what_the_site_allows_must_not_all_fall_on_one_failure_domain() -> None:
    """A super-pod of two racks: one rack's worth of it in a window, though the site would allow more."""
    site = fleet(0)
    for number in range(200):
        pod = "a" if number < 8 else "b"
        labels = (("rack", f"r{number // 4}"), ("superpod", pod))
        site.set_accelerators(site.add(NodeFacts(f"n{number}", labels=labels)), (), ())
    budget = ActionBudget(share=0.05, window_ms=60_000)
    assert limit(site, budget) == 10
    acts = tuple(Act(number, 0) for number in (0, 1, 4, 5))
    assert "superpod a allows 4" in refusal(site, 6, acts, budget, 1)
    assert refusal(site, 100, acts, budget, 1) == ""
    assert refusal(site, 6, acts[1:], budget, 1) == ""


# -- restarts and cancellations ---------------------------------------------------------------------------------------


def test_a_restart_without_room_is_refused_and_changes_nothing() -> None:
    world = running(World(2))
    world.turn(ev.CordonNode("", "node-00", "operator", "look"))
    assert reason(world.turn(ev.RestartJob("", "moe", ""))[0]) == "NO_ROOM"
    assert (world.job("moe").state, world.job("moe").incident) == (JobState.RUNNING, None)


def test_a_restart_costs_nothing_however_poor_the_job() -> None:
    world = running(World(3), restart_policy=POOR)
    for generation in (2, 3, 4):
        world.turn(ev.RestartJob("", "moe", ""))
        world.run_until(lambda wanted=generation: world.job("moe").generation == wanted)  # type: ignore[misc]  # bound now
        world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    assert world.job("moe").restarts == ()


def test_a_second_cancellation_may_only_shorten() -> None:
    world = running(World(3))
    for node in world.nodes.values():
        world.freeze(node.name)
    world.turn(ev.CancelJob("", "moe", "", 60_000))

    def graces() -> set[int]:
        return {e.grace_ms for e in world.state().effects.values() if e.kind is EffectKind.FENCE_HOSTS}

    assert graces() == {60_000}
    world.turn(ev.CancelJob("", "moe", "", 120_000))
    assert graces() == {60_000}
    world.turn(ev.CancelJob("", "moe", "", 1_000))
    assert graces() == {1_000}


def test_placing_a_rank_again_is_no_second_failure() -> None:
    """The node that a lost rank was moved to is cordoned before its process is parked: one charge, not two."""
    world = running(World(4))
    world.destroy(home(world, 0))
    world.run_until(lambda: world.job("moe").state is JobState.RECOVERING and bool(world.job("moe").restarts))
    target = world.state().fleet.name(int(world.job("moe").rank_node[0]))
    world.turn(ev.CordonNode("", target, "operator", "look"))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    assert len(world.job("moe").restarts) == 1
    assert [recovery.rung for recovery in world.job("moe").recoveries][-1] == Rung.REPLACE_RANK


# -- pins -------------------------------------------------------------------------------------------------------------


def test_a_poisoned_checkpoint_may_be_pinned_and_is_not_restored() -> None:
    world = running(World(3))
    world.checkpoint("moe", 10)
    world.run(1)
    world.corrupt.add("moe-1/g1/step-10")
    world.turn(ev.VerifyCheckpoint("", "moe", "moe-1/g1/step-10"))
    world.run(1)
    assert reason(world.turn(ev.PinCheckpoint("", "moe", "moe-1/g1/step-10", "ann", "evidence"))[0]) == "accepted"
    for step in (20, 30, 40, 50):
        world.checkpoint("moe", step)
        world.run(1)
    kept = world.job("moe").checkpoints
    assert kept["moe-1/g1/step-10"].state is CheckpointState.POISONED
    world.kill_rank("moe", 0)
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    assert world.job("moe").restore_step == 50


def test_an_unfinished_checkpoint_is_not_pinned() -> None:
    world = running(World(3))
    world.checkpoint("moe", 10, [0])
    assert reason(world.turn(ev.PinCheckpoint("", "moe", "moe-1/g1/step-10", "ann", "keep"))[0]) == "NOT_COMMITTED"


# -- the queue and what it waits for ----------------------------------------------------------------------------------


def test_whose_turn_it_is() -> None:
    world = running(World(4), "first")
    for name, ranks, priority in (("large", 8, 0), ("urgent", 8, 5), ("late", 8, 0)):
        world.submit(spec(name, ranks, spares=ALONE, priority=priority))
    state = world.state()

    def first(name: str, patience_s: float) -> str:
        job = must_yield_to(
            world.job(name), state.active_jobs(), state.fleet, world.now_ns, ms(round(patience_s * 1000))
        )
        return job.name if job else ""

    assert [first(name, 600) for name in ("urgent", "large", "late")] == ["", "", ""], (
        "none fits: nobody waits for another"
    )
    world.run(1)
    assert [first(name, 0.5) for name in ("urgent", "large", "late")] == ["", "urgent", "urgent"]


def test_a_dry_run_tells_whose_turn_it_is() -> None:
    world = running(World(4), "first")
    world.submit(spec("large", 8, spares=ALONE))
    world.run(601, 1.0)
    answer = world.turn(ev.SubmitJob("", spec("small", 1, spares=ALONE), dry_run=True))[0]
    assert isinstance(answer, Answer)
    assert answer.fields["blocker"] == "waits for its turn behind large"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cordoned", "1 cordoned: n1"),
        ("DEAD", "1 DEAD: n1"),
        ("SUSPECT", "1 SUSPECT: n1"),
        ("no session", "1 without agent session: n1"),
        ("no raylet", "1 not in a cell: n1"),
        ("DRAINING", "1 draining: n1"),
        ("failed devices", "2 broken accelerators"),
    ],
)
def test_the_shortage_says_why_nodes_are_out(how: str, words: str) -> None:
    site = fleet(3)
    spoil(site, 1, how)
    text = shortage(site, free_devices(site), spec("moe", 6))
    assert text == f"needs 6 accelerators, 4 are free of 6 on the site (2 accelerators or 1 node short, {words})"


def test_the_shortage_is_bounded() -> None:
    site = fleet(500)
    for node in range(400):
        cordon(site, node)
    text = shortage(site, free_devices(site), spec("moe", 900))
    assert "400 cordoned" in text
    assert len(text) < 200
    assert np.count_nonzero(site.schedulable()) == 100
