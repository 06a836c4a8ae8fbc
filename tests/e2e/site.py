"""A real site for tests: `phalanx up` in a folder, jobs through the real API, processes killed with real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import struct_pb2
from phalanx.v1 import checkpoint_pb2, event_pb2, fleet_pb2, job_pb2, types_pb2

from cli.client import Client
from cli.commands.fault import Target, kill_of_site, rank_pid
from cli.credentials import load
from cli.site import Site, require_site
from cli.supervisor import control
from tests.fixtures.ports import free_port

ENDED = (types_pb2.JOB_STATE_SUCCEEDED, types_pb2.JOB_STATE_FAILED, types_pb2.JOB_STATE_CANCELLED)
WORKLOADS = Path(__file__).resolve().parents[1] / "fixtures" / "e2e_workloads"
TRAINER, PACED_TRAINER = "training_jobs.moe.train", "paced_moe"
SMALL = {"steps": 140, "seed": 7, "batch": 2, "sequence": 32, "data_bytes": 200_000}
"""Arguments of the tests' training: the small model. `paced_moe` makes it last as long as a test breaks things."""


def poll(condition: Callable[[], Any], what: str, limit_s: float = 60.0, every_s: float = 0.02) -> Any:
    """The first true value of `condition`, looked at until a deadline."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(every_s)
    raise AssertionError(f"not within {limit_s:g} s: {what}")


class RunningSite:
    """A site in a folder, and what tests do to it."""

    def __init__(self, folder: Path, nodes: int, *options: str, accelerators: int = 2) -> None:
        self.folder = folder
        self.patience_s = 120.0
        size = ("--nodes", str(nodes), "--accelerators", str(accelerators), "--port", str(free_port()))
        try:
            self.phalanx("up", *size, "--timeout", "150", *options)
        except BaseException:
            with suppress(AssertionError):
                self.phalanx("down")  # what has come up would run on beside all other tests
            raise
        self.site: Site = require_site(folder)
        self.client = Client(self.site.address, load(folder / "pki" / "admin"))

    def phalanx(self, *arguments: str, code: int = 0, limit_s: float = 200.0) -> str:
        """Run the CLI as a user would; returns stdout."""
        command = [sys.executable, "-m", "cli", *arguments, "--dir", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def error(self, *arguments: str, code: int | None = 2) -> str:
        """Stderr of a command that must fail (with `code`, when given) and say nothing on stdout."""
        command = [sys.executable, "-m", "cli", *arguments, "--dir", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode != 0, done.stdout
        assert not done.stdout, done.stdout
        assert code is None or done.returncode == code, done.stderr
        return done.stderr

    def down(self) -> None:
        self.client.close()
        self.phalanx("down")

    # -- looking ----------------------------------------------------------------------------------------------------

    def job(self, name: str) -> job_pb2.Job:
        """The job now; the controller may be away for a moment."""

        def ask() -> job_pb2.Job | None:
            try:
                return self.client.jobs.GetJob(job_pb2.GetJobRequest(name=name), timeout=5).job
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):  # type: ignore[attr-defined]
                    return None
                raise

        found: job_pb2.Job = poll(ask, f"an answer about {name}", 90)
        return found

    def names(self) -> list[str]:
        """Names of all jobs, ended ones too."""
        return [job.name for job in self.client.jobs.ListJobs(job_pb2.ListJobsRequest(), timeout=30).jobs]

    def nodes(self) -> dict[str, fleet_pb2.Node]:
        answer = self.client.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=30)
        return {node.name: node for node in answer.nodes}

    def events(self, job: str = "") -> list[event_pb2.Event]:
        answer = self.client.events.ListEvents(event_pb2.ListEventsRequest(job=job, limit=2000), timeout=30)
        return list(answer.events)

    def checkpoints(self, job: str) -> list[checkpoint_pb2.Checkpoint]:
        answer = self.client.checkpoints.ListCheckpoints(checkpoint_pb2.ListCheckpointsRequest(job=job), timeout=30)
        return list(answer.checkpoints)

    def units(self) -> dict[str, dict[str, Any]]:
        units: dict[str, dict[str, Any]] = control.call(self.site.run, {"command": "status"})["units"]
        return units

    def pids(self, name: str) -> dict[int, int]:
        return {rank.rank: rank.pid for rank in self.job(name).ranks}

    # -- doing ------------------------------------------------------------------------------------------------------

    def submit(
        self,
        name: str,
        module: str = PACED_TRAINER,
        *,
        path: str = "",
        ranks: int = 4,
        ep: int = 2,
        every: int = 20,
        spares: bool = True,
        parked: int = 1,
        warm: int = 1,
        budget: int = 200,
        least: int = 0,
        local: int = 50,
        **args: Any,
    ) -> None:
        """Submit a job. Without `spares` nothing stands by: for jobs that lose nothing, fewer processes to start.
        `parked`: processes that stand by on each node; `warm`: nodes that do; `budget`: restarts for the infrastructure's sake;
        `least`: replicas that are enough. `local`: steps between versions on the nodes' disks."""
        if module == PACED_TRAINER:
            path, args = str(WORKLOADS), {"release": str(self._release(name)), **args}
        values = struct_pb2.Struct()
        values.update({**SMALL, **args} if module in (TRAINER, PACED_TRAINER) else args)
        spec = types_pb2.TrainingJobSpec(
            name=name,
            workload=types_pb2.WorkloadSpec(module=module, path=path, args=values),
            ranks=ranks,
            accelerators_per_rank=1,
            parallel=types_pb2.ParallelDegrees(tp=1, pp=1, cp=1, dp=ranks, ep=ep if ranks % 2 == 0 else 1),
            spares=types_pb2.SpareSpec(warm_nodes=warm * spares, parked_per_node=parked * spares),
            elastic=types_pb2.ElasticSpec(min_replicas=least),
            checkpoint=types_pb2.CheckpointSpec(every_steps=every, keep=3, local_every_steps=local),
            restart_policy=types_pb2.RestartPolicySpec(
                collect_window_ms=200,
                user=types_pb2.BudgetSpec(max=3, window_ms=3_600_000, reset_on_progress_steps=200),
                infrastructure=types_pb2.BudgetSpec(max=budget, window_ms=86_400_000),
                preemption=types_pb2.BudgetSpec(unlimited=True, window_ms=3_600_000),
                backoff=types_pb2.BackoffSpec(initial_ms=100, factor=2, max_ms=5_000),
            ),
            timeouts=types_pb2.TimeoutSpec(start_ms=120_000, join_ms=60_000, stop_ms=5_000),
        )
        self.client.jobs.SubmitJob(job_pb2.SubmitJobRequest(request_id=f"e2e-{name}", spec=spec), timeout=60)

    def running(self, name: str, step: int = 0, generation: int = 0) -> job_pb2.Job:
        """Wait until the job runs, beyond a step and in at least a generation; a job that ends early fails the test."""

        def ready() -> job_pb2.Job | None:
            job = self.job(name)
            assert job.state not in ENDED, f"{name} ended as {types_pb2.JobState.Name(job.state)}: {job.end_reason}"
            fits = job.state == types_pb2.JOB_STATE_RUNNING and job.step >= step and job.generation >= generation
            return job if fits else None

        try:
            found: job_pb2.Job = poll(ready, f"{name} RUNNING at step {step}, generation {generation}", self.patience_s)
        except AssertionError as error:
            job = self.job(name)
            last = "\n".join(event.message for event in self.events(job.name)[-25:])
            state = types_pb2.JobState.Name(job.state)
            raise AssertionError(
                f"{error}\n{state} {job.step} g{job.generation} blocker={job.blocker}\n{last}"
            ) from error
        return found

    def warm(self, name: str) -> job_pb2.Job:
        """Wait until parked processes stand by on every node of the job, so that a kill is met warm."""

        def parked() -> job_pb2.Job | None:
            job = self.running(name)
            ready = {host.node for host in job.parked if host.state == types_pb2.RANK_STATE_PARKED}
            return job if {rank.node for rank in job.ranks} <= ready else None

        found: job_pb2.Job = poll(parked, f"{name} has parked processes", 90, 0.1)
        return found

    def standing_by(self, name: str, counts: list[int]) -> job_pb2.Job:
        """Wait until so many processes are parked, by node, ascending, and no other is on its way there or away."""

        def parked() -> job_pb2.Job | None:
            job = self.running(name)
            ready = all(host.state == types_pb2.RANK_STATE_PARKED for host in job.parked)
            return job if ready and sorted(Counter(host.node for host in job.parked).values()) == counts else None

        found: job_pb2.Job = poll(parked, f"{name} has {counts} parked processes", 90, 0.1)
        return found

    def kill(self, name: str, rank: int, what: Target = Target.PROCESS) -> None:
        kill_of_site(rank_pid(self.client, name, rank, what), self.folder)

    def recovered(self, name: str, before: job_pb2.Job) -> job_pb2.Job:
        """Wait for a later generation that runs, and makes a step beyond its restore point."""
        return self.running(name, generation=before.generation + 1)

    def kill_unit(self, unit: str) -> None:
        control.call(self.site.run, {"command": "kill", "name": unit, "signal": int(signal.SIGKILL)})

    def unit_back(self, unit: str, restarts: int) -> None:
        poll(
            lambda: (u := self.units()[unit])["state"] == "running" and u["restarts"] > restarts and u["pid"],
            f"{unit} is back",
            120,
        )

    def undisturbed(self) -> str:
        """Run the product's own trainer to its end, and return its weights."""
        self.submit("reference", TRAINER, spares=False)
        job = self.finished("reference")
        assert job.generation == 1
        return str(job.result["weights_sha256"])

    def _release(self, name: str) -> Path:
        return self.folder / f"{name}.released"

    def finished(self, name: str, limit_s: float = 180) -> job_pb2.Job:
        """Let a paced training go, and wait for the end; the job must have succeeded."""
        self._release(name).touch()
        job: job_pb2.Job = poll(lambda: (j := self.job(name)).state in ENDED and j, f"{name} ends", limit_s, 0.1)
        state = types_pb2.JobState.Name(job.state)
        assert job.state == types_pb2.JOB_STATE_SUCCEEDED, f"{name}: {state}: {job.end_reason}"
        return job
