"""The systems under comparison: how each is started, where it is hit, and the settings that were chosen for it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from phalanx.v1 import types_pb2

from cli.commands.fault import Target, rank_pid
from cli.supervisor import control
from tests.benchmarks.recovery import on_ray_train, on_torchft, steplog
from tests.benchmarks.recovery.workload import CHECKPOINT_EVERY, RANKS
from tests.e2e.site import RunningSite, poll

ROOT = Path(__file__).resolve().parents[3]
STEPS = 1_000_000
"""More than any run reaches: the systems are stopped, they do not finish."""
RANK, RANK0, TWO, ACTOR, NODE = "rank", "rank0", "two", "actor", "node"
WHOLE = "whole"
"""A rank is killed, and what counts is when it has made a step too: of a system that goes on without it until then."""
PARKED = 2
"""Processes that stand by on a node under Phalanx: two ranks that are killed at once may be of one node."""
JOB = "bench"
STOP_S = 10.0


class System(Protocol):
    """One system, started once per block."""

    name: str
    settings: str
    kinds: tuple[str, ...]
    log: Path
    ranks: int
    elastic: bool
    """Survivors go on without a rank that is lost: what counts when it is killed is their next step, and not its."""

    def start(self) -> None:
        """Begin training from step 0 on an empty log."""

    def stand_by(self) -> None:
        """Return when it is as ready for the next fault as it will ever be."""

    def kill(self, kind: str, ranks: Sequence[int]) -> int:
        """Strike these ranks at once, or what they are on; returns the monotonic nanoseconds just before."""

    def phases_s(self) -> dict[str, float]:
        """Where the system itself says the time of its last recovery went; empty when it does not say."""

    def stop(self) -> None:
        """End everything that `start` began."""


class Phalanx:
    """A real site on this machine: three nodes, ranks on two of them, parked processes on all.

    Args:
        folder: of its own.
        ranks: an even number of them.
        warm_nodes: spare nodes on which processes for all ranks of a node stand by.
        parked: processes that stand by on every node of the job.
    """

    name = "phalanx"
    settings = "phalanx up --nodes 3 --accelerators 2; spares: {warmNodes: 1, parkedPerNode: 2}; defaults otherwise"
    kinds: tuple[str, ...] = (RANK, RANK0, TWO, ACTOR, NODE)
    elastic = False

    def __init__(self, folder: Path, ranks: int = RANKS, warm_nodes: int = 1, parked: int = PARKED) -> None:
        self.ranks = ranks
        self._warm_nodes = warm_nodes
        self._parked = parked
        self._folder = folder
        self.log = folder / "steps.log"
        self._site: RunningSite | None = None
        self._destroyed = ""

    @property
    def site(self) -> RunningSite:
        """The running site."""
        assert self._site is not None, "start() comes first"
        return self._site

    def start(self) -> None:
        _empty(self._folder)
        self._site = RunningSite(self._folder / "site", nodes=3, accelerators=self.ranks // 2)
        module = "tests.benchmarks.recovery.on_phalanx"
        self.site.submit(
            JOB,
            module,
            ranks=self.ranks,
            every=CHECKPOINT_EVERY,
            parked=self._parked,
            warm=self._warm_nodes,
            path=str(ROOT),
            log=str(self.log),
            steps=STEPS,
        )

    def stand_by(self) -> None:
        if self._destroyed:
            self.site.phalanx("inject", "restart-node", self._destroyed)
            self._destroyed = ""
        poll(self._warm, "parked processes on every node of the job and on its spare", 90, 0.1)

    def _warm(self) -> bool:
        job = self.site.job(JOB)
        nodes = [rank.node for rank in job.ranks]
        most = max(nodes.count(node) for node in nodes) if nodes else 1
        parked = [host.node for host in job.parked if host.state == types_pb2.RANK_STATE_PARKED]
        spare = not self._warm_nodes or any(parked.count(node) >= most for node in {*parked} - {*nodes})
        ready = all(parked.count(node) >= self._parked for node in {*nodes})
        return job.state == types_pb2.JOB_STATE_RUNNING and spare and ready

    def kill(self, kind: str, ranks: Sequence[int]) -> int:
        if kind == NODE:
            self._destroyed = next(row.node for row in self.site.job(JOB).ranks if row.rank == ranks[0])
            killed_ns = time.monotonic_ns()
            control.call(self.site.site.run, {"command": "destroy_node", "node": self._destroyed})
            return killed_ns
        targets = (Target.ACTOR, Target.HOST) if kind == ACTOR else (Target.PROCESS,)
        return _kill([rank_pid(self.site.client, JOB, rank, target) for rank in ranks for target in targets])

    def phases_s(self) -> dict[str, float]:
        recoveries = self.site.job(JOB).recoveries
        return dict(recoveries[-1].phases_s) if recoveries else {}

    def stop(self) -> None:
        if self._site is not None:
            self._site.down()
            self._site = None


class _Peer:
    """A system that is one command with worker processes below it."""

    name = ""
    settings = ""
    kinds: tuple[str, ...] = (RANK,)
    ranks = RANKS
    elastic = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / "steps.log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        """What is run."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What it finds beside the ordinary environment."""
        return {}

    def start(self) -> None:
        _empty(self._folder)
        with open(self._folder / "output.log", "wb") as output:
            self._process = subprocess.Popen(
                [*self.command(), str(self.log), str(self._folder / "checkpoints"), str(STEPS)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=os.environ
                | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
                | self.environment(),
                start_new_session=True,
            )

    def stand_by(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"{self.name} has ended: {self._last_words()}")

    def kill(self, kind: str, ranks: Sequence[int]) -> int:
        pids = self.pids()
        return _kill([pids[rank] for rank in ranks])

    def pids(self) -> dict[int, int]:
        """The newest process of every rank that has written to the log."""
        return {line.rank: line.pid for line in steplog.read(self.log)}

    def phases_s(self) -> dict[str, float]:
        return {}

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_S)
        self._process = None

    def _last_words(self) -> str:
        lines = (self._folder / "output.log").read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


