"""Every kind of fault does in the world what its name says, is counted, and is over in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from controlplane.core import records as r
from controlplane.core.jobs import Exit
from controlplane.core.vocabulary import AcceleratorState, JobState, NodeLiveness
from controlplane.engine.ports import JournalUnavailable
from controlplane.sim.faults import CATALOGUE, FaultPlan
from controlplane.sim.faults.health import CODES
from controlplane.sim.faults.injector import Injector, RepairPlan
from controlplane.sim.faults.operators import OWNERS
from controlplane.sim.journal import SimJournal
from controlplane.sim.scenario import Scenario, parse, world_of
from controlplane.sim.world.play import Playing
from controlplane.sim.world.site import World

SITE = """
[topology]
super_pods = 2
racks_per_super_pod = 2
nodes_per_rack = 3
racks_per_switch = 1
racks_per_feed = 2
accelerators = 2
nodes_per_relay = 4
[timings]
park_s = 2.0
[[jobs]]
name = "moe"
[jobs.spec]
ranks = 8
parallel = {dp = 8}
checkpoint = {everySteps = 20}
spares = {warmNodes = 1, parkedPerNode = 1}
"""

RANK_0 = "moe-1/0"
KILLED = Exit(observed=True, signal=9, group_empty=True)


class Stage:
    """A site with one running job, saved once, and a way to strike."""

    def __init__(self) -> None:
        scenario: Scenario = parse(SITE)
        self.world: World = world_of(scenario, seed=1)
        self.playing = Playing(self.world)
        self.injector = Injector(self.world, [], RepairPlan(scale=0.001), 3_600.0)
        self.world.order(scenario.jobs[0].spec)
        self.wait(60)
        assert self.world.job("moe").state is JobState.RUNNING
        assert self.world.stores.shards

    def wait(self, duration_s: float) -> None:
        self.playing.until(self.world.now_ns + round(duration_s * 1e9))

    def strike(self, kind: str, target: str = "", **parameters: float) -> None:
        plan = FaultPlan(kind, target, at_s=0.0, parameters=tuple(parameters.items()))
        self.injector.strike(plan, CATALOGUE[kind])

    def node_of(self, rank: int = 0) -> str:
        return self.world.gangs.newest["moe-1"].members[rank].node

    def wrote(self, record: type[r.Record]) -> int:
        entries = self.world.journal.storage.entries
        return sum(entry.type == record.__name__ for entry in entries)


def writable(journal: SimJournal) -> bool:
    """Whether the next append would be kept."""
    try:
        journal.probe(journal.storage.epoch)
    except JournalUnavailable:
        return False
    return True


def process_kill(stage: Stage) -> Iterator[bool]:
    process = stage.world.gangs.newest["moe-1"].members[0]
    stage.strike("process_kill", RANK_0)
    yield process.exit is not None and process.exit.signal == 9
    stage.wait(60)
    yield stage.world.gangs.newest["moe-1"].generation == 2


def process_oom(stage: Stage) -> Iterator[bool]:
    process = stage.world.gangs.newest["moe-1"].members[0]
    stage.strike("process_oom", RANK_0)
    yield process.exit is not None and process.exit.sender == "oom"


def process_exit(stage: Stage) -> Iterator[bool]:
    process = stage.world.gangs.newest["moe-1"].members[0]
    stage.strike("process_exit", RANK_0, code=42)
    yield process.exit is not None and process.exit.code == 42


def process_unseen(stage: Stage) -> Iterator[bool]:
    process = stage.world.gangs.newest["moe-1"].members[0]
    stage.strike("process_unseen", RANK_0)
    yield process.exit is not None and not process.exit.observed


def collective_failure(stage: Stage) -> Iterator[bool]:
    before = stage.world.gangs.newest["moe-1"]
    stage.strike("collective_failure", "moe-1")
    yield not before.moving and all(process.exit is None for process in before.members.values())
    stage.wait(60)
    after = stage.world.gangs.newest["moe-1"]
    yield after.generation == 2 and after.moving and after.members == before.members


def all_ranks(stage: Stage) -> Iterator[bool]:
    members = list(stage.world.gangs.newest["moe-1"].members.values())
    stage.strike("all_ranks", "moe-1")
    yield all(process.exit is not None for process in members)


def parked_kill(stage: Stage) -> Iterator[bool]:
    node = stage.world.nodes[stage.node_of()]
    idle = [p for p in node.live() if p.rank < 0]
    stage.strike("parked_kill", node.name)
    yield sum(p.exit is None for p in idle) == len(idle) - 1


def broken_start(stage: Stage) -> Iterator[bool]:
    stage.strike("broken_start", "moe-1")
    yield "moe" in stage.world.broken
    stage.wait(130)
    yield not stage.world.broken


def jam(stage: Stage) -> Iterator[bool]:
    stage.strike("jam", "moe-1")
    stage.world.kill_rank("moe", 0)
    stage.wait(20)
    yield stage.world.job("moe").state is JobState.RECOVERING
    stage.wait(60)
    yield not stage.world.jammed


def hang(stage: Stage) -> Iterator[bool]:
    before = stage.world.gangs.step("moe-1")
    stage.strike("hang", RANK_0)
    stage.wait(5)
    yield stage.world.gangs.step("moe-1") == before
    yield all(process.exit is None for process in stage.world.gangs.newest["moe-1"].members.values())


def fail_slow(stage: Stage) -> Iterator[bool]:
    first = stage.world.gangs.step("moe-1")
    stage.strike("fail_slow", stage.node_of(), factor=4)
    stage.wait(40)
    yield stage.world.gangs.step("moe-1") - first == 10
    stage.wait(1_800)
    yield stage.world.gangs.newest["moe-1"].step_ns == 1_000_000_000


def silent_corruption(stage: Stage) -> Iterator[bool]:
    stage.strike("silent_corruption", RANK_0, notice_s=30)
    stage.wait(25)
    newest = list(stage.world.stores.shards.values())[-1]
    yield newest[0].intact
    yield not newest[0].sound
    stage.wait(10)
    yield stage.world.gangs.newest["moe-1"].generation == 2 or stage.world.job("moe").state is JobState.RECOVERING


def device(stage: Stage) -> Iterator[bool]:
    node = stage.node_of()
    stage.strike("device", f"{node}/0")
    yield stage.world.nodes[node].faults == {0: "XID-79"}
    yield not stage.world.gangs.newest["moe-1"].moving


def link_flap(stage: Stage) -> Iterator[bool]:
    node = stage.world.nodes[stage.node_of()]
    before = stage.wrote(r.FaultsReported)
    stage.strike("link_flap", node.name, times=3, period_s=2)
    yield "port/0" in node.events
    stage.wait(10)
    yield "port/0" not in node.events
    yield stage.wrote(r.FaultsReported) >= before + 6


def link_down(stage: Stage) -> Iterator[bool]:
    node = stage.world.nodes[stage.node_of()]
    stage.strike("link_down", node.name)
    yield "port/0" in node.events
    stage.wait(301)
    yield not node.events


def health_source(stage: Stage) -> Iterator[bool]:
    node = stage.world.nodes[stage.node_of()]
    stage.strike("health_source", node.name)
    stage.wait(1)
    fleet = stage.world.state().fleet
    yield set(fleet.acc_state[fleet.index[node.name]].tolist()) == {AcceleratorState.UNKNOWN}
    stage.wait(601)
    fleet = stage.world.state().fleet
    yield set(fleet.acc_state[fleet.index[node.name]].tolist()) == {AcceleratorState.HEALTHY}


def device_code(stage: Stage) -> Iterator[bool]:
    node = stage.world.nodes[stage.node_of()]
    stage.strike("device_code", f"{node.name}/1")
    yield node.faults[1] in CODES
    stage.wait(601)
    yield not node.faults


def node_code(stage: Stage) -> Iterator[bool]:
    node = stage.world.nodes[stage.node_of()]
    stage.strike("node_code", node.name, incurable=1)
    stage.wait(5)
    yield node.name in stage.world.state().health.stays
    yield "node" in node.events
    stage.wait(601)
    yield not node.events
    yield not node.incurable


def code_once(stage: Stage) -> Iterator[bool]:
    node = stage.world.nodes[stage.node_of()]
    stage.strike("code_once", f"{node.name}/0", times=3, period_s=10)
    stage.wait(31)
    yield len(stage.world.state().health.sightings[f"{node.name}-0/SIM-ECC"]) == 3


def job_code(stage: Stage) -> Iterator[bool]:
    stage.strike("job_code", "moe-1", devices=8)
    yield sum(len(node.faults) for node in stage.world.nodes.values()) == 8
    stage.wait(61)
    yield not any(node.faults for node in stage.world.nodes.values())


def unlinked(stage: Stage) -> Iterator[bool]:
    name = stage.node_of()
    stage.strike("unlinked", name)
    stage.wait(5)
    fleet = stage.world.state().fleet
    yield fleet.liveness[fleet.index[name]] == NodeLiveness.DEAD
    stage.wait(301)
    fleet = stage.world.state().fleet
    yield fleet.liveness[fleet.index[name]] == NodeLiveness.ALIVE


def node(stage: Stage) -> Iterator[bool]:
    name = stage.node_of()
    stage.strike("node", name)
    yield not stage.world.nodes[name].up
    yield not stage.world.nodes[name].processes
    yield name in stage.world.soft._silent_since


def node_reboot(stage: Stage) -> Iterator[bool]:
    name = stage.node_of()
    boot = stage.world.nodes[name].boot
    stage.strike("node_reboot", name)
    yield not stage.world.nodes[name].up
    stage.wait(301)
    yield stage.world.nodes[name].up
    yield stage.world.nodes[name].boot == boot + 1


def raylet(stage: Stage) -> Iterator[bool]:
    name = stage.node_of()
    stage.strike("raylet", name)
    yield not stage.world.nodes[name].raylet
    yield stage.world.nodes[name].session
    stage.wait(61)
    yield stage.world.nodes[name].raylet


def domain(kind: str, target: str, size: int) -> Callable[[Stage], Iterator[bool]]:
    def shows(stage: Stage) -> Iterator[bool]:
        stage.strike(kind, target)
        there = [n for n in stage.world.nodes.values() if (kind, target) in n.labels]
        yield len(there) == size
        yield not any(n.up for n in there)
        stage.wait(7_201)
        yield all(n.up for n in there)

    return shows


def switch(stage: Stage) -> Iterator[bool]:
    stage.strike("switch", "sw0")
    behind = [n for n in stage.world.nodes.values() if ("switch", "sw0") in n.labels]
    yield all(n.up and n.frozen and not n.raylet for n in behind)
    yield not stage.world.gangs.newest["moe-1"].moving
    stage.wait(601)
    yield all(n.raylet and not n.frozen for n in behind)


def burst(stage: Stage) -> Iterator[bool]:
    stage.strike("burst", "r0", nodes=3, within_s=100)
    yield all(n.up for n in stage.world.nodes.values())
    stage.wait(101)
    yield sum(not n.up for n in stage.world.nodes.values() if n.rack == "r0") == 3


def spares_shortage(stage: Stage) -> Iterator[bool]:
    stage.strike("spares_shortage")
    up = [n for n in stage.world.nodes.values() if n.up]
    yield len(up) < 12
    yield all(any(p.rank >= 0 for p in n.live()) for n in up)


def spares_surplus(stage: Stage) -> Iterator[bool]:
    stage.strike("spares_surplus", count=2)
    yield len(stage.world.nodes) == 14
    stage.wait(1)
    yield stage.world.state().fleet.size == 14


def network_delay(stage: Stage) -> Iterator[bool]:
    process = stage.world.gangs.newest["moe-1"].members[0]
    stage.strike("network_delay", process.node, delay_s=3, jitter_s=0)
    stage.world.kill_rank("moe", 0)
    stage.wait(2.9)
    yield stage.world.job("moe").state is JobState.RUNNING
    stage.wait(0.3)
    yield stage.world.job("moe").state is JobState.RECOVERING


def network_drop(stage: Stage) -> Iterator[bool]:
    name = stage.node_of()
    stage.strike("network_drop", name, share=1.0)
    dials = stage.world.nodes[name].dials
    stage.wait(30)
    yield stage.world.network.dropped > 0
    yield stage.world.nodes[name].dials > dials


def network_duplicate(stage: Stage) -> Iterator[bool]:
    stage.strike("network_duplicate", stage.node_of(), share=1.0)
    stage.world.kill_rank("moe", 0)
    stage.wait(30)
    yield stage.world.network.duplicated > 0
    yield stage.world.job("moe").generation == 2


def network_reorder(stage: Stage) -> Iterator[bool]:
    stage.strike("network_reorder", jitter_s=2)
    stage.world.kill_rank("moe", 0)
    stage.wait(40)
    times = [entry.at_ns for entry in stage.world.journal.storage.entries if entry.type == "HostsObserved"]
    yield len(set(times[-8:])) > 2  # what was one batch arrives piece by piece
    yield stage.world.job("moe").generation == 2


def cut(kind: str, *, up: bool, down: bool) -> Callable[[Stage], Iterator[bool]]:
    def shows(stage: Stage) -> Iterator[bool]:
        name = stage.node_of()
        stage.strike(kind, name)
        link = stage.world.nodes[name].link
        yield (link.up, link.down) == (up, down)
        yield stage.world.gangs.newest["moe-1"].moving
        stage.wait(61)
        yield link.up
        yield link.down

    return shows


def scattered_silence(stage: Stage) -> Iterator[bool]:
    stage.strike("scattered_silence", share=0.5)
    yield sum(n.frozen for n in stage.world.nodes.values()) == 6
    stage.wait(21)
    yield not any(n.frozen for n in stage.world.nodes.values())


def half_open(stage: Stage) -> Iterator[bool]:
    name = stage.node_of()
    stage.strike("half_open", name)
    yield not stage.world.nodes[name].session
    state = stage.world.state()
    yield bool(state.fleet.session[state.fleet.index[name]])  # nobody told the controller
    stage.wait(61)
    yield stage.world.nodes[name].session


def agent_crash(stage: Stage) -> Iterator[bool]:
    name = stage.node_of()
    stage.strike("agent_crash", name)
    yield not stage.world.nodes[name].agent
    yield bool(stage.world.nodes[name].live())
    stage.wait(11)
    yield stage.world.nodes[name].session


def zombie(stage: Stage) -> Iterator[bool]:
    process = stage.world.gangs.newest["moe-1"].members[0]
    stage.strike("zombie", process.node)
    stage.wait(50)
    yield stage.world.gangs.newest["moe-1"].generation == 2
    yield process.exit is None  # it lives on beside its successor, on another node
    stage.wait(30)
    yield process.exit is not None


def duplicate_identity(stage: Stage) -> Iterator[bool]:
    stage.strike("duplicate_identity", stage.node_of())
    stage.wait(10)
    yield stage.world.refused.get("OLDER_BOOT", 0) >= 2
    refused, boot = stage.world.refused["OLDER_BOOT"], stage.world.nodes[stage.node_of()].boot
    stage.strike("duplicate_identity", stage.node_of(), newer=1)
    stage.wait(10)
    yield stage.world.nodes[stage.node_of()].boot == boot + 1
    yield stage.world.refused["OLDER_BOOT"] > refused + 3
    yield stage.world.job("moe").generation == 1


def agent_deaf(stage: Stage) -> Iterator[bool]:
    node = stage.world.nodes[stage.node_of()]
    stage.strike("agent_deaf", node.name)
    stage.strike("verify", next(iter(stage.world.stores.shards)))
    stage.strike("drain", node.name)
    stage.wait(60)
    yield node.session
    yield any(process.rank >= 0 for process in node.live())
    stage.wait(1_201)
    yield not any(process.rank >= 0 for process in node.live())


def version_skew(stage: Stage) -> Iterator[bool]:
    name = stage.node_of()
    stage.strike("version_skew", name)
    yield stage.world.nodes[name].version == "0.0.9"
    stage.wait(1_801)
    yield stage.world.nodes[name].version == "0"


def relay(stage: Stage) -> Iterator[bool]:
    stage.strike("relay", "relay-0")
    behind = stage.world.relays.behind("relay-0")
    yield len(behind) == 4
    yield not any(n.session for n in behind)
    stage.wait(6)
    yield all(n.session for n in behind)


def cell_agent(stage: Stage) -> Iterator[bool]:
    stage.strike("cell_agent")
    yield not stage.world.cell.open
    yield stage.world.gangs.newest["moe-1"].moving
    stage.wait(31)
    yield stage.world.cell.open


def cell(stage: Stage) -> Iterator[bool]:
    stage.strike("cell")
    yield not any(n.live() for n in stage.world.nodes.values())
    stage.wait(61)
    yield stage.world.cell.incarnation == 2


def controller_kill(stage: Stage) -> Iterator[bool]:
    stage.strike("controller_kill")
    yield stage.world.control.leader is None
    stage.wait(3)
    yield stage.world.state().epoch == 2
    yield all(n.session for n in stage.world.nodes.values())


def crash(kind: str, *, stored: bool) -> Callable[[Stage], Iterator[bool]]:
    def shows(stage: Stage) -> Iterator[bool]:
        stage.strike(kind)
        newest = stage.world.journal.storage.newest()
        stage.world.kill_rank("moe", 0)
        yield [point.value for point in stage.world.control.crashes()] == [kind.removeprefix("crash_")]
        yield (stage.world.journal.storage.newest() > newest) is stored
        stage.wait(40)
        yield stage.world.state().epoch == 2
        yield stage.world.job("moe").generation == 2

    return shows


def controller_stall(stage: Stage) -> Iterator[bool]:
    stage.strike("controller_stall", stall_s=5)
    stage.world.agents.exit(stage.world.gangs.newest["moe-1"].members[0], KILLED)
    stage.wait(4)
    yield stage.world.leader.inbox > 0
    stage.wait(2)
    yield stage.world.leader.inbox == 0
    yield stage.world.soft.vitals().lag_ns == 5_000_000_000


def clock_jump(stage: Stage) -> Iterator[bool]:
    before = stage.world.state().at_ns
    stage.strike("clock_jump", backward_s=3_600)
    yield stage.world.wall_offset_ns < 0
    yield stage.world.state().at_ns >= before
    stage.strike("clock_jump", forward_s=7_200)
    yield stage.world.leader.clock_ns() - stage.world.now_ns == 3_600 * 10**9


def clock_drift(stage: Stage) -> Iterator[bool]:
    ahead = stage.world.leader.clock_ns() - stage.world.now_ns
    stage.strike("clock_drift", fast=0.01)
    stage.wait(100)
    yield stage.world.leader.clock_ns() - stage.world.now_ns == ahead + 10**9


def slow_fsync(stage: Stage) -> Iterator[bool]:
    stage.strike("slow_fsync", fsync_s=2)
    stage.world.kill_rank("moe", 0)
    yield stage.world.leader.busy
    stage.wait(10)
    yield stage.world.soft.vitals().append_ns == 2 * 10**9


def failing_fsync(stage: Stage) -> Iterator[bool]:
    stage.strike("failing_fsync", times=1)
    yield not writable(stage.world.leader.journal)
    yield writable(stage.world.leader.journal)


def uncertain_commit(stage: Stage) -> Iterator[bool]:
    stage.strike("uncertain_commit", kept=1)
    stage.world.kill_rank("moe", 0)
    yield "connection ended" in stage.world.engine.blocked
    stage.wait(5)
    yield not stage.world.engine.blocked


def disk_full(stage: Stage) -> Iterator[bool]:
    stage.strike("disk_full")
    yield not writable(stage.world.leader.journal)
    stage.wait(61)
    yield writable(stage.world.leader.journal)


def lost_leadership(stage: Stage) -> Iterator[bool]:
    stale = stage.world.leader
    stage.strike("lost_leadership")
    yield stage.world.leader is not stale
    yield stale.alive
    yield stage.world.nodes[stage.node_of()].controller is stale
    stage.world.agents.exit(stage.world.gangs.newest["moe-1"].members[0], KILLED)
    yield not stale.alive  # its append was refused
    stage.wait(30)
    yield stage.world.job("moe").generation == 2


def checkpoint_missing(stage: Stage) -> Iterator[bool]:
    name = next(iter(stage.world.stores.shards))
    stage.strike("checkpoint_missing", name)
    yield name not in stage.world.stores.shards


def checkpoint_corrupt(stage: Stage) -> Iterator[bool]:
    name = next(iter(stage.world.stores.shards))
    stage.strike("checkpoint_corrupt", name, shards=2)
    yield sum(not shard.intact for shard in stage.world.stores.shards[name].values()) == 2


def checkpoint_torn(stage: Stage) -> Iterator[bool]:
    stage.strike("checkpoint_torn")
    stage.wait(40)
    yield stage.wrote(r.CheckpointPoisoned) == 1
    yield stage.world.job("moe").state is JobState.RUNNING


def checkpoint_slow(stage: Stage) -> Iterator[bool]:
    gang = stage.world.gangs.newest["moe-1"]
    gang.restore_id = "any"
    usual = stage.world.stores.restore_s(gang)
    stage.strike("checkpoint_slow", factor=10)
    yield stage.world.stores.restore_s(gang) == 10 * usual


def cordons(stage: Stage, name: str) -> list[tuple[str, bool]]:
    fleet = stage.world.state().fleet
    return [(c.owner, c.drain) for c in fleet.facts[fleet.index[name]].cordons]


def cordon(stage: Stage) -> Iterator[bool]:
    name = stage.node_of()
    stage.strike("cordon", name)
    yield cordons(stage, name) in ([(owner, False)] for owner in OWNERS)
    stage.wait(1_801)
    yield cordons(stage, name) == []


def drain(stage: Stage) -> Iterator[bool]:
    name = stage.node_of()
    stage.strike("drain", name)
    yield cordons(stage, name) in ([(owner, True)] for owner in OWNERS)
    stage.wait(60)
    yield not any(p.rank >= 0 for p in stage.world.nodes[name].live())


def release(stage: Stage) -> Iterator[bool]:
    node = stage.world.nodes[stage.node_of()]
    stage.strike("node_code", node.name, incurable=1)
    stage.wait(5)
    yield cordons(stage, node.name) == [("health", False)]
    stage.strike("release")
    stage.wait(1)
    yield cordons(stage, node.name) == []


def cancel(stage: Stage) -> Iterator[bool]:
    stage.strike("cancel", "moe-1")
    stage.wait(30)
    yield stage.world.job("moe").state is JobState.CANCELLED


def restart(stage: Stage) -> Iterator[bool]:
    stage.strike("restart", "moe-1")
    stage.wait(60)
    yield stage.world.job("moe").generation == 2


def pin(stage: Stage) -> Iterator[bool]:
    name = next(iter(stage.world.stores.shards))
    stage.strike("pin", name)
    yield stage.wrote(r.CheckpointPinned) == 1


def verify(stage: Stage) -> Iterator[bool]:
    name = next(iter(stage.world.stores.shards))
    before = len(stage.world.effects.sent)
    stage.strike("verify", name)
    yield any(e.kind == "verify_checkpoint" and e.items[0] == name for e in stage.world.effects.sent[before:])


SHOWS: dict[str, Callable[[Stage], Iterator[bool]]] = {
    "rack": domain("rack", "r0", 3),
    "power": domain("power", "feed0", 6),
    "superpod": domain("superpod", "pod1", 6),
    "partition": cut("partition", up=False, down=False),
    "partition_up": cut("partition_up", up=False, down=True),
    "partition_down": cut("partition_down", up=True, down=False),
    "agent_hang": cut("agent_hang", up=False, down=False),
    "crash_before_append": crash("crash_before_append", stored=False),
    "crash_after_append": crash("crash_after_append", stored=True),
    "crash_before_effects": crash("crash_before_effects", stored=True),
}
for _name in CATALOGUE:
    if _name not in SHOWS:
        SHOWS[_name] = globals()[_name]


@pytest.mark.parametrize("kind", list(CATALOGUE))
def test_a_fault_happens_in_the_world(kind: str) -> None:
    stage = Stage()
    for at, holds in enumerate(SHOWS[kind](stage)):
        assert holds, f"{kind}: what {at} asks does not hold\n" + "\n".join(stage.world.lines[-20:])
    assert stage.injector.counted[kind] >= 1
    assert CATALOGUE[kind].text


def test_a_node_whose_relay_dies_while_it_dials_is_silent() -> None:
    """Its hello is under way to a controller that is busy: no beat follows it, whatever the controller answers."""
    stage = Stage()
    world, node = stage.world, stage.world.relays.behind("relay-0")[0]
    world.agents.end_session(node, "stream reset")
    world.leader.stall(2.0)
    world.agents.hello(node)
    world.relays.lose("relay-0")
    died_ns = world.leader.clock_ns()
    stage.wait(10)
    assert not node.session
    fleet = world.state().fleet
    assert world.leader.soft.last_beat_ns(fleet.size)[fleet.index[node.name]] == died_ns
