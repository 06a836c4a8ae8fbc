"""How long Slurm takes to call a node DOWN whose daemon stands still: Debian's slurmctld and one slurmd, without munge.

One node, because what is measured is a setting (`SlurmdTimeout`) and the rounds in which it is looked at.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.controller_process import until
from tests.fixtures.ports import free_port

LIMIT_S = 60.0
TIMEOUTS_S = {"default": 300, "tuned": 3}
"""`SlurmdTimeout`: Slurm's own, and our lease."""


@dataclass(frozen=True)
class Found:
    """Seconds from the stop of the daemon until the node is DOWN."""

    name: str
    timeout_s: int
    down_s: float


def installed() -> bool:
    """Whether both daemons are there."""
    return all(shutil.which(name) for name in ("slurmctld", "slurmd", "sinfo"))


def _configuration(folder: Path, timeout_s: int) -> str:
    host = socket.gethostname().partition(".")[0]
    return f"""\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder / "state"}
SlurmdSpoolDir={folder / "spool"}
SlurmctldPidFile={folder / "slurmctld.pid"}
SlurmdPidFile={folder / "slurmd.pid"}
SlurmctldLogFile={folder / "slurmctld.log"}
SlurmdLogFile={folder / "slurmd.log"}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SlurmdTimeout={timeout_s}
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@contextmanager
def cluster(timeout_s: int) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """Both daemons: the node's process, and what the controller calls the node now."""
    folder = Path(tempfile.mkdtemp(prefix="phx-slurm-"))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(_configuration(folder, timeout_s))
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def begin(name: str) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.out").open("wb") as out:
            return subprocess.Popen([name, "-D"], env=environment, stdout=out, stderr=out)

    def state() -> str:
        line = ["sinfo", "--noheader", "--format=%T"]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip()

    daemons = [begin("slurmctld"), begin("slurmd")]
    try:
        yield daemons[1], state
    finally:
        for daemon in reversed(daemons):
            daemon.kill()
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _measure(name: str, timeout_s: int) -> Found:
    with cluster(timeout_s) as (node, state):
        until(lambda: state() == "idle", "Slurm's node is idle", LIMIT_S)
        began = time.monotonic()
        node.send_signal(signal.SIGSTOP)
        until(lambda: state().startswith("down"), "Slurm calls the node DOWN", 3 * timeout_s + LIMIT_S)
        return Found(name, timeout_s, time.monotonic() - began)


def measure(timeouts_s: dict[str, int] | None = None) -> list[Found]:
    """One node that stands still, at each setting."""
    return [_measure(name, timeout_s) for name, timeout_s in (timeouts_s or TIMEOUTS_S).items()]
