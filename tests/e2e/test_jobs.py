"""What users do: several jobs, jobs that must wait, jobs that fail, bad input, and what listens where."""

from __future__ import annotations

import ipaddress
import os
import urllib.request

import psutil
import pytest
from phalanx.v1 import types_pb2

from cli.supervisor import processes
from tests.e2e.site import ENDED, WORKLOADS, RunningSite, poll

pytestmark = pytest.mark.e2e

COUNTER = "training_jobs.examples.counter"


def test_two_jobs_at_once_and_one_that_waits(site: RunningSite) -> None:
    """Two jobs run side by side, a third waits with a stated blocker, logs can be read, sockets are on loopback."""
    site.submit("left", COUNTER, ranks=4, every=50, steps=400, step_floor_ms=30)
    site.submit("right", COUNTER, ranks=2, every=50, steps=400, step_floor_ms=30)
    site.running("left", step=5)
    before = site.running("right", step=5)
    site.kill("right", 1)
    site.submit("large", COUNTER, ranks=8, every=50, steps=20)
    waiting = site.job("large")
    assert waiting.state == types_pb2.JOB_STATE_QUEUED
    assert "8 accelerators" in waiting.blocker
    assert waiting.blocker in site.phalanx("why", "job", "large")

    assert_loopback_only(site)
    assert site.phalanx("logs", "left", "--rank", "0")

    site.recovered("right", before)
    totals = {name: site.finished(name).result["total"] for name in ("left", "right")}
    assert totals == {"left": str(sum(range(400 * 4))), "right": str(sum(range(400 * 2)))}
    assert site.finished("large").result["total"] == str(sum(range(20 * 8)))


def assert_loopback_only(site: RunningSite) -> None:
    """Every listening socket of every process of the site."""
    run = str(site.site.run)
    ours = processes.marked(processes.SITE_MARKER, run) | processes.descendants(site.site.supervisor_pid)
    listening = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in ours]
    assert len(listening) > 8, "controller, store, GCS, raylets and ranks listen"
    outside = {(psutil.Process(c.pid).name(), c.laddr) for c in listening if not is_loopback(c.laddr.ip)}
    assert not outside, f"listening beyond loopback: {outside}"


def is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def test_a_workload_that_fails_at_once_ends_by_the_user_budget(site: RunningSite) -> None:
    manifest = site.folder / "fails.yaml"
    manifest.write_text(
        "apiVersion: phalanx/v1\nkind: TrainingJob\nmetadata: {name: fails}\nspec:\n"
        f"  workload: {{module: fails_at_once, path: {WORKLOADS}}}\n  ranks: 2\n"
        "  restartPolicy: {budgets: {user: {max: 2, window: 1h}}, backoff: {initial: 100ms, factor: 2, max: 1s}}\n"
    )
    site.phalanx("submit", "-f", str(manifest))
    job = poll(lambda: (j := site.job("fails")).state in ENDED and j, "fails ends", 150, 0.1)
    assert job.state == types_pb2.JOB_STATE_FAILED
    assert "the learning rate must not be negative" in job.end_reason
    assert "user" in job.end_reason
    assert job.restarts["user"] == 2
    logs = [site.phalanx("logs", "fails", "--rank", rank) for rank in ("0", "1")]
    assert any("the learning rate must not be negative" in log for log in logs), "the rank that raised says so"


def test_exit_0_without_the_final_marker_is_not_success(site: RunningSite) -> None:
    manifest = site.folder / "forgets.yaml"
    manifest.write_text(
        "apiVersion: phalanx/v1\nkind: TrainingJob\nmetadata: {name: forgets}\nspec:\n"
        f"  workload: {{module: forgets_to_finish, path: {WORKLOADS}}}\n  ranks: 1\n"
        "  restartPolicy: {budgets: {user: {max: 0, window: 1h}}}\n"
    )
    site.phalanx("submit", "-f", str(manifest))
    job = poll(lambda: (j := site.job("forgets")).state in ENDED and j, "forgets ends", 120, 0.1)
    assert job.state == types_pb2.JOB_STATE_FAILED
    assert "without the final marker" in job.end_reason


BASE = """\
apiVersion: phalanx/v1
kind: TrainingJob
metadata: {{name: {name}}}
spec:
  workload: {{module: {module}}}
  ranks: {ranks}
  parallel: {{{parallel}}}
  checkpoint: {{folder: "{folder}"}}
{extra}
"""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"extra": "  rank: 4"}, ("spec.rank", "ranks")),
        ({"ranks": "four"}, ("spec.ranks", ":6:")),
        ({"ranks": 5, "parallel": "tp: 2"}, ("spec.ranks", "not divisible")),
        ({"parallel": "dp: 4, ep: 3"}, ("spec.parallel.ep", "3")),
        ({"ranks": 4000}, ("spec.ranks", "4000")),
        ({"module": "training_jobs.moe.trian"}, ("spec.workload.module", "train")),
        ({"folder": "/proc/nowhere"}, ("spec.checkpoint.folder", "/proc/nowhere")),
    ],
)
def test_bad_manifests_are_refused_and_nothing_is_stored(
    site: RunningSite, changes: dict[str, object], expected: tuple[str, str]
) -> None:
    values = {"name": "bad", "module": COUNTER, "ranks": 4, "parallel": "", "folder": "", "extra": "", **changes}
    manifest = site.folder / "bad.yaml"
    manifest.write_text(BASE.format(**values))
    before = site.names()
    message = site.error("submit", "-f", str(manifest))
    for part in expected:
        assert part in message, message
    assert f"{manifest}:" in message, "the line is named"
    assert site.names() == before


def test_a_taken_name_is_a_conflict(site: RunningSite) -> None:
    site.submit("taken", COUNTER, ranks=1, steps=100_000, step_floor_ms=20)
    manifest = site.folder / "taken.yaml"
    manifest.write_text(BASE.format(name="taken", module=COUNTER, ranks=1, parallel="", folder="", extra=""))
    assert "taken" in site.error("submit", "-f", str(manifest))
    site.running("taken", step=2)
    site.phalanx("cancel", "taken", "--yes")
    job = poll(lambda: (j := site.job("taken")).state in ENDED and j, "taken ends", 120, 0.05)
    assert job.state == types_pb2.JOB_STATE_CANCELLED
    assert not [r for r in job.ranks if r.pid and processes.is_alive(r.pid)]


def test_metrics_and_what_is_where(site: RunningSite) -> None:
    address = site.site.document["metrics"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    for name in (
        "phalanx_nodes",
        "phalanx_accelerator_seconds_total",
        "phalanx_journal_append_duration_seconds",
        "phalanx_epoch",
    ):
        assert name in text, name
    mode = os.stat(site.folder / "site.json").st_mode & 0o777
    assert mode == 0o600
