"""A seed is a run: in this process and in another one, whatever the order of its sets, through restarts of its controller."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from controlplane.sim.kernel import MAX_PLANNED, START_NS, Kernel, Runaway, stream_seed
from controlplane.sim.scenario import Outcome, parse, run

SCENARIO = """
duration_s = "12m"
settle_s = "2m"
[topology]
nodes_per_rack = 4
accelerators = 2
nodes_per_relay = 8
[repairs]
scale = 0.0005
[[jobs]]
name = "ant"
[jobs.spec]
ranks = 12
parallel = {dp = 12}
checkpoint = {everySteps = 30}
spares = {warmNodes = 1, parkedPerNode = 1}
[[faults]]
kind = "node"
per_day = 450
[[faults]]
kind = "process_kill"
per_day = 900
[[faults]]
kind = "network_reorder"
per_day = 300
[[faults]]
kind = "crash_after_append"
per_day = 450
[[faults]]
kind = "lost_leadership"
per_day = 300
[[faults]]
kind = "scattered_silence"
per_day = 300
"""

PROGRAM = """
from controlplane.sim.scenario import parse, run
from tests.unit.sim.test_determinism import SCENARIO
print(run(parse(SCENARIO), 7).digest)
"""


@cache
def played(seed: int) -> Outcome:
    return run(parse(SCENARIO), seed)


def test_the_same_seed_is_the_same_run() -> None:
    first, second = played(7), run(parse(SCENARIO), 7)
    assert (first.digest, first.turns, first.injected) == (second.digest, second.turns, second.injected)
    assert first.world.state().digest() == second.world.state().digest()
    assert first.world.control.restarts > 1, "the controller was restarted on the way"
    assert min(first.injected.values()) > 0
    assert played(8).digest != first.digest


def test_the_same_seed_is_the_same_run_in_another_process() -> None:
    """This process has a hash seed of its own, drawn when it began."""
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True,
        check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == played(7).digest


def test_watching_changes_nothing() -> None:
    assert run(parse(SCENARIO), 7, keep_lines=True).digest == played(7).digest


def test_streams_do_not_disturb_each_other() -> None:
    alone, other = Kernel(3), Kernel(3)
    other.stream("faults/node").random()
    assert [alone.stream("park").random() for _ in range(3)] == [other.stream("park").random() for _ in range(3)]
    assert stream_seed(3, "park") == 0xF10C3FDEC911344962F7854D41A78105, (
        "the same in every version: seeds are told to others"
    )
    assert stream_seed(3, "park") != stream_seed(4, "park")


def test_what_happens_at_the_same_time_happens_in_the_order_of_planning() -> None:
    kernel, order = Kernel(), []
    kernel.after(2.0, lambda: order.append("late"))
    for name in ("a", "b"):
        kernel.after(1.0, lambda name=name: order.append(name))
    kernel.after(1.0, lambda: kernel.after(0.0, lambda: order.append("planned then")))
    kernel.run_until(START_NS + 3 * 10**9)
    assert order == ["a", "b", "planned then", "late"]
    assert kernel.elapsed_s == 3.0


def test_a_world_that_plans_itself_without_end_is_stopped() -> None:
    kernel = Kernel()
    kernel._planned = [(START_NS, 0, lambda: None)] * MAX_PLANNED
    with pytest.raises(Runaway, match="plans itself without end"):
        kernel.after(1.0, lambda: None)
