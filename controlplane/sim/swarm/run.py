"""One scenario under every checker, as a result that travels."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from controlplane.core.units import NS_PER_S
from controlplane.sim.checkers.monitor import Monitor, Violated, all_checkers
from controlplane.sim.kernel import START_NS
from controlplane.sim.observer import Observer, Turn
from controlplane.sim.scenario import Scenario, run
from controlplane.sim.swarm.generate import generate
from controlplane.sim.swarm.results import SeedResult
from controlplane.sim.trace import Trace, line

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

DEFECT = "defect"
"""In place of an invariant where the program itself stopped with an error."""


class Digest(Observer):
    """What a run had written down and how far it had come, also when it was stopped."""

    def __init__(self) -> None:
        self.trace = Trace(keep_lines=False)
        self.now_ns = START_NS

    def on_turn(self, turn: Turn, world: World) -> None:
        """Take in a turn."""
        self.now_ns = turn.at_ns
        self.trace.digest_only(turn.result.entries)


class Lines(Observer):
    """The readable trace, line by line as it grows: records, and faults in capitals."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line

    def on_turn(self, turn: Turn, world: World) -> None:
        """Records with the time of the controller's clock."""
        for entry, record in zip(turn.result.entries, turn.result.records, strict=True):
            self._on_line(line(entry.at_ns, record))

    def on_fault(self, kind: str, target: str, world: World) -> None:
        """A fault strikes."""
        self._on_line(f"{(world.now_ns - START_NS) / NS_PER_S:8.1f} FAULT {kind} {target}")


def run_scenario(scenario: Scenario, seed: int, on_line: Callable[[str], None] | None = None) -> SeedResult:
    """Play a scenario with all checkers; the first violation ends it.

    Args:
        scenario: what happens.
        seed: where everything random comes from.
        on_line: takes the readable trace.
    """
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    monitor, digest = Monitor(all_checkers(scenario.policy)), Digest()
    observers: list[Observer] = [digest, monitor, *([Lines(on_line)] if on_line else [])]
    invariant = text = ""
    try:
        run(scenario, seed, observers)
    except Violated as found:
        invariant, text = found.violation.invariant, str(found.violation)
    except Exception:  # noqa: BLE001 - whatever stops the core or the world under a seed is a finding
        invariant = DEFECT
        text = f"{DEFECT}: {traceback.format_exc().strip().splitlines()[-1]}\n{traceback.format_exc()}"
    return SeedResult(
        seed, digest.trace.digest(), (digest.now_ns - START_NS) / NS_PER_S, time.perf_counter() - begun_s,
        time.process_time() - begun_cpu_s, digest.trace.records, dict(monitor.coverage.faults),
        dict(monitor.coverage.counts), invariant, text,
    )  # fmt: skip


def run_seed(seed: int) -> SeedResult:
    """One seed of the swarm."""
    return run_scenario(generate(seed), seed)
