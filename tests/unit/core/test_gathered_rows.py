"""What many nodes tell in one turn is one record, and the same truth as if each had told it in a turn of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.apply import apply
from controlplane.core.checkpoints import Checkpoint, Shard, ShardFile, checkpoint_id
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.jobs import Exit
from controlplane.core.machine import Machine
from controlplane.core.observing import gathered, hosts
from controlplane.core.vocabulary import CheckpointState, JobState, RankState
from controlplane.engine.turn import Request, decide
from controlplane.sim.observer import Observer, Turn
from controlplane.sim.world import site
from tests.support.world import World, spec

STEP = 20


class Kept(Observer):
    """Keeps the records of all turns."""

    def __init__(self) -> None:
        self.records: list[r.Record] = []

    def on_turn(self, turn: Turn, world: site.World) -> None:
        self.records.extend(turn.result.records)


def running(ranks: int = 8) -> tuple[World, Kept]:
    world = World(nodes=4, accelerators=2)
    world.submit(spec("moe", ranks))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    kept = Kept()
    world.observers = (*world.observers, kept)
    return world, kept


def shard(world: World, rank: int, **changes: object) -> ev.ShardRow:
    job = world.job("moe")
    folder = f"/s/{checkpoint_id(job.uid, job.generation, STEP)}"
    file = ShardFile(f"r{rank}", 10, "0" * 64)
    row = ev.ShardRow(job.uid, job.generation, STEP, rank, folder, (file,), rank + 1, world.now_ns + rank)
    return replace(row, **changes)  # type: ignore[arg-type] # fields of the row


def by_node(world: World, rows: Sequence[ev.ShardRow]) -> list[ev.NodeReport]:
    """A report of each node that holds ranks, with the shards of its ranks."""
    nodes: dict[int, list[ev.ShardRow]] = {}
    for row in rows:
        nodes.setdefault(int(world.job("moe").rank_node[row.rank]), []).append(row)
    fleet = world.state().fleet
    return [
        ev.NodeReport(fleet.name(number), fleet.facts[number].boot_id, shards=tuple(told))
        for number, told in nodes.items()
    ]


def saved(world: World) -> Checkpoint:
    job = world.job("moe")
    return job.checkpoints[checkpoint_id(job.uid, job.generation, STEP)]


def test_shards_of_one_turn_are_one_record() -> None:
    world, kept = running()
    world.turn(*by_node(world, [shard(world, rank) for rank in range(8)]))
    told = [record for record in kept.records if isinstance(record, r.ShardsReported)]
    assert [[part.rank for part in record.shards] for record in told] == [list(range(8))]
    assert saved(world).state is CheckpointState.COMMITTED
    assert (saved(world).save_stall_ns, saved(world).reached_ns) == (
        8,
        max(part.reached_ns for part in saved(world).shards),
    )


def test_one_turn_or_many_give_the_same_checkpoint() -> None:
    together, _ = running()
    apart, _ = running()
    rows = [shard(together, rank) for rank in range(7)]
    together.turn(*by_node(together, rows))
    for row in rows:
        apart.turn(*by_node(apart, [row]))
    assert saved(together) == saved(apart)
    assert saved(together).state is CheckpointState.WRITING
    assert [saved(together).has(rank) for rank in range(9)] == [True] * 7 + [False] * 2


def test_what_does_not_count_alone_does_not_count_among_others() -> None:
    world, kept = running()
    node, *others = by_node(world, [shard(world, rank) for rank in range(8)])
    known = node.shards[0]
    wrong = (
        replace(known, generation=known.generation + 1),
        replace(known, folder="/s/of-somebody-else"),
        replace(known, files=(ShardFile("../../etc/passwd", 1, "0" * 64),)),
        replace(known, rank=8),
        replace(known, rank=-1),
        replace(others[0].shards[0], save_stall_ns=99),
        known,
        replace(known, save_stall_ns=99),
    )
    world.turn(replace(node, shards=wrong))
    told = [record for record in kept.records if isinstance(record, r.ShardsReported)]
    assert [record.shards for record in told] == [
        (Shard(known.rank, known.files, known.save_stall_ns, known.reached_ns),)
    ]
    world.turn(replace(node, shards=(known,)))
    assert len([record for record in kept.records if isinstance(record, r.ShardsReported)]) == 1


def test_a_record_never_holds_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    world, kept = running()
    monkeypatch.setattr(gathered, "MAX_SHARDS", 3)
    world.turn(*by_node(world, [shard(world, rank) for rank in range(8)]))
    told = [record for record in kept.records if isinstance(record, r.ShardsReported)]
    assert [len(record.shards) for record in told] == [3, 3, 2]
    assert saved(world).state is CheckpointState.COMMITTED


def paused(world: World) -> list[ev.NodeReport]:
    """A report of each node: its ranks have paused."""
    job, fleet = world.job("moe"), world.state().fleet
    reports = []
    for number in job.nodes():
        mine = [int(serial) for serial in job.rank_host[job.rank_node == number]]
        rows = tuple(
            ev.HostRow(
                job.uid, serial, RankState.PAUSED, int(job.hosts.rank[job.hosts.row(serial)]), job.generation,
                int(job.hosts.pid[job.hosts.row(serial)]), 0, world.now_ns,
            )
            for serial in mine
        )  # fmt: skip
        reports.append(ev.NodeReport(fleet.name(number), fleet.facts[number].boot_id, hosts=rows))
    return reports


def test_living_processes_of_one_turn_are_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    world, kept = running()
    reports = paused(world)
    world.turn(*reports)
    observed = [record for record in kept.records if isinstance(record, r.HostsObserved)]
    assert [(record.nodes, len(record.rows)) for record in observed] == [((0, 1, 2, 3), 8)]
    held = world.job("moe").hosts
    assert (held.state[held.rank >= 0] == RankState.PAUSED).all()
    before = len(kept.records)
    world.turn(*reports)
    assert len(kept.records) == before, "a repeat says nothing"
    monkeypatch.setattr(hosts, "MAX_ROWS", 5)
    later = [replace(report, hosts=tuple(replace(row, pid=77) for row in report.hosts)) for report in reports]
    world.turn(*later)
    assert [
        (record.nodes, len(record.rows)) for record in kept.records[before:] if isinstance(record, r.HostsObserved)
    ] == [
        ((0, 1, 2), 5),
        ((2, 3), 3),
    ]


def test_what_a_node_says_next_is_judged_on_what_it_said_before() -> None:
    world, _ = running()
    report = paused(world)[0]
    row = report.hosts[0]
    ended = replace(row, state=RankState.EXITED, exit=Exit(observed=True, code=1, group_empty=True))
    world.turn(report, replace(report, hosts=(ended,)))
    at = world.job("moe").hosts.row(row.serial)
    assert at == -1, "it ended, and is forgotten"
    world.turn(replace(report, hosts=(row,)))
    assert world.job("moe").hosts.row(row.serial) == -1, "a late word brings nothing back"


def test_an_end_that_another_node_tells_comes_before_living_rows() -> None:
    world, _ = running()
    first, second, *_ = paused(world)
    row = second.hosts[0]
    ended = replace(row, state=RankState.EXITED, exit=Exit(observed=True, code=1, group_empty=True))
    world.turn(first, replace(second, hosts=(ended,)), *paused(world)[2:])
    job = world.job("moe")
    assert job.state is JobState.RECOVERING
    assert job.hosts.row(row.serial) == -1
    assert job.hosts.state[job.hosts.row(first.hosts[0].serial)] == RankState.PAUSED


def test_effects_that_are_done_in_one_turn_are_one_record() -> None:
    world, _ = running()
    issue = [Effect(f"x{k}", EffectKind.SWEEP_FOLDERS, "node:node-00", world.now_ns) for k in range(4)]
    done = [ev.EffectDone(effect.id, ok=True, message="") for effect in issue]
    refused = ev.EffectDone("x3", ok=False, message="no space")
    working = world.state().fork()
    apply(working, r.EffectsIssued(tuple(issue)), world.now_ns)
    events = [done[0], done[1], paused(world)[0], done[0], refused, done[2], done[2]]
    result = decide(Machine(), working, [Request(event) for event in events], world.now_ns, world.soft)
    ends = [(record.ids, record.ok) for record in result.records if isinstance(record, r.EffectsFinished)]
    assert ends == [(("x0", "x1"), True), (("x3",), False), (("x2",), True)]
    assert not any(effect.id in result.state.effects for effect in issue)
