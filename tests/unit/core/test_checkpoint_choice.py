"""Restore points, the pinned checkpoint and retention."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.core.checkpoints import Checkpoint, checkpoint_id, expirable, pinned, restore_point
from controlplane.core.vocabulary import CheckpointState

WRITING, COMMITTED, VERIFIED, POISONED, EXPIRED = CheckpointState


def point(step: int, state: CheckpointState, generation: int = 1) -> Checkpoint:
    return Checkpoint(checkpoint_id("j-1", generation, step), generation, step, f"/s/g{generation}/{step}", state)


def name(step: int, generation: int = 1) -> str:
    return checkpoint_id("j-1", generation, step)


@pytest.mark.parametrize(
    ("known", "chosen"),
    [
        ([], None),
        ([point(20, WRITING)], None),
        ([point(20, POISONED)], None),
        ([point(20, COMMITTED)], name(20)),
        ([point(20, VERIFIED), point(40, COMMITTED)], name(40)),
        ([point(20, VERIFIED), point(40, POISONED), point(60, WRITING)], name(20)),
        ([point(20, VERIFIED, 1), point(20, COMMITTED, 3)], name(20, 3)),
        ([point(20, VERIFIED, 3), point(20, COMMITTED, 1)], name(20, 3)),
    ],
)
def test_restore_point_is_the_newest_whole_one(known: list[Checkpoint], chosen: str | None) -> None:
    found = restore_point(known)
    assert (found.id if found else None) == chosen


@pytest.mark.parametrize(
    ("known", "chosen"),
    [
        ([], None),
        ([point(20, WRITING)], None),
        ([point(20, COMMITTED)], name(20)),
        ([point(20, VERIFIED), point(40, COMMITTED)], name(20)),
        ([point(20, VERIFIED), point(40, VERIFIED)], name(40)),
        ([point(20, COMMITTED), point(40, POISONED)], name(20)),
    ],
)
def test_the_newest_verified_one_is_pinned(known: list[Checkpoint], chosen: str | None) -> None:
    found = pinned(known)
    assert (found.id if found else None) == chosen


@pytest.mark.parametrize(
    ("known", "keep", "current", "gone"),
    [
        ([point(s, VERIFIED) for s in (10, 20, 30)], 2, "", (name(10),)),
        ([point(s, VERIFIED) for s in (10, 20, 30)], 3, "", ()),
        # the one that the present generation starts from stays, however old
        ([point(s, VERIFIED) for s in (10, 20, 30)], 1, name(10), (name(20),)),
        # the pinned one stays beyond `keep`
        ([point(10, VERIFIED), point(20, COMMITTED), point(30, COMMITTED)], 1, "", (name(20),)),
        # what can never be completed, and what is never restored, goes once something newer is whole
        ([point(10, WRITING), point(20, COMMITTED), point(30, WRITING)], 2, "", (name(10),)),
        ([point(10, POISONED), point(20, COMMITTED)], 2, "", (name(10),)),
        ([point(10, POISONED), point(20, WRITING)], 2, "", ()),
    ],
)
def test_retention(known: list[Checkpoint], keep: int, current: str, gone: tuple[str, ...]) -> None:
    assert expirable(known, keep, current) == gone


checkpoints = st.dictionaries(
    st.tuples(st.integers(0, 6), st.integers(1, 3)),
    st.sampled_from([WRITING, COMMITTED, VERIFIED, POISONED]),
    max_size=9,
).map(lambda found: [point(step, state, generation) for (step, generation), state in found.items()])


@given(checkpoints, st.integers(1, 4), st.integers(0, 8))
def test_retention_never_takes_what_is_needed(known: list[Checkpoint], keep: int, pick: int) -> None:
    current = known[pick % len(known)].id if known else ""
    gone = set(expirable(known, keep, current))
    best, keeper = restore_point(known), pinned(known)
    assert current not in gone
    assert best is None or best.id not in gone
    assert keeper is None or keeper.id not in gone
    left = [c for c in known if c.id not in gone]
    assert pinned(left) == keeper, "S10: what was pinned stays pinned"
    assert expirable(left, keep, current) == (), "retention comes to rest"
