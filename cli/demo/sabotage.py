"""Strikes a running job at planned steps, and remembers what it did."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.client import CALL_TIMEOUT_S, Client
from cli.commands.fault import Target, kill_of_site, rank_pid
from cli.demo.script import KILL_RANK, Fault, is_between_checkpoints
from cli.errors import CliError
from cli.site import require_site
from cli.supervisor import control

if TYPE_CHECKING:
    from phalanx.v1 import job_pb2

POLL_S = 0.002
"""Much shorter than a step, so that a fault strikes right after the planned one."""


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that was injected: after which step, at what."""

    fault: Fault
    step: int
    target: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A job, the file in which rank 0 notes its steps, and what shall happen to it."""

    job: str
    metrics: Path
    faults: tuple[Fault, ...]


class Saboteur(threading.Thread):
    """Follows the step of rank 0 in the trainer's metrics file and injects each fault when its step is done."""

    def __init__(self, client: Client, directory: Path, scene: Scene, say: Callable[[str], None]) -> None:
        super().__init__(name="saboteur", daemon=True)
        self.strikes: list[Strike] = []
        self.error: BaseException | None = None
        self._client = client
        self._directory = directory
        self._scene = scene
        self._say = say
        self._end = threading.Event()

    def run(self) -> None:
        """Strikes until the faults are used up or the job has ended."""
        try:
            steps = _Steps(self._scene.metrics)
            for fault in self._scene.faults:
                self._strike(fault, steps)
        except Exception as error:  # noqa: BLE001 - edge of a thread: the main thread raises it again
            self.error = error

    def finish(self) -> None:
        """The job has ended; raises what went wrong in the thread."""
        self._end.set()
        self.join()
        if self.error is not None:
            raise self.error

    def _strike(self, fault: Fault, steps: _Steps) -> None:
        while not self._end.is_set():
            step = steps.newest()
            if step >= fault.step and is_between_checkpoints(step):
                target = self._kill_rank(fault) if fault.kind == KILL_RANK else self._destroy_node(fault)
                self.strikes.append(Strike(fault, step, target))
                self._say(f"!! after step {step}: {target}")
                return
            if step == fault.step - 1:
                self._where(fault)  # asked just before, so that the strike itself is quick
            time.sleep(POLL_S)

    def _where(self, fault: Fault) -> job_pb2.Rank:
        from phalanx.v1 import job_pb2  # noqa: PLC0415

        job = self._client.jobs.GetJob(job_pb2.GetJobRequest(name=self._scene.job), timeout=CALL_TIMEOUT_S).job
        for rank in job.ranks:
            if rank.rank == fault.rank:
                return rank
        raise CliError(f"{self._scene.job} has no rank {fault.rank} now")

    def _kill_rank(self, fault: Fault) -> str:
        pid = rank_pid(self._client, self._scene.job, fault.rank, Target.PROCESS)
        kill_of_site(pid, self._directory)
        return f"SIGKILL to the training process of rank {fault.rank} (pid {pid})"

    def _destroy_node(self, fault: Fault) -> str:
        node = self._where(fault).node
        answer = control.call(require_site(self._directory).run, {"command": "destroy_node", "node": node})
        return f"{node} destroyed with its {answer['killed']} processes, disk and shared memory"


class _Steps:
    """The newest step in a growing file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._newest = 0

    def newest(self) -> int:
        """The step of the last complete line."""
        if not self._path.exists():
            return 0
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines()[-1:]:
            self._newest = int(json.loads(line)["step"])
        return self._newest
