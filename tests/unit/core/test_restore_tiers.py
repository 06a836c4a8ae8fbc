"""The restore point over tiers: newest step for which every rank's state exists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.core.checkpoints import Checkpoint, checkpoint_id
from controlplane.core.recovery.restore_point import NO_STEP, Copies, StepTag, Tier, restore_point, whole_step
from controlplane.core.vocabulary import CheckpointState

SELF, PEER, DISK = Tier.SURVIVOR, Tier.MEMORY, Tier.LOCAL_DISK


def held(*rows: list[tuple[int, Tier] | None], torn: tuple[tuple[int, int], ...] = ()) -> Copies:
    """One list per rank: (step, tier) of each state that somebody holds of it; node 10 x rank + column holds it."""
    width = max(len(row) for row in rows)
    step = np.full((len(rows), width), NO_STEP, dtype=np.int64)
    tier = np.full((len(rows), width), Tier.START, dtype=np.uint8)
    for rank, row in enumerate(rows):
        for column, entry in enumerate(row):
            if entry is not None:
                step[rank, column], tier[rank, column] = entry
    owner = 10 * np.arange(len(rows), dtype=np.int32)[:, None] + np.arange(width, dtype=np.int32)
    intact = np.ones(step.shape, dtype=bool)
    for at in torn:
        intact[at] = False
    return Copies(step, owner, tier, intact)


def ranks(count: int) -> np.ndarray:
    """All of them take part."""
    return np.ones(count, dtype=bool)


def manifest(step: int, state: CheckpointState = CheckpointState.COMMITTED) -> Checkpoint:
    return Checkpoint(checkpoint_id("j", 1, step), 1, step, f"/s/{step}", state, committed_ns=1)


@pytest.mark.parametrize(
    ("tag", "held_step"), [(StepTag.COMPUTING, 6), (StepTag.OPTIMIZER, NO_STEP), (StepTag.DONE, 7)]
)
def test_the_tag_says_which_step_a_survivor_stands_for(tag: StepTag, held_step: int) -> None:
    assert whole_step(np.array([7]), np.array([tag], dtype=np.uint8)).tolist() == [held_step]


TABLE = [
    # nothing anywhere
    ("start", Copies.none(), [], 0, "", {"start": 2}),
    # shared storage only, as in production
    ("shared", Copies.none(), [manifest(20)], 20, "j/g1/step-20", {"shared": 2}),
    ("poisoned", Copies.none(), [manifest(20), manifest(40, CheckpointState.POISONED)], 20, "j/g1/step-20", {"shared": 2}),
    ("writing", Copies.none(), [manifest(20, CheckpointState.WRITING)], 0, "", {"start": 2}),
    # the survivor's own state and the lost rank's copy in another node's memory, one step apart from the disk
    ("memory", held([(41, SELF)], [(41, PEER)]), [manifest(40)], 41, "", {"survivor": 1, "memory": 1}),
    # one rank was a step further: the step that both have counts
    ("uneven", held([(42, SELF), (41, PEER)], [(41, PEER)]), [manifest(20)], 41, "", {"memory": 2}),
    # the copy is damaged: fall back to the older one, and then to the manifest
    ("torn copy", held([(41, SELF), (40, PEER)], [(41, PEER), (40, PEER)], torn=((1, 0),)), [], 40, "", {"memory": 2}),
    ("torn both", held([(41, SELF)], [(41, PEER)], torn=((1, 0),)), [manifest(20)], 20, "j/g1/step-20", {"shared": 2}),
    # nobody kept the lost rank's state
    ("lost holder", held([(41, SELF)], [None]), [manifest(20)], 20, "j/g1/step-20", {"shared": 2}),
    # the cheapest tier at one step
    ("cheapest", held([(41, DISK), (41, SELF)], [(41, DISK), (41, PEER)]), [], 41, "", {"survivor": 1, "memory": 1}),
    # the manifest's own step: those who have it at hand do not read it
    ("at the manifest", held([(20, SELF)], [None]), [manifest(20)], 20, "j/g1/step-20", {"survivor": 1, "shared": 1}),
    # older than the manifest is of no use
    ("old copies", held([(10, SELF)], [(10, PEER)]), [manifest(20)], 20, "j/g1/step-20", {"shared": 2}),
]  # fmt: skip


Row = tuple[str, Copies, list[Checkpoint], int, str, dict[str, int]]


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_truth_table(row: Row) -> None:
    _, copies, manifests, step, checkpoint, tiers = row
    point = restore_point(ranks(2), copies, manifests)
    assert (point.step, point.checkpoint, dict(point.tiers)) == (step, checkpoint, tiers)


def test_state_under_suspicion_is_not_used() -> None:
    copies = held([(41, SELF), (38, PEER)], [(41, PEER), (38, PEER)])
    assert restore_point(ranks(2), copies, [manifest(20)], trusted_below=40).step == 38
    assert restore_point(ranks(2), copies, [manifest(20)], trusted_below=30).step == 20


def test_one_replica_is_enough_where_replicas_hold_the_same() -> None:
    copies = held([(41, SELF)], [(41, SELF)], [None], [(41, SELF)])
    alone = restore_point(ranks(4), copies, [])
    assert (alone.step, alone.passed_over) == (0, ("step 41: no state of 1 of 4 ranks, first rank 2",))
    point = restore_point(ranks(4), copies, [], same_state=np.array([0, 1, 0, 1], dtype=np.int32))
    assert (point.step, point.owner.tolist()) == (41, [0, 10, 0, 30])


def test_ranks_that_do_not_take_part_need_no_state() -> None:
    copies = held([(41, SELF)], [None], [(41, PEER)])
    point = restore_point(np.array([True, False, True]), copies, [manifest(20)])
    assert (point.step, dict(point.tiers)) == (41, {"survivor": 1, "memory": 1})


def test_it_says_which_shard_comes_from_where_and_what_is_lost() -> None:
    point = restore_point(ranks(2), held([(41, SELF)], [(41, PEER)]), [manifest(40)])
    assert point.owner.tolist() == [0, 10]
    assert [Tier(int(tier)).words for tier in point.tier] == ["survivor", "memory"]
    assert (point.steps_lost(43), point.steps_lost(41)) == (2, 0)


def test_copies_of_lost_holders_do_not_count() -> None:
    copies = held([(41, SELF)], [(41, PEER)])
    gone = copies.kept(np.array([[True], [False]]))
    assert restore_point(ranks(2), gone, [manifest(20)]).step == 20


entries = st.none() | st.tuples(st.integers(1, 6), st.sampled_from([SELF, PEER, DISK]))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(entries, min_size=2, max_size=2), min_size=1, max_size=4), st.sets(st.integers(1, 6), max_size=3)
)
def test_it_is_the_newest_step_that_all_ranks_have(rows: list[list[tuple[int, Tier] | None]], saved: set[int]) -> None:
    point = restore_point(ranks(len(rows)), held(*rows), [manifest(step) for step in saved])
    common = set.intersection(*({entry[0] for entry in row if entry} for row in rows))
    assert point.step == max(common | saved | {0})
    assert sum(count for _, count in point.tiers) == len(rows)
    assert (point.checkpoint != "") == (point.step in saved)
