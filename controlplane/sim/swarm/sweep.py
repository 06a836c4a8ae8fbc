"""Many seeds on several cores for a stated time. What one seed does never depends on which other ones ran."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice

from controlplane.sim.swarm.results import SeedResult, Total

AHEAD = 4
"""Seeds per process that are handed out before their turn, so that no process waits for work."""

LOOK_S = 0.2
"""How often an interrupt is looked for while no seed ends."""

Run = Callable[[int], SeedResult]


def sweep(
    seeds: Iterator[int],
    run: Run,
    *,
    jobs: int = 1,
    limit_s: float = float("inf"),
    on_result: Callable[[SeedResult, Total], None] = lambda result, total: None,
) -> Total:
    """Run seeds until there are none left, or `limit_s` of wall time has passed; seeds that have begun are finished.

    Args:
        seeds: in the order in which they are begun.
        run: one seed; a function of a module, so that other processes find it.
        jobs: processes.
        limit_s: wall time after which no seed is begun, seconds.
        on_result: told of every result and the sum so far, in the order in which they end.

    Raises:
        KeyboardInterrupt: Ctrl-C; seeds that had begun are given up, and processes of the sweep are ended.
    """
    total = Total()
    end_s = time.monotonic() + limit_s

    def done(result: SeedResult) -> None:
        total.add(result)
        on_result(result, total)

    if jobs == 1:
        for seed in seeds:
            if time.monotonic() >= end_s:
                break
            done(run(seed))
        return total
    context = multiprocessing.get_context("spawn")
    before = multiprocessing.active_children()
    with (
        _interrupts_noted() as noted,
        ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_interrupts) as pool,
    ):
        with _interrupts_wait():
            running: set[Future[SeedResult]] = {pool.submit(run, seed) for seed in islice(seeds, jobs * AHEAD)}
        while running:
            finished, running = wait(running, timeout=LOOK_S, return_when=FIRST_COMPLETED)
            for future in finished:
                done(future.result())
            if noted:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():
                    if process not in before:
                        process.terminate()
                raise KeyboardInterrupt
            if time.monotonic() < end_s:
                running |= {pool.submit(run, seed) for seed in islice(seeds, len(finished))}
            else:
                running = {future for future in running if not future.cancel()}
    return total


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """An interrupt is held back in the block, and in processes that are started there: Ctrl-C reaches all of a terminal's, and one
    that is still loading its modules would tell of it at length."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_interrupts() -> None:
    """Interrupts are the sweep's business, not that of its processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _interrupts_noted() -> Iterator[list[int]]:
    """Ctrl-C is noted, and raised where the pool is at rest: in the middle of its own code it would leave locks taken that its end
    waits for. Who ignores interrupts, or does not run in the main thread, is not asked."""
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before in (signal.SIG_IGN, None) or threading.current_thread() is not threading.main_thread():
        yield noted
        return
    signal.signal(signal.SIGINT, lambda number, _frame: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