class Torchrun(_Peer):
    """torchrun elastic on one node."""

    name = "torchrun"
    settings = (
        f"torchrun --nnodes=1 --nproc-per-node={RANKS} --max-restarts=1000 --monitor-interval=0.1 --rdzv-backend=c10d "
        "(script: a store prefix per attempt)"
    )

    def command(self) -> Sequence[str]:
        return (
            sys.executable, "-m", "torch.distributed.run", "--nnodes=1", f"--nproc-per-node={RANKS}",
            "--max-restarts=1000", "--monitor-interval=0.1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0",
            "--local-addr=127.0.0.1", "-m", "tests.benchmarks.recovery.on_torchrun",
        )  # fmt: skip


class RayTrain(_Peer):
    """Ray Train v2 on a local Ray cluster of its own. Its rank process is its Ray actor: one kill is both."""

    name = "ray_train"
    settings = (
        f"TorchTrainer, v2, FailureConfig(max_failures=-1), RAY_TRAIN_HEALTH_CHECK_INTERVAL_S={on_ray_train.HEALTH_CHECK_S}, "
        f"node health checks {on_ray_train.SYSTEM_CONFIG}"
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._temporary = Path(tempfile.gettempdir()) / f"phx-ray-{secrets.token_hex(4)}"  # sockets need short paths

    def command(self) -> Sequence[str]:
        return (sys.executable, "-m", "tests.benchmarks.recovery.on_ray_train")

    def environment(self) -> dict[str, str]:
        token = self._folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        return {
            "RAY_TRAIN_V2_ENABLED": "1",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(on_ray_train.HEALTH_CHECK_S),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_TMPDIR": str(self._temporary),
        }

    def start(self) -> None:
        self._temporary.mkdir(mode=0o700, exist_ok=True)
        super().start()

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self._temporary, ignore_errors=True)


class Torchft(_Peer):
    """torchft: a lighthouse, and each rank a replica group of its own that is started again when it is dead."""

    name = "torchft"
    settings = (
        f"one replica group per rank, at least {on_torchft.LEAST_RANKS}; lighthouse: heartbeat time-out "
        f"{on_torchft.HEARTBEAT_TIMEOUT_MS} ms (default 5,000), join time-out {on_torchft.JOIN_TIMEOUT_MS} ms, tick "
        f"{on_torchft.TICK_MS} ms; another guarantee: rank is the survivors' next step, on a smaller batch, whole is all ranks'"
    )
    kinds = (RANK, WHOLE)
    elastic = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._killed: set[int] = set()

    def command(self) -> Sequence[str]:
        return (sys.executable, "-m", "tests.benchmarks.recovery.on_torchft")

    def environment(self) -> dict[str, str]:
        return {"RUST_LOG": "error"}  # otherwise several lines a step

    def stand_by(self) -> None:
        super().stand_by()
        poll(self._whole, "all ranks take part again", 90, 0.1)

    def kill(self, kind: str, ranks: Sequence[int]) -> int:
        pids = self.pids()
        self._killed |= {pids[rank] for rank in ranks}
        return super().kill(kind, ranks)

    def _whole(self) -> bool:
        made = [line for line in steplog.tail(self.log) if line.event == steplog.STEP and line.pid not in self._killed]
        newest = max((line.step for line in made), default=0)
        return len({line.rank for line in made if line.step == newest - 1}) == RANKS


NEEDS = {RayTrain.name: "ray.train", Torchft.name: "torchft"}
"""What a peer must be able to import, beyond what every system has."""


def missing(system: type[System] | type[_Peer]) -> str:
    """Why a system cannot run here; empty when it can."""
    module = NEEDS.get(system.name)
    if module is None:
        return ""
    probe = subprocess.run(
        [sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=120, check=False
    )
    return "" if probe.returncode == 0 else f"{module} cannot be imported: {probe.stderr.strip().splitlines()[-1]}"


def _kill(pids: Sequence[int]) -> int:
    killed_ns = time.monotonic_ns()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return killed_ns


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
