"""Beats that waited to be read: we are behind though no loop is late, and silence is distrusted for it."""

from __future__ import annotations

import numpy as np
import pytest

from controlplane.core.health.distrust import DistrustPolicy, reasons
from controlplane.core.units import NS_PER_S, seconds
from controlplane.engine.soft import READ_LATELY_NS, STALL_TOLERANCE_NS, UNSAID, SoftColumns

NOW = 1_000 * NS_PER_S
LATE_NS = seconds(2.0)


def columns(*waited_ns: int) -> SoftColumns:
    """A site whose nodes' newest beats have waited so long."""
    made = SoftColumns(started_ns=1)
    for node, late_ns in enumerate(waited_ns):
        made.beat(node, NOW, late_ns)
    return made


@pytest.mark.parametrize(
    ("waited_ns", "expected"),
    [
        ((LATE_NS, LATE_NS, LATE_NS), LATE_NS),
        ((LATE_NS, LATE_NS, 0), LATE_NS),
        ((LATE_NS, 0, 0), 0),
        ((LATE_NS, LATE_NS), 0),
        ((LATE_NS, LATE_NS, UNSAID), 0),
        ((STALL_TOLERANCE_NS - 1,) * 5, 0),
        ((), 0),
    ],
    ids=["all", "two of three", "one of three", "too few", "one does not say", "within tolerance", "nobody"],
)
def test_half_of_the_nodes_that_were_read_lately_say_it(waited_ns: tuple[int, ...], expected: int) -> None:
    soft = columns(*waited_ns)
    assert soft.behind(NOW) == expected
    told = reasons(soft.vitals(), DistrustPolicy(), NOW)
    assert told == (("beats waited 2.0 s until this controller read them",) if expected else ())


def test_beats_of_before_say_nothing_of_now() -> None:
    soft = columns(*[LATE_NS] * 4)
    assert soft.behind(NOW + READ_LATELY_NS) == 0
    soft.beats(np.arange(4), np.full(4, NOW + READ_LATELY_NS), LATE_NS)
    assert soft.behind(NOW + READ_LATELY_NS) == LATE_NS


def test_a_node_that_was_not_heard_yet_has_said_nothing() -> None:
    soft = columns(LATE_NS, LATE_NS)
    soft.beat(200, NOW)
    assert soft.behind(NOW) == 0


def test_deadlines_move_by_how_far_we_fell_behind_and_not_for_as_long_as_we_are() -> None:
    soft = columns(*[LATE_NS] * 4)
    since = np.array([NOW - seconds(3), NOW + 1])
    soft.behind(NOW)
    assert soft.excused_ns(since).tolist() == [LATE_NS, 0]
    assert soft.vitals().lag_at_ns == 0, "no loop was late"
    for tick in range(1, 6):
        soft.beats(np.arange(4), np.full(4, NOW + tick * NS_PER_S), LATE_NS)
        soft.behind(NOW + tick * NS_PER_S)
    assert soft.excused_ns(since).tolist() == [LATE_NS, 0], "beats come in their rhythm, each as late as the one before"
    soft.beats(np.arange(4), np.full(4, NOW + 6 * NS_PER_S), 2 * LATE_NS)
    soft.behind(NOW + 6 * NS_PER_S)
    assert soft.excused_ns(since).tolist() == [2 * LATE_NS, LATE_NS], "and now it is worse"


def test_what_a_lag_of_ours_has_held_up_is_not_counted_twice() -> None:
    soft = SoftColumns(started_ns=1)
    assert soft.stalled(LATE_NS, NOW)
    excused = soft.excused_ns(np.array([NOW - seconds(5)])).tolist()
    for node in range(4):
        soft.beat(node, NOW + 1, LATE_NS)
    assert soft.behind(NOW + 1) == 0, "they were sent while our loop stood"
    later_ns = NOW + LATE_NS
    assert soft.excused_ns(np.array([NOW - seconds(5)])).tolist() == excused
    for node in range(4):
        soft.beat(node, later_ns + 1, LATE_NS - 1)
    assert soft.behind(later_ns + 1) == LATE_NS - 1, "these after it"


def test_most_nodes_heard_anew_show_that_what_waited_is_read() -> None:
    soft = columns(*[0] * 10)
    over_ns = NOW + LATE_NS
    assert soft.stalled(LATE_NS, over_ns)
    for node in range(10):
        soft.beat(node, over_ns + 1, LATE_NS)
    soft.behind(over_ns + 2)
    assert soft.vitals().caught_up_ns == 0, "these were sent before its end"
    for node in range(8):
        assert soft.vitals().caught_up_ns == 0
        soft.beat(node, over_ns + seconds(0.5), 0)
        soft.behind(over_ns + seconds(0.5))
    assert soft.vitals().caught_up_ns == over_ns + seconds(0.5), "eight of ten"
    later_ns = over_ns + seconds(20)
    for node in range(10):
        soft.beat(node, later_ns, 0)
    soft.appended(LATE_NS, later_ns + 1)
    soft.behind(later_ns + 2)
    assert soft.vitals().caught_up_ns < later_ns, "a slow append begins it anew"
    for node in range(10):
        soft.beat(node, later_ns + seconds(1), STALL_TOLERANCE_NS)
    soft.behind(later_ns + seconds(1))
    assert soft.vitals().caught_up_ns < later_ns, "they still wait"


def test_who_was_gone_before_need_not_come_back_for_it() -> None:
    soft = SoftColumns(started_ns=1)
    for node in range(8):
        soft.beat(node, NOW - seconds(60), 0)
    for node in range(8, 12):
        soft.beat(node, NOW, 0)
    over_ns = NOW + LATE_NS
    soft.stalled(LATE_NS, over_ns)
    for node in range(8, 12):
        soft.beat(node, over_ns + 1, 0)
    soft.behind(over_ns + 2)
    assert soft.vitals().caught_up_ns == over_ns + 2
