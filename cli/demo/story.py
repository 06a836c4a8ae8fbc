"""The demo from start to end: a site of its own, the runs, the faults, the evidence, and nothing left behind."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cli import describe, render
from cli.client import CALL_TIMEOUT_S, SUBMIT_TIMEOUT_S, Client, connect, new_request_id
from cli.demo import evidence as ev
from cli.demo import script
from cli.demo.page import page
from cli.demo.sabotage import Saboteur, Scene
from cli.errors import CliError, Exit
from cli.following import watch_events, watch_job
from cli.supervisor.launch import bring_up, take_down, trust, wait_ready
from cli.supervisor.layout import SiteOptions
from cli.wire import spec_to_message
from controlplane.core.spec import JobSpec

if TYPE_CHECKING:
    from phalanx.v1 import job_pb2

READY_TIMEOUT_S = 120.0
RUN_TIMEOUT_S = 240.0
SAMPLE_TIMEOUT_S = 60.0
PROMPT = "def "
NEEDED = ("ray", "torch", "matplotlib")


class Demo:
    """One demo in a folder. `run` returns the exit code."""

    def __init__(self, folder: Path, port: int, seed: int) -> None:
        self._folder = folder.resolve()
        self._site = self._folder / "site"
        self._curves = self._folder / "curves"
        self._options = SiteOptions(self._site, nodes=4, accelerators=2, port=port, end_with_parent=True)
        self._evidence = ev.Evidence(seed)
        self._board = render.Board()

    def run(self) -> int:
        """Everything, and the exit code. Whatever happens, nothing of the site runs afterwards."""
        started = time.monotonic()
        _require_packages()
        self._clean()
        mine = False
        try:
            plan, supervisor = bring_up(self._options, self._board.line, fresh=True)
            mine = True
            address = plan.site["address"]
            self._board.line(f"a site of 4 nodes with 2 simulated accelerators each, at {address}")
            with connect(address, self._site, **trust(self._options)) as client:
                wait_ready(plan, supervisor, client, READY_TIMEOUT_S, self._board.line)
                self._train(client)
        finally:
            self._board.close()
            if mine:
                take_down(self._site, render.note)
        self._evidence.wall_s = time.monotonic() - started
        return self._conclude()

    def _clean(self) -> None:
        for folder in (self._folder, self._curves):
            folder.mkdir(parents=True, exist_ok=True)
        for old in (*self._curves.glob("*.jsonl"), *self._folder.glob("report.*")):
            old.unlink()

    def _train(self, client: Client) -> None:
        seed = self._evidence.seed
        events = threading.Thread(target=self._tell_events, args=(client,), daemon=True)
        events.start()
        self._board.line("1. the undisturbed run")
        self._evidence.runs[script.REFERENCE] = self._run_job(client, script.REFERENCE, spares=True)
        faults = script.plan_faults(seed)
        planned = " and ".join(f"{fault.kind} after step {fault.step}" for fault in faults)
        self._board.line(f"2. the same again, with {planned}; a checkpoint every {script.EVERY} steps")
        self._evidence.runs[script.DISTURBED] = self._run_job(client, script.DISTURBED, faults, spares=True)
        self._board.line("3. runs that must end with other weights")
        for control in script.plan_controls(seed):
            run = self._run_job(client, control.name, spares=False, args=dict(control.args))
            self._evidence.add_control(control.name, control.says, run)
        self._board.line("4. a completion from the disturbed run's last checkpoint")
        self._evidence.sample = self._sample(client)
        self._evidence.site_ledger_s = _site_ledger(client)

    def _run_job(
        self,
        client: Client,
        name: str,
        faults: tuple[script.Fault, ...] = (),
        *,
        spares: bool,
        args: Mapping[str, int] | None = None,
    ) -> ev.Run:
        started = time.monotonic()
        metrics = self._curves / f"{name}.jsonl"
        values = {"seed": self._evidence.seed, **(args or {})}
        spec = script.job_spec(name, metrics, values, spares=spares)
        _submit(client, spec)
        saboteur = Saboteur(client, self._site, Scene(name, metrics, faults), self._board.line)
        saboteur.start()
        last: job_pb2.Job | None = None
        try:
            for job in watch_job(client, name, RUN_TIMEOUT_S):
                self._board.show(job)
                last = job
        except CliError as error:
            state = render.job_line(last, bar=False) if last else "nothing was heard of it"
            raise CliError(f"{name} did not end in {RUN_TIMEOUT_S:g} s", why=state, code=error.code) from error
        saboteur.finish()
        for strike in saboteur.strikes:
            self._evidence.add_fault(strike.fault, strike.step, strike.target)
        if last is None or render.job_state(last) != "SUCCEEDED":
            state = render.job_state(last) if last else "unknown"
            raise CliError(
                f"{name} ended {state}", why=last.end_reason if last else "", fix=f"logs are in {self._site}"
            )
        return ev.Run(name, _job(client, name), ev.read_curve(metrics), time.monotonic() - started)

    def _tell_events(self, client: Client) -> None:
        import grpc  # noqa: PLC0415

        try:
            for event in watch_events(client, 0):
                self._board.line("   " + render.event_line(event))
        except (grpc.RpcError, CliError, ValueError) as error:  # ValueError: the channel is closed, the demo is over
            if "closed" not in str(error):
                self._board.line(f"   no more events: {error}")

    def _sample(self, client: Client) -> str:
        from phalanx.v1 import checkpoint_pb2, types_pb2  # noqa: PLC0415

        request = checkpoint_pb2.ListCheckpointsRequest(job=script.DISTURBED)
        answer = client.checkpoints.ListCheckpoints(request, timeout=CALL_TIMEOUT_S)
        good = (types_pb2.CHECKPOINT_STATE_COMMITTED, types_pb2.CHECKPOINT_STATE_VERIFIED)
        found = [item for item in answer.checkpoints if item.state in good]
        if not found:
            raise CliError(f"{script.DISTURBED} left no checkpoint to sample from")
        newest = max(found, key=lambda item: (item.step, item.generation))
        command = (sys.executable, "-m", "training_jobs.moe.sample", "--checkpoint", newest.folder, "--prompt", PROMPT)
        done = subprocess.run(command, capture_output=True, text=True, timeout=SAMPLE_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise CliError("sampling failed", why=done.stderr.strip()[-400:])
        return done.stdout

    def _conclude(self) -> int:
        """Writes the report and shows what it says."""
        from cli.demo.figures import draw  # noqa: PLC0415

        report = ev.report(self._evidence)
        (self._folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        picture = draw(self._evidence, self._folder / "report.png", self._folder / "cache")
        (self._folder / "report.html").write_text(page(report, picture), encoding="utf-8")
        _show(self._evidence)
        render.heading("written")
        for name in ("report.html", "report.png", "report.json"):
            render.out(f"  {self._folder / name}")
        results = ev.checks(self._evidence)
        if all(check.ok for check in results):
            render.heading(f"PASSED in {render.seconds(self._evidence.wall_s)}")
            return Exit.OK
        render.heading("FAILED: " + "; ".join(f"{check.name} ({check.detail})" for check in results if not check.ok))
        return Exit.ERROR


def _show(found: ev.Evidence) -> None:
    disturbed = found.runs[script.DISTURBED]
    render.heading("recoveries of the disturbed run: where the time went")
    describe.recoveries(disturbed.job.recoveries)
    render.heading("runs")
    rows = []
    for run in found.runs.values():
        loss, wall = render.loss(run.curve[-1].loss), render.seconds(run.wall_s)
        rows.append([run.name, run.job.result.get("steps", "-"), loss, f"{run.job.ettr:.3f}", wall, run.sha256])
    render.table(("RUN", "STEPS", "LOSS", "ETTR", "WALL", "WEIGHTS SHA-256"), rows)
    render.heading("accelerator-seconds")
    for run in found.runs.values():
        render.out(f"{run.name:<12} {render.amounts(run.job.ledger_s)}")
    render.out(f"{'site':<12} {render.amounts(found.site_ledger_s)}")
    render.heading("a completion")
    render.out("  " + found.sample.rstrip().replace("\n", "\n  "))
    render.heading("checks")
    render.table(("", "CLAIM", "MEASURED"), [["ok" if c.ok else "NO", c.name, c.detail] for c in ev.checks(found)])


def _require_packages() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CliError(f"the demo needs {', '.join(missing)}", fix="pip install 'phalanx[demo]', or `make demo`")


def _submit(client: Client, spec: JobSpec) -> None:
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    request = job_pb2.SubmitJobRequest(request_id=new_request_id(), spec=spec_to_message(spec))
    client.jobs.SubmitJob(request, timeout=SUBMIT_TIMEOUT_S)


def _job(client: Client, name: str) -> job_pb2.Job:
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    return client.jobs.GetJob(job_pb2.GetJobRequest(name=name), timeout=CALL_TIMEOUT_S).job


def _site_ledger(client: Client) -> dict[str, float]:
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    return dict(client.fleet.GetSite(fleet_pb2.GetSiteRequest(), timeout=CALL_TIMEOUT_S).ledger_s)
