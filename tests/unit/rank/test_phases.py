"""Every moment of a step in exactly one phase: nested ones, garbage collection, other threads, DDP's hidden waits."""

from __future__ import annotations

import gc
import threading

import pytest

from agents.rank.phases import COLLECTION, PhaseClock


class Clock:
    """Wall and processor time in nanoseconds, moved by hand."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0

    def compute(self, us: int) -> None:
        self.wall += us * 1_000
        self.cpu += us * 1_000

    def sleep(self, us: int) -> None:
        self.wall += us * 1_000


def made() -> tuple[Clock, PhaseClock]:
    clock = Clock()
    return clock, PhaseClock(lambda: clock.wall, lambda: clock.cpu)


def told(phases: PhaseClock) -> tuple[int, ...]:
    """Steps, total, waiting, data, collection, checkpoint."""
    times = phases.step()
    return times.steps, times.total_us, times.waiting_us, times.data_us, times.collection_us, times.checkpoint_us


def test_each_moment_belongs_to_the_innermost_phase() -> None:
    clock, phases = made()
    clock.compute(10)
    with phases.phase("data"):
        clock.compute(5)
        with phases.waiting:
            clock.sleep(7)
        clock.compute(1)
    with phases.phase("checkpoint"), phases.phase("checkpoint"):
        clock.sleep(3)
    assert told(phases) == (1, 26, 7, 6, 0, 3)
    clock.compute(4)
    assert told(phases) == (2, 30, 7, 6, 0, 3), "sums, so that a report that is lost loses nothing"


def test_an_exception_ends_its_phases() -> None:
    clock, phases = made()

    def fail() -> None:
        with phases.phase("data"), phases.waiting:
            clock.sleep(2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.compute(5)
    assert told(phases) == (1, 7, 2, 0, 0, 0)


def test_a_new_generation_begins_at_nothing_also_inside_a_phase() -> None:
    clock, phases = made()
    with phases.phase("data"):
        clock.sleep(9)
        phases.restart()
        clock.compute(2)
    clock.compute(3)
    assert told(phases) == (1, 5, 0, 0, 0, 0)


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="there is no phase 'date': use one of waiting, data, checkpoint"):
        PhaseClock().phase("date")


def test_garbage_collection_is_counted_while_it_is_watched() -> None:
    phases = PhaseClock()
    phases.watch_collector()
    phases.watch_collector()
    try:
        rings = [[] for _ in range(20_000)]
        for ring in rings:
            ring.append(ring)
        del rings, ring
        gc.collect()
        counted = phases.step().collection_us
        assert counted > 0
    finally:
        phases.unwatch_collector()
    assert not any(getattr(hook, "__self__", None) is phases for hook in gc.callbacks)
    gc.collect()
    assert phases.step().collection_us == counted


def test_other_threads_change_nothing() -> None:
    clock, phases = made()

    def other() -> None:
        with phases.phase("data"):
            clock.sleep(4)
        phases.enter(COLLECTION)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(10)
    clock.compute(2)
    assert told(phases) == (1, 6, 0, 0, 0, 0)


def test_a_wait_inside_of_torch_is_the_time_without_processor_until_the_collective_is_done() -> None:
    clock, phases = made()
    clock.compute(50)
    phases.issued()
    clock.compute(10)  # the backward pass goes on
    phases.issued()
    clock.sleep(30)
    phases.completed()
    clock.compute(8)  # the optimizer
    assert told(phases) == (1, 98, 30, 0, 0, 0)


def test_sleep_after_the_collective_is_done_is_no_wait() -> None:
    clock, phases = made()
    phases.issued()
    clock.compute(10)
    phases.completed()
    clock.sleep(100)
    assert told(phases) == (1, 110, 10, 0, 0, 0), "at most until its end"
