"""The sweep over seeds: what it sums up, when it ends, what it writes; and how seeds are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.seeds import seed_span, versioned_seed
from controlplane.core import vocabulary
from controlplane.core.vocabulary import Rung
from controlplane.sim import coverage
from controlplane.sim.faults import CATALOGUE
from controlplane.sim.swarm import report, results
from controlplane.sim.swarm.results import SeedResult, Total
from controlplane.sim.swarm.sweep import sweep
from controlplane.sim.swarm.unreached import HARDLY, HARMFUL, UNREACHED, why_never
from controlplane.sim.version import SIM_VERSION


def result(seed: int) -> SeedResult:
    """Odd seeds are clean."""
    bad = seed % 2 == 0
    return SeedResult(
        seed, f"{seed:064x}", results.YEAR_S, 0.5, 0.4, 10, {"node": 2}, {"rung ROLLBACK": 1, "node x ROLLBACK": 1},
        invariant="S4" if bad else "", text=f"S4: generation {seed} again\n  a record" if bad else "",
    )  # fmt: skip


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_add_up(jobs: int) -> None:
    seen: list[int] = []
    total = sweep(iter(range(1, 7)), result, jobs=jobs, on_result=lambda one, _: seen.append(one.seed))
    assert sorted(seen) == [1, 2, 3, 4, 5, 6]
    assert (total.seeds, total.years, total.records) == (6, 6.0, 60)
    assert total.cpu_s == pytest.approx(6 * 0.4), "what processors did, not what went by"
    assert total.faults == {"node": 12}
    assert sorted(violation.seed for violation in total.violations) == [2, 4, 6]


def test_no_seed_begins_after_the_time() -> None:
    assert sweep(iter(range(1, 7)), result, limit_s=0.0).seeds == 0


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    total = sweep(iter(range(1, 4)), result)
    path = results.write(tmp_path / "sim", total, {"sim_version": SIM_VERSION})
    stored = json.loads(path.read_text())
    assert (stored["seeds"], stored["sim_version"]) == (3, SIM_VERSION)
    assert [violation["seed"] for violation in stored["violations"]] == [2]
    assert "generation 2 again" in (tmp_path / "sim" / "violation-2.txt").read_text()


def test_the_report_names_what_was_never_reached() -> None:
    total = Total()
    total.add(result(2))
    text = report.render(total, ["node", "rack"])
    assert "simulated" in text
    assert "VIOLATED  seed 2  S4: generation 2 again" in text
    assert "phalanx sim replay --seed 2 --trace" in text
    unreached = text[text.index("never reached") :].splitlines()
    (rungs,) = (line for line in unreached if line.startswith("  rung:"))
    assert "FAIL" in rungs
    assert "ROLLBACK" not in rungs


def test_every_state_table_is_counted() -> None:
    tables = {id(value) for name, value in vars(vocabulary).items() if name.isupper() and isinstance(value, dict)}
    assert tables == {id(table) for table in coverage.TABLES.values()}


def test_what_is_explained_exists() -> None:
    assert {*UNREACHED, *HARDLY} <= {cell for section in coverage.cells(()).values() for cell in section}


def test_every_pair_of_a_fault_and_a_rung_that_is_never_seen_has_a_reason() -> None:
    assert set(CATALOGUE) >= HARMFUL
    text = report.render(Total(), CATALOGUE)
    assert f"fault x rung, never seen: {len(CATALOGUE) * len(Rung)}" in text
    assert why_never("rack", Rung.RESTART_RANK) != why_never("process_kill", Rung.RESTART_RANK)


@pytest.mark.parametrize(("text", "seeds"), [("7", range(7, 8)), ("1-3", range(1, 4)), ("0-0", range(1))])
def test_spans(text: str, seeds: range) -> None:
    assert seed_span(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "3-1", "-1", "1-2-3", "1.5"])
def test_no_spans(text: str) -> None:
    with pytest.raises(ValueError, match="no span of seeds"):
        seed_span(text)


def test_a_seed_of_another_version_is_refused() -> None:
    assert versioned_seed("12") == versioned_seed(f"12@{SIM_VERSION}") == 12
    with pytest.raises(ValueError, match=f"of version 99 of the simulator, this is version {SIM_VERSION}"):
        versioned_seed("12@99")
    with pytest.raises(ValueError, match="is no seed"):
        versioned_seed("12@")
