"""One run of the world against the machine, and the checks after it."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np

from tests.benchmarks.core_spike.checks import check_full, check_incremental, require
from tests.benchmarks.core_spike.codes import ALIVE, BUCKETS, QUEUED
from tests.benchmarks.core_spike.engine import Engine, Journal
from tests.benchmarks.core_spike.fold import apply
from tests.benchmarks.core_spike.machine import Machine
from tests.benchmarks.core_spike.records import Event, Record, SignalRefused, decode
from tests.benchmarks.core_spike.state import genesis
from tests.benchmarks.core_spike.world import World

FULL_CHECK_EVERY = 1000


class FullDisk(Journal):
    """A journal whose append fails."""

    def append(self, records: Sequence[Record]) -> None:
        raise OSError("no space left on device")


@dataclass(frozen=True, slots=True)
class Options:
    """One run of the benchmark."""

    days: float
    nodes: int
    spares: int
    seed: int
    representation: str
    turn: str
    dense: bool = False


def percentiles(samples_ns: Sequence[int]) -> dict[str, float]:
    """Median, p99 and max in microseconds."""
    us = np.array(samples_ns or [0]) / 1000
    return {"median": float(np.median(us)), "p99": float(np.percentile(us, 99)), "max": float(us.max())}


def simulate(options: Options) -> dict[str, Any]:
    """Run the world against the machine; returns every figure of the run."""
    began = perf_counter()
    world = World(options.nodes, options.spares, options.days, options.seed, options.dense)
    state = genesis(options.nodes, options.spares, options.representation)
    engine = Engine(Machine(world), state, Journal(), world.submit)
    turn = engine.turn_fork if options.turn == "fork" else engine.turn_inplace
    settle = Event("settle")
    turn_ns: list[int] = []
    check_ns: dict[bool, list[int]] = {False: [], True: []}
    events, refused, blocked, batch_max = 0, 0, 0, 0
    for now, batch in world.batches():
        before, phase, since = engine.state.job.generation, engine.state.job.phase, engine.state.ledger.at
        t0 = perf_counter_ns()
        records = turn([*batch, settle], now)
        t1 = perf_counter_ns()
        full = len(turn_ns) % FULL_CHECK_EVERY == 0
        (check_full if full else check_incremental)(engine.state, records, before)
        check_ns[full].append(perf_counter_ns() - t1)
        turn_ns.append(t1 - t0)
        events += len(batch)
        batch_max = max(batch_max, len(batch))
        refused += sum(isinstance(r, SignalRefused) for r in records)
        blocked += (engine.state.ledger.at - since) * (phase == QUEUED)
    seconds = perf_counter() - began
    ledger = engine.state.ledger
    share = {b: round(100 * t / max(1, sum(ledger.totals)), 3) for b, t in zip(BUCKETS, ledger.totals, strict=True)}
    result = {
        "seconds": seconds, "turns": len(turn_ns), "events": events, "faults": dict(sorted(world.faults.items())),
        "turn_us": percentiles(turn_ns), "fork_us": percentiles(engine.fork_ns),
        "turn_total_s": sum(turn_ns) / 1e9, "fork_total_s": sum(engine.fork_ns) / 1e9,
        "check_incremental_us": percentiles(check_ns[False]), "check_full_us": percentiles(check_ns[True]),
        "check_total_s": sum(map(sum, check_ns.values())) / 1e9, "records": len(engine.journal.bodies),
        "journal_mb": sum(map(len, engine.journal.bodies)) / 1e6, "generations": engine.state.job.generation,
        "refused": refused, "largest_batch": batch_max, "open_effects": len(engine.state.effects),
        "blocked_share": blocked / max(1, ledger.at), "ledger_percent": share, "blocker": engine.state.job.blocker,
        "trace": engine.journal.digest(), "state": engine.state.digest(),
        "peak_rss_mb": peak_rss_mb(),
    }  # fmt: skip
    result.update(after_checks(engine, options, world))
    return result


def after_checks(engine: Engine, options: Options, world: World) -> dict[str, Any]:
    """Replay gives the same state; a failed append leaves it untouched; cost of a burst of 1,024 events."""
    began = perf_counter()
    replayed = genesis(options.nodes, options.spares, options.representation)
    for body in engine.journal.bodies:
        apply(replayed, decode(body))
    replay_s = perf_counter() - began
    require(replayed.digest() == engine.state.digest(), "S6 replay gives another state")
    alive = np.flatnonzero(engine.state.store.column("node_liveness") == ALIVE)[:1024].tolist()
    burst = [Event("session_lost", node) for node in alive]
    broken = Engine(engine.machine, replayed, FullDisk(), world.submit)
    for turn in (broken.turn_fork, broken.turn_inplace):
        with contextlib.suppress(OSError):
            turn(burst, world.now)
        require(broken.state.digest() == engine.state.digest(), "a failed append changed the state")
    costs = []
    for _ in range(7):
        spare = Engine(engine.machine, replayed.fork(), Journal(), world.submit)
        turn = spare.turn_fork if options.turn == "fork" else spare.turn_inplace
        t0 = perf_counter_ns()
        turn(burst, world.now)
        costs.append((perf_counter_ns() - t0) // len(burst))
    return {"replay_s": replay_s, "burst_us_per_event": float(np.median(costs)) / 1000}


def peak_rss_mb() -> float:
    """High-water mark of this program alone; `ru_maxrss` would start at the parent's, since exec keeps it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
