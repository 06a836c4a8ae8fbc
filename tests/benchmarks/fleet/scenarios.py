"""What is done to a connected site, and how long the controller needs to know it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.core.vocabulary import NodeLiveness
from tests.benchmarks.fleet.shown import Onlooker
from tests.benchmarks.fleet.site import CONTROLLER_CORE, Generator, pin, read_lag, sample
from tests.benchmarks.fleet.watch import Seen, Watch
from tests.fixtures.controller_process import Controller

LEASE_S = 3.0
READ_S = 2.0
"""What came while the controller stood still has been read by then."""
CALM_LIMIT_S = 30.0
"""Nothing that was done before strains the controller any more."""
SETTLE_S = 6.0
"""Two leases: what silence or its end leads to has happened by then."""


@dataclass
class Bench:
    """Everything that runs."""

    controller: Controller
    generator: Generator
    watch: Watch
    names: tuple[str, ...]
    seed: int

    @property
    def pid(self) -> int:
        """The controller's process."""
        assert self.controller.process is not None
        return self.controller.process.pid

    def draw(self, count: int, stream: str) -> list[str]:
        """Nodes at random, the same for a seed."""
        random = np.random.default_rng([self.seed, *stream.encode()])
        return [self.names[number] for number in random.choice(len(self.names), count, replace=False)]

    def come_back(self) -> None:
        """All nodes speak, have sessions, and are ALIVE."""
        self.generator.ask("speak")
        self.generator.ask("reconnect")
        time.sleep(SETTLE_S)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie; the greatest of few."""
    return float(np.percentile(np.array(values), share * 100, method="higher"))


@dataclass(frozen=True)
class Load:
    """A while of beats. Shares are of one core."""

    seconds: float
    sent: int
    heard: int
    lag_p50_ms: float
    lag_p99_ms: float
    share: float
    rss_mb: float
    generator_share: float
    generator_late_p99_ms: float


def load(bench: Bench, seconds: float) -> Load:
    """The site beats and nothing else happens."""
    pin(bench.pid, CONTROLLER_CORE)
    held = _hold(bench)
    bench.generator.ask("beats", interval_s=1.0)
    time.sleep(2.0)
    own, lag, used = bench.generator.ask("marks"), read_lag(bench.controller), sample(bench.pid)
    began = time.monotonic()
    time.sleep(seconds)
    own_after, lag_after, used_after = bench.generator.ask("marks"), read_lag(bench.controller), sample(bench.pid)
    took_s = time.monotonic() - began
    held_after = _hold(bench)
    bench.generator.ask("beats", interval_s=1.0)
    heard = lag_after.since(lag)
    return Load(
        took_s, held_after[0] - held[0], round(held_after[1] - held[1]), heard.percentile_ms(0.5), heard.percentile_ms(0.99),
        (used_after.cpu_s - used.cpu_s) / took_s, used_after.rss_mb,
        (own_after["cpu_s"] - own["cpu_s"]) / (own_after["at"] - own["at"]), own_after["late_p99_ms"],
    )  # fmt: skip


def _hold(bench: Bench) -> tuple[int, float]:
    """No beat is under way: how many were sent and heard so far."""
    bench.generator.ask("hold")
    time.sleep(1.0)
    return bench.generator.ask("marks")["sent"], read_lag(bench.controller).beats


def first_seen(seen: Iterable[Seen], told: Callable[[Seen], bool]) -> dict[str, float]:
    """When each node was first told of."""
    found: dict[str, float] = {}
    for record in seen:
        if told(record):
            for node in record.nodes:
                found.setdefault(node, record.at)
    return found


def _lost(record: Seen) -> bool:
    return record.type == "NodeSessionChanged" and not record.body["open"]


def _doubted(record: Seen) -> bool:
    doubts = (NodeLiveness.SUSPECT, NodeLiveness.UNKNOWN)
    return record.type == "LivenessChanged" and record.body["liveness"] in [int(doubt) for doubt in doubts]


def _dead(record: Seen) -> bool:
    return record.type == "LivenessChanged" and record.body["liveness"] == int(NodeLiveness.DEAD)


def deaths(seen: Iterable[Seen]) -> set[str]:
    """Nodes that were called DEAD."""
    return set(first_seen(seen, _dead))


def resets(bench: Bench, count: int) -> list[float]:
    """Agents die one after the other: ms from the broken connection to the recorded end of each session."""
    since = len(bench.watch.seen)
    broken: dict[str, float] = {}
    for node in bench.draw(count, "resets"):
        broken[node] = bench.generator.ask("reset", nodes=[node])["at"]
        time.sleep(0.05)
    seen = bench.watch.until(
        f"the sessions of {count} nodes are lost", lambda seen: broken.keys() <= first_seen(seen, _lost).keys(), since
    )
    told = first_seen(seen, _lost)
    bench.come_back()
    return [(told[node] - at) * 1_000 for node, at in broken.items()]


def silences(bench: Bench, groups: Sequence[Sequence[str]], pause_s: float) -> list[float]:
    """Groups of nodes fall silent one after the other: ms from the end of each node's lease until it is doubted."""
    since = len(bench.watch.seen)
    last: dict[str, float] = {}
    for group in groups:
        last |= bench.generator.ask("silence", nodes=list(group))["last"]
        time.sleep(pause_s)
    seen = bench.watch.until(
        f"{len(last)} silent nodes are doubted", lambda seen: last.keys() <= first_seen(seen, _doubted).keys(), since
    )
    told = first_seen(seen, _doubted)
    bench.come_back()
    return [(told[node] - at - LEASE_S) * 1_000 for node, at in last.items()]


