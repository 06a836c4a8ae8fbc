"""`make bench-corruption`: single flipped bits in a real trainer, how soon they are found and who is named, and what looking costs.

Four ranks of the MoE trainer as threads of one process, with the product's checks. Every trial flips one bit of one element on
one rank, in a seeded place at a seeded step; a trial ends when a rank leaves, or after two intervals. Costs are processor time
of whole runs, which other load on the machine does not change much.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass, field

from agents.rank import ReplicaDivergence
from tests.benchmarks.report import Figure, write
from tests.fixtures.checked_trainers import run

BITS = (0, 10, 22, 30)
STATE = ("weights", "exp_avg", "exp_avg_sq")
PASSING = ("gradient", "activation")
EVERY = 10
"""Steps between two comparisons of replicas."""
RATE = 0.25
"""Of steps that are computed twice: high, so that a short run says something."""
SIZES = {"dense": 12_000, "experts": 1_536}
"""Elements to choose from, less than there are; the first 4,096 of the dense part are embeddings."""
EMBEDDINGS = 4_096
COSTLY = {"hidden": 32, "ffn": 64, "sequence": 32, "batch": 4}
"""The size of model for the costs: steps of which most is arithmetic."""


@dataclass(slots=True)
class Row:
    """Trials of one kind of flip."""

    what: str
    bit: int
    trials: int = 0
    found: int = 0
    named: int = 0
    right: int = 0
    steps: list[int] = field(default_factory=list)


def trial(row: Row, dice: random.Random, place: str, part: str, *, stuck: bool, ep: int) -> None:
    """One flip."""
    rank, step = dice.randrange(4), dice.randrange(EVERY + 1, 2 * EVERY + 1)
    first = EMBEDDINGS if part == "dense" and place == "gradient" else 0
    index = dice.randrange(first, SIZES[part])
    flip = f"{place}/{part}/rank={rank}/step={step}/bit={row.bit}/index={index}" + ("/stuck" if stuck else "")
    outcomes = run(3 * EVERY, ep=ep, check_every=EVERY, replay_rate=RATE, seed=dice.randrange(1 << 20), flip=flip)
    wrong = {at: one for at, one in enumerate(outcomes) if isinstance(one.error, ReplicaDivergence)}
    row.trials += 1
    if not wrong:
        return
    row.found += 1
    row.named += set(wrong) == {rank}
    row.right += rank in wrong
    left = next(iter(wrong.values()))
    row.steps.append(max(1, left.step - step + 1))


def rows(seed: int, times: int) -> list[Row]:
    """All trials."""
    dice, found = random.Random(seed), []
    for stuck in (False, True):
        for place in STATE:
            for bit in BITS:
                row = Row(f"{place}{', stuck' if stuck else ''}", bit)
                found.append(row)
                for _ in range(times):
                    trial(row, dice, place, "dense", stuck=stuck, ep=2)
                    trial(row, dice, place, "experts", stuck=stuck, ep=2)
    for stuck in (False, True):
        for place in PASSING:
            for bit in BITS:
                row = Row(f"{place}{', stuck' if stuck else ''}", bit)
                found.append(row)
                for _ in range(2 * times if stuck else 6 * times):
                    trial(row, dice, place, "dense", stuck=stuck, ep=1)
    return found


def cost(steps: int, **args: float) -> float:
    """Processor time of a step of four ranks, ms."""
    begun = time.process_time()
    outcomes = run(steps, ep=2, **COSTLY, **args)
    took = (time.process_time() - begun) * 1_000 / steps
    assert all(one.error is None for one in outcomes), outcomes
    return took


def costs(steps: int = 24, times: int = 3) -> dict[str, float]:
    """Share that each check adds to the processor time of a step, percent."""
    settings: dict[str, dict[str, float]] = {
        "nothing": {},
        "compare every 10 steps": {"check_every": 10},
        "compare every step": {"check_every": 1},
        "compute 8 % twice": {"replay_rate": 0.08},
        "compute 25 % twice": {"replay_rate": 0.25},
    }
    cost(5)  # first use
    took: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(times):
        for name, args in settings.items():
            took[name].append(cost(steps, **args))
    least = {name: min(samples) for name, samples in took.items()}
    plain = least.pop("nothing")
    return {"step_ms": plain, **{name: 100 * (ms / plain - 1) for name, ms in least.items()}}


def show(found: list[Row]) -> None:
    """The table."""
    print(f"\n{'flip':<22} {'bit':>3} {'trials':>6} {'found':>6} {'named':>6} {'among':>6} {'steps, worst':>12}")
    for row in found:
        worst = max(row.steps, default=0)
        print(f"{row.what:<22} {row.bit:>3} {row.trials:>6} {row.found:>6} {row.named:>6} {row.right:>6} {worst:>12}")


def figures(found: list[Row], priced: dict[str, float], alarms: int, clean: int) -> list[Figure]:
    """What is kept."""

    def share(picked: list[Row], what: str) -> float:
        return sum(getattr(row, what) for row in picked) / max(1, sum(row.trials for row in picked))

    held = [row for row in found if row.what.partition(",")[0] in STATE]
    once = [row for row in found if row.what in PASSING]
    stuck = [row for row in found if row.what.endswith("stuck") and row not in held]
    trials = {
        name: sum(row.trials for row in picked) for name, picked in (("held", held), ("once", once), ("stuck", stuck))
    }
    worst = max((step for row in held for step in row.steps), default=0)
    return [
        Figure("corruption_state_found", share(held, "found"), "share", trials["held"], must=1.0),
        Figure("corruption_state_steps_worst", worst, "steps", trials["held"], must=EVERY),
        Figure("corruption_state_named", share(held, "named"), "share", trials["held"]),
        Figure("corruption_once_found", share(once, "found"), "share", trials["once"], goal=RATE),
        Figure("corruption_stuck_found", share(stuck, "found"), "share", trials["stuck"]),
        Figure("corruption_stuck_named", share(stuck, "named"), "share", trials["stuck"]),
        Figure("corruption_false_alarms", alarms, "runs", clean, must=0),
        *(
            Figure("corruption_cost_" + name.replace(" ", "_").replace("_%", "pct"), round(value, 2), "%", 3)
            for name, value in priced.items()
            if name != "step_ms"
        ),
    ]  # fmt: skip


def main() -> int:
    """Run everything, print, write; 1 where a flip in the state was missed or a clean run was accused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--times", type=int, default=1, help="so many times the trials")
    options = parser.parse_args()
    begun = time.monotonic()
    print(f"seed {options.seed}; replicas are compared every {EVERY} steps, {RATE:.0%} of the steps are computed twice")
    found = rows(options.seed, options.times)
    clean = 2 * options.times
    alarms = sum(
        any(one.error is not None for one in run(3 * EVERY, ep=ep, check_every=EVERY, replay_rate=RATE, seed=ep))
        for ep in (1, 2)
        for _ in range(clean)
    )
    show(found)
    priced = costs()
    print(f"\nprocessor time of a step of four ranks {priced['step_ms']:.1f} ms; what checks add to it:")
    for name, value in priced.items():
        if name != "step_ms":
            print(f"  {name:<24} {value:+6.1f} %")
    kept = figures(found, priced, alarms, 2 * clean)
    path = write("corruption", kept, seed=options.seed, simulated=("ranks: threads of one process", "flips"))
    print(f"\n{time.monotonic() - begun:.0f} s; written to {path}")
    missed = any(
        one.must is not None and (one.value < one.must if one.must == 1.0 else one.value > one.must) for one in kept
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
