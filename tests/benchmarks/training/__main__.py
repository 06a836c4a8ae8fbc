"""`python -m tests.benchmarks.training`: exit 0 when the weights are those of the undisturbed run, else 1.

With `--recoveries N` only training processes are killed, never that of rank 0, until the job has recovered N times:
the survivor's memory and descriptors, and the site's, are printed along the way.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from phalanx.v1 import job_pb2, types_pb2

from tests.benchmarks.report import Figure, of_samples, write
from tests.benchmarks.training.blows import BLOWS, LEAKS, Blow
from tests.benchmarks.training.vitals import Vitals, look
from tests.e2e.site import TRAINER, RunningSite, poll

NODES, RANKS, EVERY, LOCAL = 5, 4, 20, 5
PACE_S = 0.5
"""A paced step at least. A step in half a second cannot run out of the steps that are planned for it."""
JOB = "soak"
PAUSE_S = (0.5, 4.0)
STEADY_S = 240.0
BACK_S = 300.0
"""Machines that come back one by one have their processes started anew after each; beside other work that takes minutes."""
LOOK_EVERY = 20
TELL_S = 10.0
SIMULATED = ("accelerators", "machines: five nodes share this one")


class Soak:
    """One job, what hits it, and what it made of that."""

    def __init__(self, site: RunningSite, steps: int, seed: int) -> None:
        self.site = site
        self.steps = steps
        self.rng = random.Random(seed)
        self.reference = ""
        self.struck: list[tuple[Blow, list[job_pb2.Recovery]]] = []
        self.vitals: list[Vitals] = []
        self._seen = 0

    def start(self) -> None:
        """Run the undisturbed training, then start the paced one."""
        self.site.submit("reference", TRAINER, spares=False, every=EVERY, steps=self.steps)
        poll(self._reference_ended, "the reference ends", 3_600, TELL_S)
        self.reference = str(self.site.finished("reference").result["weights_sha256"])
        self.site.submit(JOB, steps=self.steps, every=EVERY, pace_s=PACE_S, parked=2, budget=100_000, local=LOCAL)
        self.steady()

    def _reference_ended(self) -> bool:
        job = self.site.job("reference")
        _say(f"      undisturbed: step {job.step} of {self.steps}")
        return bool(job.ended_at)

    def steady(self) -> job_pb2.Job:
        """Wait until the job runs and has made steps beyond where it stands now."""
        step = self.site.job(JOB).step
        poll(lambda: self._moves(step), f"{JOB} makes steps beyond {step}", STEADY_S, 0.05)
        return self.site.job(JOB)

    def _moves(self, step: int) -> bool:
        job = self.site.job(JOB)
        assert not job.ended_at, f"{JOB} ended: {job.end_reason}"
        return job.state == types_pb2.JOB_STATE_RUNNING and (job.step > step + 1 or job.step >= self.steps)

    def strike(self, blows: tuple[Blow, ...]) -> None:
        """One blow, and what follows, told in a line per recovery."""
        (blow,) = self.rng.choices(blows, [one.weight for one in blows])
        words = blow.strike(self.site, JOB, self.rng)
        job = self.steady()
        new = [one for one in job.recoveries if one.generation > self._seen and one.complete]
        self._seen = max([self._seen, *(one.generation for one in new)])
        self.struck.append((blow, new))
        _say(f"{len(self.struck):>4}  step {job.step:>5}  {blow.name}: {words}")
        for one in new:
            phases = "  ".join(
                f"{name} {seconds:.2f}" for name, seconds in sorted(one.phases_s.items()) if seconds >= 0.005
            )
            _say(
                f"{'':>18}generation {one.generation} {one.rung}: {one.total_s:.2f} s, {one.steps_lost} steps redone, "
                f"from {one.restore_source or 'the first step'}: {phases}"
            )
        time.sleep(self.rng.uniform(*PAUSE_S))

    def recoveries(self) -> list[job_pb2.Recovery]:
        """All that ended, in order."""
        return [one for _, new in self.struck for one in new]

    def weights(self) -> str:
        """Let it run to its end."""
        return str(self.site.finished(JOB, 3_600).result["weights_sha256"])


def main() -> int:
    """Break, watch, compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3_600.0, help="of random failures (default: an hour)")
    parser.add_argument("--recoveries", type=int, default=0, help="instead: kill processes until so many recoveries")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    blows = LEAKS if options.recoveries else BLOWS
    planned_s = options.recoveries * 8.0 if options.recoveries else options.seconds
    steps = int(planned_s / PACE_S) + 200
    folder = Path(tempfile.mkdtemp(prefix="phx-soak-"))
    site = RunningSite(folder / "site", NODES)
    site.patience_s = BACK_S
    try:
        soak = Soak(site, steps, options.seed)
        _say(f"an undisturbed run of {steps} steps first, then {JOB} under failures, seed {options.seed}")
        soak.start()
        end = time.monotonic() + planned_s
        while time.monotonic() < end and not 0 < options.recoveries <= len(soak.recoveries()):
            soak.strike(blows)
            if len(soak.struck) % LOOK_EVERY == 1:
                soak.vitals.append(look(site, JOB, len(soak.recoveries())))
                _say(soak.vitals[-1].line())
        soak.vitals.append(look(site, JOB, len(soak.recoveries())))
        same = soak.weights() == soak.reference
    finally:
        site.down()
        shutil.rmtree(folder, ignore_errors=True)
    _tell(soak, same)
    name = "recoveries" if options.recoveries else "training"
    _say(f"written: {write(name, _figures(soak, same), seed=options.seed, simulated=SIMULATED)}")
    enough = len(soak.recoveries()) >= options.recoveries
    return 0 if same and enough else 1


def _figures(soak: Soak, same: bool) -> list[Figure]:
    done = soak.recoveries()
    figures = [
        Figure("weights_identical", float(same), "", 1, must=1),
        Figure("blows", len(soak.struck), "", 1),
        Figure("recoveries", len(done), "", 1),
    ]
    if done:
        figures.append(of_samples("recover_s", [one.total_s for one in done], "s"))
        figures.append(of_samples("steps_redone", [one.steps_lost for one in done], "steps"))
    first, last = soak.vitals[0], soak.vitals[-1]
    for name, value in last.of_survivor(first).items():
        figures.append(Figure(name, value, "", last.recoveries - first.recoveries))
    return figures


def _tell(soak: Soak, same: bool) -> None:
    _say(
        f"\n{'what was hit':<20}{'times':>6}{'recoveries':>12}{'median s':>10}{'worst s':>9}{'steps redone, worst':>21}"
    )
    for blow in dict.fromkeys(one for one, _ in soak.struck):
        hits = [new for one, new in soak.struck if one is blow]
        done = [recovery for new in hits for recovery in new]
        seconds = [recovery.total_s for recovery in done] or [0.0]
        lost = max((recovery.steps_lost for recovery in done), default=0)
        row = f"{blow.name:<20}{len(hits):>6}{len(done):>12}{median(seconds):>10.2f}{max(seconds):>9.2f}{lost:>21}"
        _say(row)
    for vitals in soak.vitals:
        _say(vitals.line())
    _say(
        f"weights {'are those' if same else 'are NOT those'} of the undisturbed run; simulated: {', '.join(SIMULATED)}"
    )


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
