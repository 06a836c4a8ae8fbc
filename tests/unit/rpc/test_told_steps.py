"""Steps of many beats become columns: bounded, in order with what else a node says, and of the current generation only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from phalanx.v1 import agent_pb2

from controlplane.core.vocabulary import JobState
from controlplane.engine.soft import SoftColumns
from controlplane.rpc import told_steps
from controlplane.rpc.progress import ProgressGate
from controlplane.rpc.told_steps import LARGEST, TOGETHER_S, ToldSteps
from tests.support.world import World, spec

HUGE = 2**64 - 1
NOW = 10**18


class Bench:
    """A running job of four ranks on two nodes, and steps on their way to the soft state."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.world = World(2)
        self.world.submit(spec())
        self.world.run_until(lambda: self.world.job("moe").state is JobState.RUNNING)
        self.soft = SoftColumns(0)
        self.refused = 0
        self.told = ToldSteps(ProgressGate(self.soft), self.world.state, self.count, loop)

    def count(self, rows: int) -> None:
        self.refused += rows

    def row(self, rank: int, step: int, **changes: object) -> agent_pb2.StepProgress:
        job = self.world.job("moe")
        row = agent_pb2.StepProgress(
            job_uid=job.uid, rank=rank, generation=job.generation, step=step, loss=0.5, step_time_s=2.0
        )
        for name, value in changes.items():
            setattr(row, name, value)
        return row

    def node_of(self, rank: int) -> int:
        return int(self.world.job("moe").rank_node[rank])

    @property
    def by_rank(self) -> dict[int, int]:
        return self.soft.view(self.world.job("moe").uid).by_rank


def with_bench(check: Callable[[Bench], None]) -> None:
    """Run a check with a loop that nobody runs meanwhile."""
    loop = asyncio.new_event_loop()
    try:
        check(Bench(loop))
    finally:
        loop.close()


def test_steps_of_several_nodes_are_told_together_and_in_time() -> None:
    async def check() -> None:
        bench = Bench(asyncio.get_running_loop())
        for rank in range(4):
            bench.told.take(bench.node_of(rank), [bench.row(rank, 7 + rank, age_ms=5)], NOW)
        assert bench.by_rank == {}
        await asyncio.sleep(TOGETHER_S * 2)
        assert bench.by_rank == {0: 7, 1: 8, 2: 9, 3: 10}
        assert bench.soft.progress(bench.world.job("moe").uid) == (10, NOW - 5_000_000)
        bench.told.take(bench.node_of(0), [bench.row(0, 12)], NOW)
        await asyncio.sleep(TOGETHER_S * 2)
        assert bench.by_rank[0] == 12, "the next ones too"

    asyncio.run(check())


def test_what_a_node_says_next_comes_after_its_steps() -> None:
    def check(bench: Bench) -> None:
        bench.told.take(bench.node_of(0), [bench.row(0, 7)], NOW)
        bench.told.tell_of(bench.node_of(0) + 1)
        assert bench.by_rank == {}, "another node may go on"
        bench.told.tell_of(bench.node_of(0))
        assert bench.by_rank == {0: 7}

    with_bench(check)


def test_rows_that_are_of_no_use_are_counted_and_left_out() -> None:
    def check(bench: Bench) -> None:
        rows = [
            bench.row(0, 3, generation=99),
            bench.row(0, 3, job_uid="nobody"),
            bench.row(3, 3),  # of another node
            bench.row(2**32 - 1, 3),
            bench.row(0, 0),
            bench.row(0, 5),
        ]
        bench.told.take(bench.node_of(0), rows, NOW)
        bench.told.tell()
        assert bench.by_rank == {0: 5}
        assert bench.refused == 4, "a row without a step says nothing, and is no offence"

    with_bench(check)


def test_numbers_that_no_column_holds_are_cut() -> None:
    def check(bench: Bench) -> None:
        bench.told.take(bench.node_of(0), [bench.row(0, HUGE, age_ms=HUGE)], NOW)
        bench.told.tell()
        assert bench.by_rank == {0: LARGEST}
        assert bench.soft.progress(bench.world.job("moe").uid) == (LARGEST, NOW - LARGEST * 10**6)

    with_bench(check)


def test_rows_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told_steps, "MOST_ROWS", 2)

    def check(bench: Bench) -> None:
        bench.told.take(bench.node_of(0), [bench.row(0, 1)], NOW)
        assert bench.by_rank == {}
        bench.told.take(bench.node_of(1), [bench.row(1, 1)], NOW)
        assert bench.by_rank == {0: 1, 1: 1}

    with_bench(check)
