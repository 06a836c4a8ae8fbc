"""What nodes say that they hold: columns for the core, of one generation, with limits."""

from __future__ import annotations

import numpy as np
import pytest
from phalanx.v1 import agent_pb2

from controlplane.core.recovery.restore_point import NO_STEP, Tier
from controlplane.engine.held import (
    DISK,
    MEMORY,
    MEMORY_UNIQUE,
    MOST_JOBS,
    MOST_STATES,
    REPLICATED,
    SURVIVOR,
    HeldRows,
    HeldStates,
)
from controlplane.rpc.progress import LARGEST_STEP, MOST_HELD, rows_of

Row = tuple[int, int, int]


def told(*rows: Row) -> HeldRows:
    ranks, steps, kinds = zip(*rows, strict=True) if rows else ((), (), ())
    return HeldRows(np.array(ranks, dtype=np.int32), np.array(steps, dtype=np.int64), np.array(kinds, dtype=np.uint8))


def said(nodes: dict[int, list[Row]], ranks: int = 4) -> HeldStates:
    held = HeldStates()
    for node, rows in nodes.items():
        held.tell("j", ranks, 1, node, told(*rows))
    return held


def cells(held: HeldStates) -> set[tuple[int, int, int, int, bool]]:
    """(rank, step, owner, tier, partial) of all that is held."""
    copies = held.copies("j")
    assert copies.partial is not None
    return {
        (rank, int(copies.step[rank, k]), int(copies.owner[rank, k]), int(copies.tier[rank, k]), bool(copies.partial[rank, k]))
        for rank, k in zip(*np.nonzero(copies.step != NO_STEP), strict=True)
    }  # fmt: skip


def test_rows_of_nodes_become_columns_of_ranks() -> None:
    held = said({5: [(0, 7, SURVIVOR), (0, 7, MEMORY), (1, 6, MEMORY)], 2: [(0, 6, MEMORY_UNIQUE)], 9: []})
    assert cells(held) == {
        (0, 7, 5, Tier.SURVIVOR, False), (0, 7, 5, Tier.MEMORY, False), (1, 6, 5, Tier.MEMORY, False),
        (0, 6, 2, Tier.MEMORY, True),
    }  # fmt: skip
    copies = held.copies("j")
    assert copies.told is not None
    assert (copies.told.tolist(), copies.replicated, copies.intact.sum()) == ([2, 5, 9], False, 4)


def test_a_node_replaces_what_it_said() -> None:
    held = said({5: [(0, 7, MEMORY)]})
    held.tell("j", 4, 1, 5, told((0, 8, MEMORY)))
    assert {cell[1] for cell in cells(held)} == {8}


def test_nobody_has_said_anything_of_another_job() -> None:
    assert said({5: [(0, 7, MEMORY)]}).copies("other").told is None


def test_replicas_that_hold_all_say_so() -> None:
    assert said({5: [(0, 7, MEMORY | REPLICATED)]}).copies("j").replicated


def test_a_generation_that_begins_knows_nothing_and_remembers_where_it_starts_from() -> None:
    held = said({5: [(0, 7, MEMORY), (1, 7, SURVIVOR), (2, 6, MEMORY)], 6: [(0, 7, MEMORY_UNIQUE)]})
    held.rewind("j", 2)
    copies = held.copies("j")
    assert copies.told is not None
    assert (len(copies.told), copies.step.size) == (0, 0)
    ranks, nodes = held.sources("j", 2, 7)
    assert sorted(zip(ranks.tolist(), nodes.tolist(), strict=True)) == [(0, 5), (0, 6)], "a process lends nothing"
    held.tell("j", 4, 1, 5, told((0, 9, MEMORY)))  # of the generation before
    assert held.copies("j").step.size == 0
    assert held.sources("j", 2, 9)[0].size == 0


def test_after_a_failure_one_generation_starts_elsewhere() -> None:
    held = said({5: [(0, 7, MEMORY)]})
    held.distrust("j")
    assert held.copies("j").told is None, "nobody is waited for"
    held.rewind("j", 2)
    held.tell("j", 4, 2, 5, told((0, 8, MEMORY)))
    assert {cell[1] for cell in cells(held)} == {8}


def test_a_job_that_has_ended_is_forgotten() -> None:
    held = said({5: [(0, 7, MEMORY)]})
    held.forget("j")
    assert held.copies("j").told is None


def test_jobs_and_states_of_a_rank_have_limits() -> None:
    held = said({node: [(0, step, MEMORY) for step in range(1, 6)] for node in range(4)} | {9: [(7, 1, MEMORY)]})
    assert held.copies("j").step.shape == (4, MOST_STATES), "and no rank that the job does not have"
    for number in range(MOST_JOBS + 5):
        held.tell(f"job-{number}", 1, 1, 0, told((0, 1, MEMORY)))
    assert held.copies(f"job-{MOST_JOBS + 4}").told is None
    assert held.copies("job-0").told is not None


