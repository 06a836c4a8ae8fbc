"""Running the comparison: blocks of kills, systems in seeded order, every system alone on the machine."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.recovery import steplog
from tests.benchmarks.recovery.steplog import Recovery
from tests.benchmarks.recovery.systems import RANK, RANK0, TWO, WHOLE, System
from tests.benchmarks.recovery.workload import CHECKPOINT_EVERY, RANKS

BEGIN_LIMIT_S = 180.0
RECOVERY_LIMIT_S = 60.0
CALM_STEPS = 2 * CHECKPOINT_EVERY + 5
"""Steps between the end of one recovery and the next kill: at least one checkpoint is new."""
LOOK_S = 0.002

Say = Callable[[str], None]


@dataclass(slots=True)
class Cell:
    """All kills of one kind on one system."""

    recoveries: list[Recovery] = field(default_factory=list)
    phases_s: list[dict[str, float]] = field(default_factory=list)
    failure: str = ""
    """Why there is no figure; empty when there is."""


@dataclass(slots=True)
class Results:
    """What one run of the benchmark found."""

    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    step_s: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0

    def cell(self, system: str, kind: str) -> Cell:
        """The cell of a system and a kind of kill."""
        return self.cells.setdefault((system, kind), Cell())


@dataclass(frozen=True, slots=True)
class Fault:
    """What one kill of any kind strikes: `rank` is not rank 0, `other` is any but `rank`; `offset` in the checkpoint interval."""

    rank: int
    other: int
    offset: int

    @staticmethod
    def draw(chance: random.Random, ranks: int = RANKS) -> Fault:
        """One at random."""
        rank = chance.randrange(1, ranks)
        return Fault(rank, chance.choice([r for r in range(ranks) if r != rank]), chance.randrange(1, CHECKPOINT_EVERY))

    def victims(self, kind: str) -> tuple[int, ...]:
        """The ranks that a kill of this kind strikes."""
        return {RANK: (self.rank,), WHOLE: (self.rank,), RANK0: (0,), TWO: (self.rank, self.other)}.get(
            kind, (self.other,)
        )


class NotWithinError(Exception):
    """Something did not happen within its limit."""


def wait_for(look: Callable[[], Any], what: str, limit_s: float) -> Any:
    """The first value of `look` that is not None."""
    end = time.monotonic() + limit_s
    while (found := look()) is None:
        if time.monotonic() > end:
            raise NotWithinError(f"{what}: not within {limit_s:g} s")
        time.sleep(LOOK_S)
    return found


def compare(systems: Sequence[System], kills: int, blocks: int, seed: int, say: Say) -> Results:
    """`kills` of every kind on every system, spread over `blocks`; each block starts every system once."""
    chance = random.Random(seed)
    results = Results()
    begun = time.monotonic()
    for block in range(blocks):
        share = kills * (block + 1) // blocks - kills * block // blocks
        order = [system for system in systems if not _failed(results, system)]
        chance.shuffle(order)
        # The same faults for all: the kinds differ, the ranks and the moments inside the checkpoint interval do not.
        faults = [Fault.draw(chance) for _ in range(share)]
        for system in order:
            say(f"block {block + 1} of {blocks}: {system.name}")
            plan = [(kind, fault) for fault in faults for kind in system.kinds]
            chance.shuffle(plan)
            one_system(system, plan, results, say)
    results.wall_s = time.monotonic() - begun
    return results


def _failed(results: Results, system: System) -> bool:
    return any(results.cell(system.name, kind).failure for kind in system.kinds)


def one_system(system: System, plan: Sequence[tuple[str, Fault]], results: Results, say: Say) -> None:
    """Start a system, strike it as planned, stop it; what it cost goes to the results."""
    try:
        system.start()
        _steps_from(system, 0, BEGIN_LIMIT_S)
        for kind, fault in plan:
            cell = results.cell(system.name, kind)
            found = _one_kill(system, kind, fault)
            cell.recoveries.append(found)
            cell.phases_s.append(system.phases_s())
            struck = " and ".join(str(rank) for rank in fault.victims(kind))
            say(
                f"  {kind} {struck}: new step after {found.new_step_s:.2f} s, loaded after {found.loaded_s:.2f} s, "
                f"{found.steps_redone} steps redone"
            )
        results.step_s[system.name] = steplog.median_step_s(steplog.read(system.log))
    except (NotWithinError, RuntimeError, AssertionError) as error:
        say(f"  {system.name} gives no figure: {error}")
        for kind in system.kinds:
            results.cell(system.name, kind).failure = str(error)
    finally:
        system.stop()


def _one_kill(system: System, kind: str, fault: Fault) -> Recovery:
    system.stand_by()
    step = _steps_from(system, _highest(system) + CALM_STEPS, RECOVERY_LIMIT_S)
    moment = step - step % CHECKPOINT_EVERY + CHECKPOINT_EVERY + fault.offset
    _steps_from(system, moment, RECOVERY_LIMIT_S)
    killed_ns = system.kill(kind, fault.victims(kind))
    found: Recovery = wait_for(
        lambda: _recovery(system, kind, killed_ns, fault),
        f"a new step after a {kind} was killed",
        RECOVERY_LIMIT_S,
    )
    return found


def _recovery(system: System, kind: str, killed_ns: int, fault: Fault) -> Recovery | None:
    lines = steplog.tail(system.log)
    if not system.elastic:
        return steplog.recovery(lines, killed_ns, system.ranks)
    gone = () if kind == WHOLE else fault.victims(kind)
    return steplog.carried_on(lines, killed_ns, {*range(system.ranks)} - {*gone})


def _highest(system: System) -> int:
    return max((line.step for line in steplog.tail(system.log)), default=0)


def _steps_from(system: System, step: int, limit_s: float) -> int:
    """Wait until a step is finished; returns the highest one then."""
    return int(
        wait_for(
            lambda: found if (found := _highest(system)) > 0 and found >= step else None,
            f"{system.name} at step {step}",
            limit_s,
        )
    )
