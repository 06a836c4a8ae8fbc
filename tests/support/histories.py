"""A rich run of a small site: at least one record of every type."""

from __future__ import annotations

from controlplane.catalogues import built_in
from controlplane.core import events as ev
from controlplane.core.draft import Policy, QuarantinePolicy
from controlplane.core.health.suspicion import SuspicionPolicy
from controlplane.core.jobs import Exit
from controlplane.core.spec import Budget, Match, NodeAction, NodeRule, RestartPolicy, SparePolicy, Timeouts
from controlplane.core.vocabulary import Assertion, JobState, RankState
from tests.support.world import World, spec


def eventful() -> World:  # noqa: PLR0915 - one line per event of a long day
    """Failures of every kind one after the other, and every ending of a job."""
    policy = Policy(suspicion=SuspicionPolicy(dead_without_witness_s=30.0), effect_ms=15_000)
    world = World(6, accelerators=2, racks=2, policy=policy)
    timeouts = Timeouts(start_ms=8_000, join_ms=6_000, stop_ms=2_000)

    def running(name: str) -> None:
        world.run_until(lambda: world.job(name).state is JobState.RUNNING)

    watched = NodeRule(Match(on_node=99, within_ms=60_000), NodeAction.CORDON)
    world.submit(spec("moe", 4, timeouts=timeouts, restart_policy=RestartPolicy(node_rules=(watched,))))
    running("moe")
    world.submit(spec("small", 2, timeouts=timeouts, spares=SparePolicy()))
    running("small")
    world.run(2)
    for step in (20, 40, 60, 80):
        world.checkpoint("moe", step)
        world.run(1)
    world.checkpoint("moe", 90, [0, 1])
    world.turn(ev.NodesJoined((ev.NodeHello("late-00", "1", (("rack", "r9"),), "127.0.0.1", "0", (), ()),)))
    moe = world.job("moe")
    waits = ((int(moe.rank_host[0]), 1),)
    world.turn(ev.HostsReached("relay-0", moe.uid, moe.generation, RankState.PAUSED, waits, world.now_ns))
    world.kill_rank("moe", 2, lingers=True)
    running("moe")
    world.end("moe", 1, Exit(observed=True, code=1, message="Traceback\nValueError: boom", group_empty=True))
    running("moe")
    world.corrupt.add("moe-1/g1/step-80")
    world.kill_rank("moe", 0)
    running("moe")
    world.turn(ev.CordonNode("c1", "node-05", "operator", "look"))
    world.turn(ev.UncordonNode("c2", "node-05", "operator"))
    world.turn(ev.InjectFault("f1", world.process("moe", 3)[0].name, 0, "XID-79", "fell off the bus"))
    running("moe")
    world.run(3)
    world.destroy(world.process("moe", 0)[0].name)
    world.run(4)
    running("moe")
    assert world.hang("moe", 2)
    world.kill_rank("moe", 3)
    world.run(15)
    running("moe")
    world.jammed.add("moe")
    world.kill_rank("moe", 0)
    world.run(25)
    world.jammed.clear()
    running("moe")
    world.lose_cell()
    world.restart_controller()
    world.run(1)
    world.cell_hello()
    newest = next(c.id for c in world.job("moe").checkpoints.values() if c.restorable)
    world.turn(ev.PinCheckpoint("p1", "moe", newest, "release", "the weights of the paper"))
    world.turn(ev.UnpinCheckpoint("p2", "moe", newest, "release"))
    world.turn(ev.CreateToken("t1", "ab" * 32, "cell", "cell-1", ("node-[01-06]",), 60_000))
    world.turn(ev.Join("ab" * 32, "k" * 64, "1" * 32, 3_600_000))
    world.turn(ev.RevokeIdentity("v1", "cell", "cell-1", "its machine was sold"))
    world.turn(ev.ReinstateIdentity("v2", "cell", "cell-1"))
    world.turn(ev.RestartJob("r1", "moe", "new data"))
    running("moe")
    world.turn(ev.DrainNode("d1", world.process("moe", 0)[0].name, "operator", "firmware"))
    world.run(8)
    running("moe")
    world.submit(spec("late", 1, timeouts=timeouts, spares=SparePolicy()))
    world.turn(ev.CordonNode("c3", world.process("late", 0)[0].name, "operator", "look"))
    world.run(1)
    world.turn(ev.CancelJob("k2", "late", ""))
    world.finish("moe")
    world.run(2)
    world.turn(ev.CancelJob("k1", "small", "no longer needed"))
    world.run(2)
    world.broken["bad"] = "ImportError: no module named flash"
    world.submit(spec("bad", 1, timeouts=timeouts, restart_policy=RestartPolicy(user=Budget(1, 60_000))))
    world.run_until(lambda: world.job("bad").terminal)
    return world


def ill() -> World:
    """A site whose parts fall ill in every way: what the health part writes down."""
    world = World(6, policy=Policy(catalogue=built_in(), quarantine=QuarantinePolicy(trial_ms=10_000)))
    world.stall_controller(2.0)
    world.run(4)
    node, agents = world.nodes["node-02"], world.agents
    world.turn(ev.NodeReport(node.name, node.boot_id, broken_links=("node-04",)))
    node.unreadable = (ev.SourceRow("probe", "times out"),)
    agents.report_devices(node)
    node.unreadable = ()
    agents.report_devices(node)
    agents.raise_fault(node, ev.FaultRow("port/0", "SIM-PORT-DOWN", "simulated"))
    world.run(25)
    agents.raise_fault(node, ev.FaultRow("port/0", "SIM-PORT-DOWN", "simulated", assertion=Assertion.RECOVERED))
    own_fault(world)
    singles = quarantines(world)
    world.nodes[singles[0]].incurable = True
    agents.raise_fault(world.nodes[singles[0]], ev.FaultRow("node", "HW-2", "simulated"))
    world.run(20)
    world.turn(ev.UncordonNode("h1", singles[0], "health"))
    return world


def own_fault(world: World) -> None:
    """The same code on every device of a job: taken back from the devices."""
    world.submit(spec("wide", 12, spares=SparePolicy()))
    world.run_until(lambda: world.job("wide").state is JobState.RUNNING)
    for name in ("node-00", "node-01", "node-04"):
        world.set_fault(name, 0, "SIM-MEMORY")
    for name in ("node-00", "node-01", "node-04"):
        world.set_fault(name, 0, "")
    world.run(1)
    world.turn(ev.CancelJob("k3", "wide", ""))
    world.run(2)


def quarantines(world: World) -> list[str]:
    """Jobs of one node each lose it to health, until the action budget is spent."""
    nodes = []
    for number in range(4):
        world.submit(spec(f"one-{number}", 2, spares=SparePolicy()))
        world.run_until(lambda number=number: world.job(f"one-{number}").state is JobState.RUNNING)
        nodes.append(world.process(f"one-{number}", 0)[0].name)
    for name in nodes:
        world.agents.raise_fault(world.nodes[name], ev.FaultRow("node", "HW-1", "simulated"))
    world.run(8)
    for number in range(4):
        world.turn(ev.CancelJob(f"k-{number}", f"one-{number}", ""))
    world.run(10)
    return nodes
