"""Spares of one pool, memory copies and doubt over random histories: every turn keeps the invariants, and afterwards spares are
refilled (L3) and replay gives the same state."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from controlplane.core import events as ev
from controlplane.core.draft import Policy
from controlplane.core.placement.gang import refill_spares
from controlplane.core.placement.pool import before
from controlplane.core.placement.spares import SparePlan
from controlplane.core.spec import AUTO, CheckpointPolicy, SparePolicy
from controlplane.core.state import State
from controlplane.core.vocabulary import JobState
from controlplane.engine.recover import load
from tests.support.world import World, spec

NODES = 9
POLICY = Policy(spares=SparePlan(prior_per_node_day=0.2, prior_node_days=1.0))
JOBS = (("low", 0, SparePolicy(AUTO)), ("mid", 5, SparePolicy(1, 0, 1)), ("high", 9, SparePolicy(AUTO)))
WORDS = ("destroy", "destroy", "repair", "kill", "checkpoint", "checkpoint", "poison", "clear", "corrupt", "cordon")

acts = st.tuples(st.sampled_from(WORDS), st.integers(0, 8), st.sampled_from([0.3, 2.0, 6.0]))


def act(world: World, what: str, pick: int) -> None:
    """One thing happens."""
    node, name = f"node-{pick % NODES:02d}", JOBS[pick % len(JOBS)][0]
    job = world.job(name)
    newest = max((c.id for c in job.checkpoints.values()), default="")
    match what:
        case "destroy" if world.nodes[node].up:
            world.destroy(node)
        case "repair" if not world.nodes[node].up:
            world.repair(node)
        case "kill":
            world.kill_rank(name, 0)
        case "checkpoint" if job.state is JobState.RUNNING:
            world.checkpoint(name, world.gangs.step(job.uid))
        case "corrupt":
            world.corrupt.add(newest)
        case "poison":
            world.turn(ev.PoisonCheckpoint("", name, newest, "odd"))
        case "clear":
            world.turn(ev.ClearCheckpoints("", name, "ann", "fine"))
        case "cordon":
            world.turn(ev.CordonNode("", node, "ann", "look"))


def still_short(state: State) -> list[str]:
    """Running jobs that could hold another spare and do not."""
    jobs = state.active_jobs()
    running = [job for job in jobs if job.state is JobState.RUNNING]
    return [job.name for job in running if refill_spares(state.fleet, job, before(job, jobs)) != job.spare_nodes]


@settings(
    max_examples=8, deadline=None, derandomize=True, database=None, phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(st.lists(acts, min_size=5, max_size=12))
def test_spares_come_back_and_nothing_good_is_lost(history: list[tuple[str, int, float]]) -> None:
    world = World(NODES, accelerators=2, racks=3, policy=POLICY)
    world.keeps_copies.add("mid")
    for name, priority, spares in JOBS:
        policy = CheckpointPolicy(every_steps=AUTO, keep=2)
        world.submit(spec(name, 2, spares=spares, priority=priority, checkpoint=policy))
    world.run(6.0)
    for what, pick, then_s in history:
        act(world, what, pick)
        world.run(then_s)
    for number in range(NODES):
        act(world, "repair", number)
        world.turn(ev.UncordonNode("", f"node-{number:02d}", "ann"))
    world.run(60.0)
    state = world.state()
    assert [job.name for job in state.active_jobs() if job.state is JobState.RUNNING] == [name for name, *_ in JOBS]
    assert still_short(state) == []
    assert load(world.journal.open_again()).digest() == state.digest()
    assert sum(state.ledger.site.values()) == state.ledger.device_ns


def test_the_history_can_break_it() -> None:
    """The check at the end is not empty: a site whose spare was just taken is short."""
    world = World(3, accelerators=2, racks=3)
    world.submit(spec("moe", 2, spares=SparePolicy(1)))
    world.run(6.0)
    state = world.state().fork()
    job = state.own_job(world.job("moe").uid)
    state.own_fleet().reserved = state.fleet.reserved * 0 - 1
    job.spare_nodes = ()
    assert still_short(state) == ["moe"]
