"""54 simulated days of 50,000 ranks on 6,250 nodes in a process of its own: `python -m tests.benchmarks.ettr.speed`."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

from controlplane.sim.ettr.phases import load
from controlplane.sim.ettr.policies import Scale, our_world, plan_of
from controlplane.sim.ettr.run import simulate

DAYS = 54.0
RANKS_PER_NODE = 8
RATE = 3.8


def measure(days: float) -> dict[str, float]:
    """Runs it here."""
    plan = plan_of(our_world(load(), RATE), Scale(ranks_per_node=RANKS_PER_NODE, days=days), 1)
    begun_s, cpu_s = time.monotonic(), time.process_time()
    outcome = simulate(plan)
    return {
        "days": days,
        "wall_s": time.monotonic() - begun_s,
        "cpu_s": time.process_time() - cpu_s,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "turns": outcome.tally.turns,
        "recoveries": sum(outcome.tally.rungs.values()),
        "percent": 100.0 * outcome.share,
    }


def apart(days: float = DAYS) -> dict[str, float]:
    """Runs it in a fresh process, so that nothing else is in its memory."""
    command = [sys.executable, "-m", "tests.benchmarks.ettr.speed", str(days)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]) if len(sys.argv) > 1 else DAYS)))
