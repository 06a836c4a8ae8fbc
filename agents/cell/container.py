"""The command line that runs a rank process in a container image, on podman or docker.

The container shares the node's network, process and shared-memory name spaces: ranks meet by the node's address, the node
agent finds and kills the processes by their numbers, and collectives use /dev/shm. It sees the node's folder, the folder
of the agent's socket and the checkpoints, and nothing else of the node.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress

from phalanx.v1 import cell_pb2

RUNTIMES = ("podman", "docker")
OPTIONS_VARIABLE = "PHALANX_CONTAINER_OPTIONS"
"""In a node's environment: options of the site for `run`, for example `--device nvidia.com/gpu=all`."""
REMOVE_LIMIT_S = 10.0
SIGNAL_BASE = 128
"""What runtimes add to the number of the signal that ended a container."""


class NoRuntime(Exception):
    """This machine cannot run containers; the message says what to do."""


def find_runtime() -> str:
    """Path of the container runtime. Raises NoRuntime."""
    for name in RUNTIMES:
        found = shutil.which(name)
        if found:
            return found
    raise NoRuntime(
        f"neither {' nor '.join(RUNTIMES)} is installed: install one on every node, or ship the code with `folder:`"
    )


def container_name(host_id: str) -> str:
    """Name of a host's container, for `podman ps` and for its removal."""
    return f"phalanx-{host_id}"


def run_command(
    spec: cell_pb2.HostSpec, runtime: str, environment: Mapping[str, str], *, user: int, group: int
) -> list[str]:
    """The command. Values of variables do not stand in it: the runtime copies them from its own environment.

    Folders must exist. `environment` is the rank process's; `user` and `group` are whose files it may touch.
    """
    node_dir = environment["PHALANX_NODE_DIR"]
    folders = {node_dir, os.path.dirname(environment["PHALANX_NODE_SOCKET"]), spec.checkpoint_folder} - {""}
    rootless = ["--userns=keep-id"] if user and os.path.basename(runtime) == "podman" else []
    return [
        runtime, "run", "--rm", f"--name={container_name(spec.host_id)}",
        "--network=host", "--pid=host", "--ipc=host", f"--user={user}:{group}", *rootless,
        "--log-driver=none", "--security-opt=label=disable",
        *(f"--volume={folder}:{folder}" for folder in sorted(folders)), f"--workdir={node_dir}",
        *(f"--env={name}" for name in sorted(environment) if name.startswith("PHALANX_")),
        *shlex.split(environment.get(OPTIONS_VARIABLE, "")),
        "--entrypoint=python3", spec.workload.image, "-u", "-m", "agents.cell.contained", str(os.getpid()),
    ]  # fmt: skip


def remove(runtime: str, host_id: str) -> None:
    """End a container whose runtime client is gone; a daemon may hold it where no signal of ours reaches."""
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [runtime, "rm", "--force", container_name(host_id)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=REMOVE_LIMIT_S,
            check=False,
        )
