"""A few seeds of the swarm, clean; and that a seed is the same run everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.sim.scenario import check, dump, parse
from controlplane.sim.swarm.generate import generate
from controlplane.sim.swarm.run import run_scenario, run_seed
from controlplane.sim.swarm.unreached import UNREACHED

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = sorted((ROOT / "docs" / "scenarios").glob("*.toml"))
CLEAN = range(1, 6)
SAME = 2


@pytest.mark.parametrize("seed", CLEAN)
def test_a_seed_is_clean(seed: int) -> None:
    result = run_seed(seed)
    assert result.clean, result.text
    assert len(result.faults) >= 3
    assert not set(result.coverage) & set(UNREACHED), "explained as never reached"
    assert result.simulated_s > 6 * 3_600


def test_a_seed_is_the_same_run_in_another_process() -> None:
    program = f"from controlplane.sim.swarm.run import run_seed; print(run_seed({SAME}).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": chance},
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout.strip()
        for chance in ("0", "4711")
    }  # fmt: skip
    assert digests == {run_seed(SAME).digest}


def test_what_a_seed_means() -> None:
    for seed in range(1, 60):
        scenario = generate(seed)
        check(scenario)
        assert scenario == generate(seed)
        assert len(scenario.topology.places()) >= 32
        assert len(scenario.jobs) >= 2
        assert len({plan.kind for plan in scenario.faults}) >= 5
        assert scenario.duration_s >= 6 * 3_600


def test_a_scenario_of_a_seed_can_be_edited() -> None:
    scenario = generate(3)
    assert parse(dump(scenario)) == scenario


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_scenarios_of_the_docs(path: Path) -> None:
    lines: list[str] = []
    result = run_scenario(parse(path.read_text(), path.name), 1, lines.append)
    assert result.clean, result.text
    assert result.faults["rack"] == 1
    assert any("FAULT rack r1" in line for line in lines)
