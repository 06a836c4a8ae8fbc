"""The demo's script, its evidence and its report, without a site."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phalanx.v1 import job_pb2

from cli.demo import evidence as ev
from cli.demo import script
from cli.demo.figures import draw
from cli.demo.page import page
from cli.demo.sabotage import _Steps
from controlplane.core.manifest import check_spec


@given(st.integers(0, 2**31))
def test_faults_strike_strictly_between_checkpoints_and_in_order(seed: int) -> None:
    kill, destroy = script.plan_faults(seed)
    for fault in (kill, destroy):
        offset = fault.step % script.EVERY
        assert script.EVERY // 4 <= offset < script.EVERY - script.EVERY // 4
        assert 0 <= fault.rank < script.RANKS
    assert script.EVERY < kill.step < destroy.step < script.STEPS - script.EVERY
    assert (kill, destroy) == script.plan_faults(seed)


def test_the_demos_jobs_are_valid_and_differ_only_where_they_should(tmp_path: Path) -> None:
    both = [
        script.job_spec(name, tmp_path / "m", {"seed": 7}, spares=True) for name in (script.REFERENCE, script.DISTURBED)
    ]
    assert [check_spec(spec) for spec in both] == [(), ()]
    assert both[0].workload == both[1].workload
    for control in script.plan_controls(7):
        spec = script.job_spec(control.name, tmp_path / "m", {"seed": 7} | dict(control.args), spares=False)
        assert check_spec(spec) == ()
        assert spec.workload != both[0].workload


def curve(losses: list[float], generation: int = 1, first: int = 1) -> tuple[ev.Point, ...]:
    return tuple(ev.Point(first + index, loss, 0.0, generation) for index, loss in enumerate(losses))


def run(name: str, sha256: str, **more: object) -> ev.Run:
    job = job_pb2.Job(name=name, step=40, result={"weights_sha256": sha256}, ettr=0.9, ledger_s={"PRODUCTIVE": 12.5})
    points = curve([5.0 - 0.1 * step for step in range(40)])
    made = ev.Run(name, job, points, 20.0)
    for key, value in more.items():
        setattr(made, key, value)
    return made


def good() -> ev.Evidence:
    found = ev.Evidence(seed=7, sample="def f():\n    <return>", site_ledger_s={"IDLE": 5.0}, wall_s=100.0)
    found.runs = {script.REFERENCE: run(script.REFERENCE, "aa"), script.DISTURBED: run(script.DISTURBED, "aa")}
    for generation, rung, lost in ((2, "RESTART_RANK", 1), (3, "REPLACE_RANK", 0)):
        found.runs[script.DISTURBED].job.recoveries.add(
            generation=generation,
            rung=rung,
            cause="rank 1 <died>",
            steps_lost=lost,
            complete=True,
            total_s=1.0,
            phases_s=dict.fromkeys(ev.PHASES, 0.1),
        )
    kill, destroy = script.plan_faults(7)
    found.add_fault(kill, kill.step, "rank 1")
    found.add_fault(destroy, destroy.step + 1, "node-2")
    for control in script.plan_controls(7):
        found.add_control(control.name, control.says, run(control.name, f"other {control.name}"))
    return found


def failed(found: ev.Evidence) -> list[str]:
    return [check.name for check in ev.checks(found) if not check.ok]


def test_a_good_demo_passes() -> None:
    found = good()
    assert failed(found) == []
    report = ev.report(found)
    assert (report["identical"], report["passed"]) == (True, True)
    assert [run["name"] for run in report["runs"]] == ["undisturbed", "disturbed"]
    first = report["runs"][1]["recoveries"][0]
    assert (first["cause"], first["rung"], first["steps_lost"]) == ("rank 1 <died>", "RESTART_RANK", 1)
    assert set(first["phases_s"]) == set(ev.PHASES)
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize(
    ("spoil", "claim"),
    [
        (lambda e: e.runs.update(disturbed=run("disturbed", "bb")), "weights"),
        (lambda e: e.runs.update(undisturbed=run("undisturbed", ""), disturbed=run("disturbed", "")), "weights"),
        (lambda e: e.runs["undisturbed"].job.recoveries.add(), "not disturbed"),
        (lambda e: e.faults.pop(), "both faults"),
        (lambda e: e.faults[0].update(step=60), "strictly between"),
        (lambda e: e.runs["disturbed"].job.recoveries.pop(), "recovered"),
        (lambda e: setattr(e.runs["disturbed"].job.recoveries[0], "complete", False), "recovered"),
        (lambda e: setattr(e.runs["disturbed"], "curve", curve([5.0] * 40)), "loss fell"),
        (lambda e: setattr(e.runs["disturbed"], "curve", ()), "loss fell"),
        (lambda e: e.add_control("c", "nothing changed", run("c", "aa")), "nothing changed"),
        (lambda e: e.add_control("c", "no hash", run("c", "")), "no hash"),
    ],
)
def test_every_claim_can_fail(spoil: object, claim: str) -> None:
    found = good()
    spoil(found)  # type: ignore[operator]
    assert any(claim in name for name in failed(found)), failed(found)
    assert ev.report(found)["passed"] is False


def test_no_recovery_may_do_more_than_one_step_again() -> None:
    found = good()
    found.runs["disturbed"].job.recoveries[1].steps_lost = 2
    assert failed(found) == ["at most one step was done again for each"]


def test_the_page_is_self_contained_and_escapes_what_it_shows(tmp_path: Path) -> None:
    found = good()
    picture = draw(found, tmp_path / "report.png", tmp_path / "cache")
    text = page(ev.report(found), picture)
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "rank 1 &lt;died&gt;" in text
    assert "&lt;return&gt;" in text
    loads = [word for word in ("<script", "src=", "@import", "<link", "url(http") if word in text]
    assert loads == []


def test_a_curve_survives_half_written_lines(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    assert ev.read_curve(path) == ()
    rows = [{"step": n, "loss": 5.0 - n, "wall_s": 1.0, "generation": 1} for n in (1, 2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')
    assert [point.step for point in ev.read_curve(path)] == [1, 2]
    steps = _Steps(path)
    assert steps.newest() == 2
    with open(path, "a") as file:
        file.write('ss": 2.0}\n')
    assert steps.newest() == 3
    assert _Steps(tmp_path / "none").newest() == 0
