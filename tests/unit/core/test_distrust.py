"""Self-distrust: when silence means nothing, and how far deadlines move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.core.health.distrust import (
    REMEMBERED,
    UNREAD_AFTER_S,
    DistrustPolicy,
    LagLog,
    Vitals,
    ends_ns,
    reasons,
)
from controlplane.core.units import NS_PER_S, seconds

POLICY = DistrustPolicy(lag_s=0.4, append_s=1.0, inbox_share=0.25, after_s=3.0)
NOW = 1_000 * NS_PER_S


@pytest.mark.parametrize(
    ("vitals", "told"),
    [
        (Vitals(), ()),
        (Vitals(lag_ns=NS_PER_S // 2, lag_at_ns=NOW), ("a loop of this controller was 0.5 s late",)),
        (Vitals(lag_ns=NS_PER_S // 4, lag_at_ns=NOW), ()),
        (Vitals(lag_ns=NS_PER_S, lag_at_ns=NOW - 3 * NS_PER_S), ()),
        (Vitals(unread_ns=NS_PER_S, unread_at_ns=NOW), ("beats waited 1.0 s until this controller read them",)),
        (Vitals(unread_ns=NS_PER_S // 4, unread_at_ns=NOW), ()),
        (Vitals(unread_ns=NS_PER_S, unread_at_ns=NOW - NS_PER_S), ()),
        (Vitals(append_ns=2 * NS_PER_S, append_at_ns=NOW - NS_PER_S), ("an append to the journal took 2.0 s",)),
        (Vitals(append_ns=NS_PER_S, append_at_ns=NOW), ()),
        (Vitals(inbox=26, inbox_limit=100), ("26 events wait to be read",)),
        (Vitals(inbox=25, inbox_limit=100), ()),
        (Vitals(inbox=5), ()),
    ],
)
def test_why_silence_is_not_trusted(vitals: Vitals, told: tuple[str, ...]) -> None:
    assert reasons(vitals, POLICY, NOW) == told


def test_when_distrust_ends_by_itself() -> None:
    assert ends_ns(Vitals(), POLICY) == 0
    sick = Vitals(lag_ns=NS_PER_S, lag_at_ns=NOW, append_ns=2 * NS_PER_S, append_at_ns=NOW + NS_PER_S)
    end_ns = ends_ns(sick, POLICY)
    assert end_ns == NOW + 4 * NS_PER_S
    assert reasons(sick, POLICY, end_ns - 1)
    assert reasons(sick, POLICY, end_ns) == ()


lags = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 60)), max_size=40)


@settings(deadline=None, max_examples=60)
@given(lags, st.lists(st.integers(0, 4_000), min_size=1, max_size=20))
def test_a_deadline_moves_by_exactly_the_time_that_we_were_late(steps: list[tuple[int, int]], since: list[int]) -> None:
    """Each moment of lag counts once, however often it is told and wherever the deadline began."""
    log, now = LagLog(), 0
    late = np.zeros(5_000, dtype=bool)
    for lag, gap in steps:
        now += gap
        log.note(lag, now)
        late[max(0, now - lag) : now] = True
    # The part of a lag that lies before the one that was told last is not told again: it counts from there on.
    found = log.excused_ns(np.array(since))
    most = np.array([late[moment:].sum() for moment in since])
    assert (found <= most).all()
    assert (found >= 0).all()
    if all(lag <= gap for lag, gap in steps):
        assert found.tolist() == most.tolist()


def test_a_lag_that_goes_on_counts_once() -> None:
    log = LagLog()
    for now in range(500, 900, 20):
        log.note(now - 100, now)
    assert log.excused_ns(np.array([0, 100, 480, 2_000])).tolist() == [780, 780, 400, 0]


def test_old_lags_are_forgotten_one_by_one_but_not_as_a_whole() -> None:
    log = LagLog()
    for number in range(REMEMBERED + 44):
        log.note(10, 1_000 * (number + 1))
    assert len(log.ends_ns) == REMEMBERED
    assert log.excused_ns(np.array([0])).tolist() == [10 * (REMEMBERED + 44)]


@pytest.mark.parametrize("what", ["lag", "append"])
def test_once_all_that_waited_has_been_read_silence_is_trusted_a_second_later(what: str) -> None:
    sick = Vitals(**{f"{what}_ns": 2 * NS_PER_S, f"{what}_at_ns": NOW})
    assert ends_ns(sick, POLICY) == NOW + 3 * NS_PER_S
    read = replace(sick, caught_up_ns=NOW + NS_PER_S // 2)
    end_ns = NOW + NS_PER_S // 2 + seconds(UNREAD_AFTER_S)
    assert ends_ns(read, POLICY) == end_ns
    assert reasons(read, POLICY, end_ns - 1)
    assert reasons(read, POLICY, end_ns) == ()
    late = replace(sick, caught_up_ns=NOW + 10 * NS_PER_S)
    assert ends_ns(late, POLICY) == NOW + 3 * NS_PER_S, "and never later than without"
    before = replace(sick, caught_up_ns=NOW - 1)
    assert ends_ns(before, POLICY) == NOW + 3 * NS_PER_S, "that was of another one"
