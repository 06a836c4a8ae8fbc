"""When ranks save: all at the same step, whoever is asked, and none while one of them still writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from phalanx.v1 import agent_pb2, local_pb2, types_pb2

from agents.rank.assignment import assignment_from
from agents.rank.control import Control
from agents.rank.generation import Generation
from agents.rank.outbox import RankFacts
from agents.rank.saving import MOST_GAP, SaveOrder, SaveSchedule
from tests.fixtures.rank_threads import local_group, on_ranks

RANKS = 4
SOON_S = 60.0


class Gang:
    """Ranks as threads that reduce as collectives do: all of them at the same steps, or the test fails."""

    def __init__(self, every: int, busy: Callable[[int, int], bool] = lambda rank, step: False) -> None:
        self.orders = [SaveOrder() for _ in range(RANKS)]
        self.saved: list[list[int]] = [[] for _ in range(RANKS)]
        self.late: list[tuple[int, int]] = []
        self.looks = 0
        self._every = every
        self._busy = busy
        self._rows: list[list[int]] = [[] for _ in range(RANKS)]
        self._largest: list[int] = []
        self._meet = threading.Barrier(RANKS, action=self._reduce, timeout=30)

    def _reduce(self) -> None:
        self.looks += 1
        self._largest = [max(column) for column in zip(*self._rows, strict=True)]

    def run(self, steps: int, at_step: Callable[[int, int], None] = lambda rank, step: None) -> list[int]:
        """Make steps; `at_step(rank, step)` before each decision. The steps that all have saved."""
        failed: list[BaseException] = []

        def rank_main(rank: int) -> None:
            def agree(row: list[int]) -> list[int]:
                self._rows[rank] = row
                self._meet.wait()
                return self._largest

            def late(step: int) -> None:
                self.late.append((rank, step))

            schedule = SaveSchedule(1, self._every, self.orders[rank], agree, late)
            try:
                for step in range(1, steps + 1):
                    at_step(rank, step)
                    if schedule.due(step, busy=self._busy(rank, step)):
                        self.saved[rank].append(step)
            except BaseException as error:  # noqa: BLE001  told by the test's own thread
                failed.append(error)
                self._meet.abort()

        threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(RANKS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed
        assert all(saved == self.saved[0] for saved in self.saved), self.saved
        return self.saved[0]

    def ask(self, rank: int, generation: int = 1, patience_s: float = SOON_S) -> None:
        """The agent of one rank asks."""
        self.orders[rank].until = time.monotonic() + patience_s
        self.orders[rank].generation = generation


def test_regular_saves_come_at_their_steps() -> None:
    assert Gang(every=5).run(23) == [5, 10, 15, 20]


def test_a_job_without_saves_looks_at_nothing() -> None:
    gang = Gang(every=0)
    gang.ask(2)
    assert gang.run(10) == []
    assert not gang.looks


@pytest.mark.parametrize("asked", range(RANKS))
def test_one_rank_that_is_asked_makes_all_save_at_one_step_and_once(asked: int) -> None:
    gang = Gang(every=10_000)

    def at_step(rank: int, step: int) -> None:
        if rank == asked and step == 3:
            gang.ask(rank)

    saved = gang.run(2 * MOST_GAP + 10, at_step)
    assert len(saved) == 1
    assert 3 <= saved[0] <= MOST_GAP + 3


def test_ranks_that_are_asked_at_different_steps_save_once() -> None:
    """The second is still asked when the first save is decided: it is the same save."""
    gang = Gang(every=40)

    def at_step(rank: int, step: int) -> None:
        if step == 1 and rank in (0, 3):
            gang.ask(rank)

    assert gang.run(39, at_step) == [1]


def test_an_order_of_another_generation_or_too_old_is_none() -> None:
    gang = Gang(every=40)
    gang.ask(0, generation=2)
    gang.ask(1, patience_s=-1.0)
    assert gang.run(30) == []


def test_a_rank_that_still_writes_puts_the_save_of_all_off_and_is_named_once() -> None:
    gang = Gang(every=5, busy=lambda rank, step: rank == 2 and 5 <= step <= 17)
    saved = gang.run(22)
    assert saved == [18, 20], "as soon as nobody is busy, and then at the regular steps again"
    assert gang.late == [(2, 5)]


def test_short_steps_are_looked_at_now_and_then_only() -> None:
    gang = Gang(every=100_000)
    gang.run(3 * MOST_GAP)
    assert gang.looks < MOST_GAP, "steps that take microseconds"


def test_long_steps_are_looked_at_every_time() -> None:
    schedule = SaveSchedule(1, 1_000, SaveOrder(), lambda row: row, lambda step: None)
    assert schedule._gap(1, 1.0) == 1
    assert schedule._gap(2, 11.0) == 1
    assert schedule._gap(3, 11.015625) == 16
    assert schedule._gap(3, 11.5) == 1, "a step that is told twice"
    assert schedule._gap(4, 11.5) == 1, "a clock that stands still"


class Told:
    """What a generation reports through its context."""

    def __init__(self) -> None:
        self.sent: list[local_pb2.LocalRequest] = []

    def facts(self) -> RankFacts:
        return RankFacts(types_pb2.RANK_STATE_RUNNING)

    def report(self, facts: RankFacts) -> None:
        del facts

    def send(self, key: tuple[str | int, ...], message: Any, *, acknowledged: bool) -> None:
        del key, acknowledged
        self.sent.append(message(0.0))


def generation_of(rank: int, told: Told, folder: Path) -> tuple[Generation, Control]:
    body = agent_pb2.ApplyGeneration(
        job_uid="job-1", generation=3, world_size=RANKS, checkpoint_folder=str(folder / "g3"), checkpoint_every_steps=6,
        rows=[agent_pb2.RankRow(rank=other, node="n1", address="127.0.0.1") for other in range(RANKS)],
    )  # fmt: skip
    control = Control()
    return Generation(assignment_from(local_pb2.Assignment(generation=body, rank=rank)), control, told), control


def test_generations_agree_over_real_groups(tmp_path: Path) -> None:
    """Rank 1 is asked, rank 3 still writes when the regular save is due and then cannot write at all."""

    def rank_main(rank: int, store: dist.Store) -> tuple[list[int], list[agent_pb2.SaveFinding]]:
        told = Told()
        generation, control = generation_of(rank, told, tmp_path)
        with pytest.raises(RuntimeError, match=r"call join\(\) first"):
            generation.save_due(1)
        generation._groups["world"] = local_group(store, "world", tuple(range(RANKS)), rank)
        saved = []
        for step in range(1, 13):
            if step == 2 and rank == 1:
                control.save_order.until = time.monotonic() + SOON_S
                control.save_order.generation = 3
            if generation.save_due(step, busy=rank == 3 and step in (6, 7)):
                saved.append(step)
                if rank == 3:
                    generation.save_failed(step, "No space left on device" * 100)
        generation.drop()
        return saved, [request.save_finding for request in told.sent]

    outcomes = on_ranks(RANKS, rank_main)
    saves = [saved for saved, _ in outcomes]
    assert all(saved == saves[0] for saved in saves)
    assert saves[0] == [2, 8, 12], "on request, put off from 6, regular"
    assert all(not findings for _, findings in outcomes[:3])
    late = next(found for found in outcomes[3][1] if found.word == agent_pb2.SAVE_WORD_SLOW)
    failed = [found for found in outcomes[3][1] if found.word == agent_pb2.SAVE_WORD_FAILED]
    assert (late.step, late.rank, late.generation) == (6, 3, 3)
    assert [found.step for found in failed] == saves[0]
    assert all(len(found.reason) == 500 for found in failed)