def message(*rows: Row, **other: object) -> agent_pb2.HeldStates:
    made = agent_pb2.HeldStates(
        ranks=[row[0] for row in rows], steps=[row[1] for row in rows], kinds=bytes(row[2] for row in rows)
    )
    made.MergeFrom(agent_pb2.HeldStates(**other))  # type: ignore[arg-type]
    return made


def test_good_rows_are_taken() -> None:
    rows = rows_of(message((0, 7, SURVIVOR), (3, LARGEST_STEP, MEMORY | REPLICATED)), 4)
    assert rows is not None
    assert (rows.ranks.tolist(), rows.steps.tolist(), rows.kinds.tolist()) == ([0, 3], [7, LARGEST_STEP], [1, 18])
    assert rows_of(message(), 4) is not None


BAD = {
    "a rank too many": message((4, 7, MEMORY)),
    "the largest rank": message((2**32 - 1, 7, MEMORY)),
    "a huge step": message((0, LARGEST_STEP + 1, MEMORY)),
    "no kind": message((0, 7, 0)),
    "an unknown kind": message((0, 7, 5)),
    "unknown bits": message((0, 7, MEMORY | 0x20)),
    "fewer kinds": message((0, 7, MEMORY), ranks=[1], steps=[7]),
    "fewer steps": message((0, 7, MEMORY), ranks=[1], kinds=b"\x02"),
    "too many": message(*[(0, 7, MEMORY)] * (MOST_HELD + 1)),
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD.keys())
def test_nonsense_is_not_taken(sent: agent_pb2.HeldStates) -> None:
    assert rows_of(sent, 4) is None


def sure(held: HeldStates, steps: dict[int, int] | None = None, heard_ns: int = 0) -> list[int]:
    """Nodes that count as having told."""
    told_of = held.copies("j", lambda: steps or {}, lambda _node: heard_ns).told
    assert told_of is not None
    return told_of.tolist()


def test_what_is_said_of_ranks_that_run_counts_once_a_later_beat_shows_that_they_stand() -> None:
    held = HeldStates()
    held.tell("j", 4, 1, 5, told((0, 7, SURVIVOR), (0, 6, MEMORY)), stopped=False, now_ns=100)
    assert sure(held, {0: 7}, heard_ns=100) == [], "no later beat"
    assert sure(held, {0: 8}, heard_ns=200) == [], "it has gone on"
    assert sure(held, {0: 7}, heard_ns=200) == [5]
    assert (0, 7, 5, Tier.SURVIVOR, False) in cells(held), "it is known all the same"


def test_what_is_said_of_ranks_that_stopped_counts_at_once_and_stays() -> None:
    held = HeldStates()
    held.tell("j", 4, 1, 5, told((0, 7, SURVIVOR)), stopped=False, now_ns=100)
    held.tell("j", 4, 1, 5, told((0, 8, SURVIVOR)), now_ns=200)
    assert sure(held, {0: 9}) == [5]
    held.tell("j", 4, 1, 5, told((0, 8, SURVIVOR), (0, 8, MEMORY)), stopped=False, now_ns=300)
    assert sure(held, {0: 9}) == [5], "a beat takes nothing back"


def test_ranks_that_have_not_all_their_state_make_no_step() -> None:
    held = HeldStates()
    held.tell("j", 4, 1, 5, told((0, 7, MEMORY)))
    held.rewind("j", 2)
    held.tell("j", 4, 2, 5, told((0, 7, MEMORY)), stopped=False, now_ns=100)
    assert sure(held) == [5]
    held.moves("j", 1)  # of the generation before
    assert sure(held) == [5]
    held.moves("j", 2)
    assert sure(held) == []
    held.rewind("j", 3)
    held.tell("j", 4, 3, 5, told((0, 9, MEMORY)), stopped=False, now_ns=200)
    assert sure(held) == [5]


def test_what_lies_on_a_disk_is_sure_without_another_beat_and_the_last_to_be_lent() -> None:
    """A machine that comes back has no ranks that could have gone on."""
    held = said({5: [(0, 7, MEMORY)]})
    held.tell("j", 4, 1, 6, told((0, 7, DISK), (1, 7, DISK | REPLICATED)), stopped=False, now_ns=1)
    copies = held.copies("j", lambda: {0: 99, 1: 99})
    assert copies.told is not None
    assert copies.told.tolist() == [5, 6]
    assert (0, 7, 6, Tier.LOCAL_DISK, False) in cells(held)
    held.rewind("j", 2)
    ranks, nodes = held.sources("j", 2, 7)
    assert list(zip(ranks.tolist(), nodes.tolist(), strict=True)) == [(0, 5), (0, 6), (1, 6)]


def test_a_node_that_begins_anew_holds_what_it_says_then() -> None:
    held = said({5: [(0, 7, MEMORY)], 6: [(1, 7, MEMORY)]})
    held.leave(5)
    assert {owner for _, _, owner, _, _ in cells(held)} == {6}
