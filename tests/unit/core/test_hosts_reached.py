"""Observations in columns say what reports of nodes say, and are believed no more than those."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.core import events as ev
from controlplane.core.draft import Answer, Refusal
from controlplane.core.effects import EffectKind
from controlplane.core.jobs import NONE, Exit
from controlplane.core.ranges import Ranges
from controlplane.core.units import NS_PER_S
from controlplane.core.vocabulary import JobState, RankState
from tests.support.world import World, spec

ALL: Ranges = ((1, 100),)
PHASES = ((RankState.JOINING, 0), (RankState.RESTORING, 1), (RankState.RESTORING, 2), (RankState.RUNNING, 3))


def waiting(ranks: int = 6) -> World:
    """A job whose processes are requested and say nothing by themselves."""
    world = World(nodes=4, accelerators=2, racks=2)
    world.cell_open = False  # the world starts nothing: the test speaks for the processes
    world.submit(spec("moe", ranks))
    assert len(world.job("moe").hosts.serial) == ranks
    return world


def tell(
    world: World, state: RankState, column: int = NONE, generation: int | None = None, **changes: object
) -> Answer | Refusal | None:
    """One event about all processes of the job, one second later."""
    world.kernel.run_until(world.now_ns + NS_PER_S)
    job = world.job("moe")
    told = job.generation if generation is None else generation
    event = ev.HostsReached("relay-0", job.uid, told, state, ALL, world.now_ns, column)
    return world.turn(replace(event, **changes))[0]  # type: ignore[arg-type] # fields of the event


def started(ranks: int = 6) -> World:
    world = waiting(ranks)
    tell(world, RankState.PARKED)
    assert world.job("moe").generation == 1
    return world


def test_a_gang_comes_to_run_by_five_events() -> None:
    world = started()
    for state, column in PHASES:
        assert tell(world, state, column) == Answer({"passed_over": "94"})
    job = world.job("moe")
    assert job.state is JobState.RUNNING
    assert (job.rank_times == job.rank_times[0]).all()
    clock = job.clock
    times = [clock.joining_ns, clock.rendezvous_ns, clock.restored_ns, clock.running_ns]
    assert times == [clock.announced_ns + k * NS_PER_S for k in (1, 2, 3, 4)]
    told = [line for line in world.lines if " HostsReached " in line]
    assert len(told) == 5
    assert all("serials=((1, 6),)" in line for line in told)


def test_columns_and_rows_say_the_same() -> None:
    columns, rows = started(), waiting()

    def tell_rows(state: RankState, column: int) -> None:
        rows.kernel.run_until(rows.now_ns + NS_PER_S)
        job = rows.job("moe")
        reports = []
        for number, facts in enumerate(rows.state().fleet.facts):
            told = []
            for at in (job.hosts.node == number).nonzero()[0].tolist():
                rank = int(job.hosts.rank[at])
                times = [int(t) for t in job.rank_times[rank]] if rank != NONE else [0, 0, 0, 0]
                if column != NONE:
                    times[column] = rows.now_ns
                same = state is RankState.RESTORING and column == 2
                since = int(job.hosts.since_ms[at]) * 1_000_000 if same else rows.now_ns
                generation = int(job.hosts.generation[at])
                serial = int(job.hosts.serial[at])
                told.append(ev.HostRow(job.uid, serial, state, rank, generation, 0, 0, since, None, *times))
            reports.append(ev.NodeReport(facts.name, "0001", hosts=tuple(told)))
        rows.turn(*reports)

    tell_rows(RankState.PARKED, NONE)
    for state, column in PHASES:
        tell(columns, state, column)
        tell_rows(state, column)
    a, b = columns.state(), rows.state()
    assert a.jobs["moe-1"].clock == b.jobs["moe-1"].clock
    assert replace(a, revision=0).to_json() == replace(b, revision=0).to_json()


def test_what_was_not_told_of_was_reached_on_the_way() -> None:
    world = started()
    tell(world, RankState.RUNNING, 3)
    job = world.job("moe")
    assert job.state is JobState.RUNNING
    assert job.clock.joining_ns == job.clock.running_ns == world.now_ns


def test_repeats_and_old_news_change_nothing() -> None:
    world = started()
    tell(world, RankState.JOINING, 0)
    tell(world, RankState.RESTORING, 1)
    before = world.state()
    tell(world, RankState.RESTORING, 1)
    tell(world, RankState.JOINING, 0, at_ns=world.now_ns - 3 * NS_PER_S)
    assert world.state() is before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"job": "nobody-9"}, "NO_SUCH_JOB"),
        ({"generation": 7}, "OLD_GENERATION"),
        ({"generation": 0}, "OLD_GENERATION"),
        ({"column": 2}, "NOT_UNIFORM"),
        ({"state": RankState.EXITED, "column": NONE}, "NOT_UNIFORM"),
        ({"state": RankState.LOST, "column": 0}, "NOT_UNIFORM"),
        ({"serials": ((1, -1),)}, "NOT_UNIFORM"),
    ],
)
def test_refused(changes: dict[str, object], reason: str) -> None:
    world = started()
    before = world.state()
    answer = tell(world, **{"state": RankState.JOINING, "column": 0, **changes})  # type: ignore[arg-type]
    assert isinstance(answer, Refusal)
    assert answer.reason == reason
    assert world.state() is before


def test_a_source_speaks_for_its_own_nodes_only() -> None:
    world = started()
    tell(world, RankState.JOINING, 0, nodes=((0, 1), (2, 1)))
    job = world.job("moe")
    joined = job.rank_times[:, 0] > 0
    assert joined.tolist() == [node in (0, 2) for node in job.rank_node.tolist()]


def test_nodes_without_a_session_and_ended_processes_are_passed_over() -> None:
    world = started()
    world.lose_agent("node-00")
    job = world.job("moe")
    gone = int(job.rank_host[5])
    exit_ = Exit(observed=True, signal=9, group_empty=False)
    row = ev.HostRow(job.uid, gone, RankState.EXITED, 5, 1, since_ns=world.now_ns, exit=exit_)
    world.turn(ev.NodeReport(world.state().fleet.name(int(job.rank_node[5])), "0001", hosts=(row,)))
    tell(world, RankState.JOINING, 0)
    job = world.job("moe")
    assert (job.rank_times[job.rank_node == 0] == 0).all()
    assert job.hosts.state[job.hosts.row(gone)] == RankState.EXITED


def test_a_patch_that_a_node_refuses_is_followed_by_the_whole_table_once() -> None:
    world = World()
    world.submit(spec("moe", 4))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.kill_rank("moe", 3)
    world.jammed.add("moe")
    world.run_until(lambda: world.job("moe").generation == 2)
    (effect,) = (e for e in world.state().effects.values() if e.kind is EffectKind.APPLY_GENERATION)
    assert effect.group
    assert effect.items == ("3",)
    other = world.process("moe", 0)[0].name
    assert other not in effect.nodes
    for _ in range(2):
        world.turn(ev.EffectDone(effect.id, False, "need full table", other))
    whole = [e for e in world.state().effects.values() if e.kind is EffectKind.APPLY_GENERATION and e.full]
    assert [e.target for e in whole] == [f"node:{other}"]
    world.turn(ev.EffectDone(effect.id, False, "need full table", effect.nodes[0]))
    assert len(world.state().effects) == 2, "who has the whole table cannot be helped with it"
    world.jammed.clear()
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    assert not any(e.kind is EffectKind.APPLY_GENERATION for e in world.state().effects.values())