def scattered(bench: Bench, count: int) -> tuple[int, int]:
    """Many nodes all over the site fall silent and nobody else saw anything: (acts, nodes that are UNKNOWN in the end)."""
    since = len(bench.watch.seen)
    names = bench.draw(count, "scattered")
    bench.generator.ask("silence", nodes=names)
    time.sleep(LEASE_S + 4 * LEASE_S)
    seen = bench.watch.seen[since:]
    state: dict[str, int] = {}
    for record in seen:
        if record.type == "LivenessChanged":
            state |= dict.fromkeys(record.nodes, int(record.body["liveness"]))
    acts = sum(record.type in {"NodeQuarantined", "RanksLost", "NodeCordoned"} for record in seen) + len(deaths(seen))
    bench.come_back()
    return acts, sum(state.get(name) == int(NodeLiveness.UNKNOWN) for name in names)


@dataclass(frozen=True)
class Verdicts:
    """What a disturbance led to. `shown_ms`: until the controller, asked as an operator asks it or followed, said that it does not
    see well, since the disturbance began, or since the controller could answer again; None: never."""

    name: str
    false: int
    missed: int
    worst_s: float
    shown_ms: float | None


Disturbance = Callable[[Bench], tuple[float, float]]
"""Returns for how many seconds the controller could not look at all, and by how many it was late for what it heard (measured)."""


def disturbed(bench: Bench, name: str, disturb: Disturbance, true_deaths: int = 5) -> Verdicts:
    """A disturbance, in which a few nodes really die: silent, and their raylets gone. Everybody else is alive."""
    onlooker = Onlooker(bench.controller)
    onlooker.until_calm(CALM_LIMIT_S)
    since = len(bench.watch.seen)
    dying = bench.draw(true_deaths, name)
    last = bench.generator.ask("silence", nodes=dying)["last"]
    bench.generator.ask("raylets_dead", nodes=dying)
    began = time.time()
    blind_s, lag_s = disturb(bench)
    allowed_s = LEASE_S + lag_s + 1.0
    time.sleep(max(0.0, max(last.values()) + allowed_s + SETTLE_S - time.time()))
    seen = bench.watch.seen[since:]
    told = first_seen(seen, _dead)
    late = [node for node in dying if told.get(node, float("inf")) - last[node] > allowed_s]
    shown_ms = onlooker.shown_ms(began, blind_s, seen)
    onlooker.close()
    bench.generator.ask("speak")
    bench.generator.ask("reconnect")
    bench.generator.ask("raylets_alive", nodes=dying)
    time.sleep(SETTLE_S)
    worst = max((told[node] - last[node] for node in dying if node in told), default=float("inf"))
    return Verdicts(name, len(told.keys() - set(dying)), len(late), worst, shown_ms)


def stopped(seconds: float) -> Disturbance:
    """The controller's process stands still; the lag is what the beats waited that came meanwhile: the stop, and the time in
    which all of them were read."""

    def disturb(bench: Bench) -> tuple[float, float]:
        before = read_lag(bench.controller)
        bench.controller.send(signal.SIGSTOP)
        time.sleep(seconds)
        bench.controller.send(signal.SIGCONT)
        time.sleep(READ_S)
        return seconds, max(seconds, read_lag(bench.controller).since(before).at_least_ms(0.999) / 1_000)

    return disturb


def starved(seconds: float) -> Disturbance:
    """Three times as much work as there are cores; the lag is what beats then wait."""

    def disturb(bench: Bench) -> tuple[float, float]:
        before = read_lag(bench.controller)
        line = [sys.executable, "-c", "while True: pass"]
        burners = [subprocess.Popen(line) for _ in range(3 * (os.cpu_count() or 1))]
        try:
            time.sleep(seconds)
        finally:
            for burner in burners:
                burner.kill()
                burner.wait()
        return 0.0, read_lag(bench.controller).since(before).at_least_ms(0.999) / 1_000

    return disturb


def delayed(share: float, delay_s: float, seconds: float) -> Disturbance:
    """A share of all nodes' beats come late."""

    def disturb(bench: Bench) -> tuple[float, float]:
        bench.generator.ask("delay", nodes=bench.draw(round(share * len(bench.names)), "delayed"), delay_s=delay_s)
        time.sleep(seconds)
        return 0.0, 0.0

    return disturb


def append_stalled(seconds: float) -> Disturbance:
    """The journal's append does not return: another process holds the database for writing."""

    def disturb(bench: Bench) -> tuple[float, float]:
        with sqlite3.connect(bench.controller.folder / "journal" / "journal.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            other.execute("ROLLBACK")
        other.close()
        return seconds, seconds

    return disturb
