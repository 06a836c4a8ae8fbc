"""One test for each defect that an attack on the machine has found; see docs/bugs-found.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.core import events as ev
from controlplane.core.draft import Policy, Refusal
from controlplane.core.effects import EffectKind
from controlplane.core.health.suspicion import SuspicionPolicy
from controlplane.core.jobs import Exit
from controlplane.core.spec import Budget, RestartPolicy, SparePolicy, Timeouts
from controlplane.core.vocabulary import Blame, JobState, NodeLiveness, RankState, Rung
from tests.support.world import World, spec

PARKED = SparePolicy(parked_per_node=2)
QUICK = Policy(suspicion=SuspicionPolicy(dead_without_witness_s=20.0), effect_ms=10_000)


def running(world: World, name: str = "moe", **changes: object) -> World:
    changes = {"spares": PARKED, "ranks": 4, **changes}
    world.submit(spec(name, **changes))  # type: ignore[arg-type]
    world.run_until(lambda: world.job(name).state is JobState.RUNNING)
    world.run(4)
    return world


def recovered(world: World, name: str = "moe") -> None:
    world.run_until(lambda: world.job(name).state is JobState.RUNNING)


def liveness(world: World, name: str) -> NodeLiveness:
    fleet = world.state().fleet
    return NodeLiveness(int(fleet.liveness[fleet.index[name]]))


def records(world: World, word: str) -> list[str]:
    return [line for line in world.lines if line.split()[1] == word]


def test_a_failed_device_in_a_hello_takes_its_rank() -> None:
    """The fault was raised while the agent was away: the snapshot is the truth, not only the delta."""
    world = running(World())
    world.lose_agent("node-00")
    world.nodes["node-00"].faults[1] = "XID-79"
    world.return_agent("node-00")
    assert world.job("moe").state is JobState.RECOVERING
    recovered(world)
    assert world.job("moe").recoveries[0].rung == Rung.REPLACE_RANK


def test_the_fencing_cordon_follows_deltas() -> None:
    """A stray is gone: its report lifts the cordon, without waiting for the next full snapshot."""
    world = running(World())
    world.hang("moe", 0)
    world.freeze("node-00")
    world.set_raylet("node-00", up=False)
    for rank in range(4):
        world.kill_rank("moe", rank)
    world.run(5)
    assert liveness(world, "node-00") is NodeLiveness.DEAD
    world.set_raylet("node-00", up=True)
    world.thaw("node-00")
    world.run(1)
    assert liveness(world, "node-00") is NodeLiveness.ALIVE
    assert world.state().fleet.facts[0].cordons == ()


def test_a_stray_in_a_delta_cordons_its_node() -> None:
    world = running(World())
    stray = ev.HostRow("moe-1", 999, RankState.RUNNING, 3, 1, 5, 5, world.now_ns)
    world.turn(ev.NodeReport("node-03", "0001", hosts=(stray,)))
    assert [cordon.items for cordon in world.state().fleet.facts[3].cordons] == [("moe-1-999",)]
    gone = replace(stray, state=RankState.EXITED, exit=Exit(observed=True, signal=9, group_empty=False))
    world.turn(ev.NodeReport("node-03", "0001", hosts=(gone,)))
    assert world.state().fleet.facts[3].cordons, "something of it is left"
    world.turn(ev.NodeReport("node-03", "0001", hosts=(replace(gone, exit=Exit(observed=True, group_empty=True)),)))
    assert world.state().fleet.facts[3].cordons == ()


def test_a_dead_node_whose_stream_stayed_open_must_say_hello() -> None:
    """Its beats come again, but nobody would ever make it ALIVE: its report is refused, so that it dials again."""
    world = running(World())
    world.freeze("node-03")
    world.set_raylet("node-03", up=False)
    world.run(4)
    assert liveness(world, "node-03") is NodeLiveness.DEAD
    answer = world.turn(ev.NodeReport("node-03", "0001"))[0]
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.reason) == ("stale", "NODE_DEAD")
    world.thaw("node-03")
    world.run(1)
    assert liveness(world, "node-03") is NodeLiveness.ALIVE


def test_a_gang_that_fails_to_start_is_one_failed_start() -> None:
    world = World()
    world.broken["moe"] = "OSError: too many open files"
    world.submit(spec("moe", 4))
    world.run(2.5)
    job = world.job("moe")
    assert (job.state, job.failed_starts) == (JobState.PLACING, 1), "four processes, one round"
    world.broken.clear()
    recovered(world)


def test_processes_that_never_park_spend_the_budget() -> None:
    world = World(policy=QUICK)
    timeouts = Timeouts(start_ms=3_000)
    world.timings.park_s = 1_000.0
    world.submit(spec("moe", 2, timeouts=timeouts, restart_policy=RestartPolicy(user=Budget(1, 600_000))))
    world.run_until(lambda: world.job("moe").terminal)
    job = world.job("moe")
    assert job.state is JobState.FAILED
    assert "it did not park within 3 s" in job.end_reason


def test_lost_spares_of_the_past_do_not_fail_a_later_recovery() -> None:
    world = running(World())
    for _ in range(12):
        node = world.process("moe", 0)[0]
        idle = next(p for p in node.processes.values() if p.exit is None and p.rank < 0)
        world.exit(node, idle, Exit(observed=True, signal=9, group_empty=True))
        world.run(10)
        if world.job("moe").failed_starts > 3:
            break
    assert world.job("moe").failed_starts > 3
    for node in world.nodes.values():
        for process in list(node.processes.values()):
            if process.exit is None and process.rank < 0:
                world.exit(node, process, Exit(observed=True, signal=9, group_empty=True))
    world.kill_rank("moe", 0)
    recovered(world)


def test_a_job_that_nobody_can_see_is_not_judged_by_its_silence() -> None:
    """All its agents are cut off, so its steps are not told either: that is no second witness against its nodes."""
    world = running(World(nodes=8))
    hidden = {world.process("moe", rank)[0].name for rank in range(4)}
    assert len(hidden) == 2
    for name in hidden:
        world.freeze(name)
    world.run(10)
    assert {liveness(world, name) for name in hidden} == {NodeLiveness.SUSPECT}
    assert world.job("moe").generation == 1


def test_a_new_failure_in_a_recovery_is_charged_to_its_own_author() -> None:
    world = running(World())
    world.kill_rank("moe", 1)
    world.run(0.2)
    for _ in range(2):
        assert world.job("moe").state is JobState.RECOVERING
        world.end("moe", 1, Exit(observed=True, code=1, message="ValueError: boom", group_empty=True))
        world.run_until(lambda: world.job("moe").incident is not None and bool(world.job("moe").incident.placed_ns))
        world.run(0.1)
    assert [charge.blame for charge in world.job("moe").restarts] == [Blame.INFRASTRUCTURE, Blame.USER, Blame.USER]


def test_whoever_finished_while_the_gang_waits_runs_again_with_it() -> None:
    """Else the next generation would be bound to an ended process, and be late."""
    world = running(World(), spares=SparePolicy())
    world.kill_rank("moe", 1)
    world.run(0.5)
    assert world.job("moe").state is JobState.RECOVERING
    world.finish("moe", [2])
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING, limit_s=10)
    assert not records(world, "JoinFailed")


def test_what_other_jobs_left_on_a_node_is_waited_for() -> None:
    """The rank moved away from a cordoned node, its old process lingers there; another job must not start beside it."""
    world = running(World(nodes=2, racks=1), name="a", ranks=2, spares=SparePolicy())
    world.timings.park_s = 0.1
    world.turn(ev.CordonNode("", "node-00", "operator", "look"))
    world.kill_rank("a", 0, lingers=True)
    world.turn(ev.UncordonNode("", "node-00", "operator"))
    world.submit(spec("b", 2, spares=SparePolicy()))
    assert world.process("b", 0)[0].name == "node-00"
    world.run_until(lambda: world.job("b").state is JobState.RUNNING)  # S1 on the world's truth is checked each turn


def test_effects_outlive_a_long_absence_of_the_controller() -> None:
    """Deadlines passed while nobody led: what is outstanding goes out again, nothing is given up unread."""
    world = running(World())
    world.kill_rank("moe", 2)
    assert any(e.kind is EffectKind.APPLY_GENERATION for e in world.state().effects.values())
    world.restart_controller(stall_s=300.0)
    world.run(3)
    recovered(world)
    assert world.job("moe").generation == 2
    assert not records(world, "JoinFailed")


def test_a_node_that_dies_while_its_job_ends() -> None:
    world = running(World())
    first, second = world.process("moe", 0)[0].name, world.process("moe", 3)[0].name
    world.lose_agent(first)
    world.lose_agent(second)
    world.turn(ev.CancelJob("", "moe", ""))
    world.destroy(first)
    world.run(6)
    assert liveness(world, first) is NodeLiveness.DEAD
    assert not world.job("moe").terminal, "the other node has not said that all is gone"
    world.return_agent(second)
    world.run(1)
    assert world.job("moe").state is JobState.CANCELLED


def test_an_ending_job_starts_nothing_any_more() -> None:
    world = World()
    world.lose_cell()
    world.turn(ev.CellHello("cell-0", "1", "ray-1", "127.0.0.1:1", tuple((n, True) for n in world.nodes)))
    world.submit(spec("moe", 4))
    assert [e.kind for e in world.state().effects.values()] == [EffectKind.START_HOSTS]
    world.turn(ev.CancelJob("", "moe", ""))
    assert not any(e.kind is EffectKind.START_HOSTS for e in world.state().effects.values())
    world.run(1)
    assert world.job("moe").state is JobState.CANCELLED


@pytest.mark.parametrize("release", ["end", "cordon"])
def test_spares_are_refilled_at_once(release: str) -> None:
    world = running(World(nodes=3, racks=1), name="a", ranks=2, spares=SparePolicy(warm_nodes=1))
    spare = world.state().fleet.name(world.job("a").spare_nodes[0])
    free = next(n for n in world.nodes if n != spare and n != world.process("a", 0)[0].name)
    if release == "end":
        running(world, name="b", ranks=1, spares=SparePolicy())
    world.turn(ev.CordonNode("", spare, "operator", "look"))
    if release == "end":
        assert world.job("a").spare_nodes == ()
        world.turn(ev.CancelJob("", "b", ""))
        world.run(1)
    assert [world.state().fleet.name(n) for n in world.job("a").spare_nodes] == [free]


def test_a_gang_that_ends_together_costs_few_verdicts() -> None:
    world = running(World(nodes=8), ranks=12, spares=SparePolicy())
    for rank in range(12):
        world.kill_rank("moe", rank)
    recovered(world)
    assert len(records(world, "RecoveryDecided")) == 2
    assert len(world.job("moe").restarts) == 1, "all fell before the way back had begun: one incident, one charge"


def test_effects_of_a_generation_do_not_repeat_the_whole_table() -> None:
    world = running(World(nodes=8), ranks=12)
    assert all(not e.items for e in world.sent if e.kind is EffectKind.APPLY_GENERATION and e.full)
    assert max(len(line) for line in records(world, "JobStateChanged")) < 250
