"""How the supervisor runs a Ray cell: `gcs_server` and `raylet` as binaries, without importing Ray.

The decisions and measurements behind every flag are in docs/design/0002-ray-cell.md. The flags are private to Ray:
its version is pinned, and an integration test starts a cell. `python -m cli.supervisor.ray_cell` prepares folders and
then becomes the binary (exec), so the supervised process is Ray's own.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.supervisor.plan import Unit

LOOPBACK = "127.0.0.1"
SESSION = "s"
HEAD = "head"
OBJECT_STORE_BYTES = 80_000_000
AGENT_STUB = subprocess.list2cmdline(["/bin/sh", "-c", "exec cat >/dev/null", "agent-stub"])
"""The raylet insists on two agents; these end at end-of-file of the pipe that they have to the raylet."""

GCS_UNIT = "gcs"
BOOTSTRAP_UNIT = "cell-bootstrap"
HEAD_UNIT = "cell-head"
AGENT_UNIT = "cell-agent"


def raylet_unit(node: str) -> str:
    """Name of the unit that is a node's raylet."""
    return f"raylet-{node}"


@dataclass(frozen=True, slots=True)
class Cell:
    """Where a cell lives. `root` is in the run folder (short: sockets), `logs` is kept in the site folder."""

    root: Path
    logs: Path
    gcs_port: int

    @property
    def gcs(self) -> str:
        """Address of the GCS."""
        return f"{LOOPBACK}:{self.gcs_port}"

    @property
    def token(self) -> Path:
        """File with the authentication token (0600)."""
        return self.logs / "token"

    @property
    def bootstrap_output(self) -> Path:
        """What the bootstrap helper printed; its last line names the cluster."""
        return self.root / "bootstrap.out"

    def environment(self) -> tuple[tuple[str, str], ...]:
        """What every process that speaks to the cell needs."""
        return (
            ("RAY_AUTH_MODE", "token"),
            ("RAY_AUTH_TOKEN_PATH", str(self.token)),
            ("RAY_USAGE_STATS_ENABLED", "0"),
            ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0"),  # else 127.0.0.1 is replaced by the machine's address
            ("RAY_DEDUP_LOGS", "0"),
            ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
        )

    def prepare(self) -> None:
        """Creates folders and the token."""
        for folder in (self.root, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.token.unlink(missing_ok=True)
        descriptor = os.open(self.token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))

    def units(self, nodes: dict[str, tuple[tuple[str, str], ...]]) -> tuple[Unit, ...]:
        """GCS, bootstrap, the head without ranks, and one raylet per node (`nodes`: name to environment)."""
        quiet = (*self.environment(), ("RAY_BACKEND_LOG_LEVEL", "warning"))
        raylets = tuple(raylet_unit(node) for node in nodes)
        gcs = Unit(
            name=GCS_UNIT,
            argv=self._launcher("gcs"),
            log=str(self.logs / "gcs.log"),
            environment=quiet,
            probe=self.gcs,
            rebuilds=(BOOTSTRAP_UNIT, HEAD_UNIT, *raylets, AGENT_UNIT),
            wipes=(str(self.root / "gcs"),),
            stop_order=5,
        )
        bootstrap = Unit(
            name=BOOTSTRAP_UNIT,
            argv=(sys.executable, "-P", "-m", "agents.cell.bootstrap", "--gcs", self.gcs, "--session-name", SESSION),
            log=str(self.bootstrap_output),
            environment=self.environment(),
            needs=(GCS_UNIT,),
            one_shot=True,
            stop_order=1,
        )
        head = Unit(
            name=HEAD_UNIT,
            argv=(*self._launcher("raylet"), "--node", HEAD, "--head"),
            log=str(self.logs / "head.log"),
            environment=quiet,
            needs=(GCS_UNIT, BOOTSTRAP_UNIT),
            probe=f"unix:{self._sockets(HEAD)}/raylet",
            kills=(AGENT_UNIT,),  # a driver whose head is gone hangs
            stop_order=4,
        )
        others = tuple(
            Unit(
                name=raylet_unit(node),
                argv=(*self._launcher("raylet"), "--node", node),
                log=str(self.logs / f"raylet-{node}.log"),
                environment=(*quiet, ("OMP_NUM_THREADS", "1"), *environment),
                node=node,
                needs=(GCS_UNIT, BOOTSTRAP_UNIT),
                probe=f"unix:{self._sockets(node)}/raylet",
                stop_order=3,
            )
            for node, environment in nodes.items()
        )
        return (gcs, bootstrap, head, *others)

    def folder_of(self, node: str) -> Path:
        """Ray's folder of one node."""
        return self.root / node

    def _launcher(self, what: str) -> tuple[str, ...]:
        place = ("--root", str(self.root), "--gcs-port", str(self.gcs_port))
        return (sys.executable, "-P", "-m", "cli.supervisor.ray_cell", what, *place)

    def _session(self, node: str) -> Path:
        return self.folder_of(node) / SESSION

    def _sockets(self, node: str) -> Path:
        return self._session(node) / "sockets"

    def make_session(self, node: str) -> Path:
        """The session folder of a node. Its sockets may be those of a raylet that lives: the GCS shares the head's."""
        session = self._session(node)
        for name in ("sockets", "logs", "runtime_resources"):
            (session / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        return session

    def cluster_id(self) -> str:
        """What the bootstrap helper learned from the GCS."""
        for line in reversed(self.bootstrap_output.read_text(encoding="utf-8").splitlines()):
            if line.startswith("{"):
                return str(json.loads(line)["cluster_id"])
        raise LookupError(f"no cluster id in {self.bootstrap_output}")


def gcs_command(cell: Cell, ray: Path) -> list[str]:
    """The GCS with embedded storage: killed, it comes back as the same cluster."""
    session = cell.make_session(HEAD)
    storage = cell.root / "gcs"
    storage.mkdir(mode=0o700, exist_ok=True)
    config = {
        "gcs_storage": "rocksdb",
        "gcs_storage_path": str(storage),
        "gcs_rpc_server_reconnect_timeout_s": 600,
        "gcs_grpc_min_reconnect_backoff_ms": 100,
        "gcs_grpc_initial_reconnect_backoff_ms": 100,
        "gcs_grpc_max_reconnect_backoff_ms": 500,
        "health_check_initial_delay_ms": 1000,
        "health_check_period_ms": 100,  # with the threshold: a raylet that refuses connections is dead after 0.5 s
        "health_check_timeout_ms": 1000,
        "health_check_failure_threshold": 5,
        "kill_child_processes_on_worker_exit": False,  # or rank hosts die with their actor
        "kill_child_processes_on_worker_exit_with_raylet_subreaper": False,
        "process_group_cleanup_enabled": False,
        "memory_monitor_refresh_ms": 0,
        "worker_niceness": 0,
        "enable_worker_prestart": False,
        "prestart_worker_first_driver": False,
        "enable_metrics_collection": False,
        "task_events_report_interval_ms": 0,
        "event_stats": False,
        "enable_pipe_based_agent_to_parent_health_check": True,  # or the stubs outlive the raylet
        "automatic_object_spilling_enabled": False,
        "enable_timeline": False,
    }
    return [
        str(ray / "core/src/ray/gcs/gcs_server"),
        f"--log_dir={session}/logs",
        "--config_list=" + base64.b64encode(json.dumps(config).encode()).decode(),
        f"--gcs_server_port={cell.gcs_port}",
        "--metrics-agent-port=-1",
        f"--node-ip-address={LOOPBACK}",
        f"--session-name={SESSION}",
        f"--session-dir={session}",
        f"--node-id={secrets.token_hex(28)}",
        f"--stdout_filepath={session}/logs/gcs_server.out",
        f"--stderr_filepath={session}/logs/gcs_server.err",
    ]


def raylet_command(cell: Cell, ray: Path, node: str, *, head: bool) -> list[str]:
    """One raylet. Ranks are placed by node id and need no resources; only site nodes carry the label `phalanx.node`."""
    session = cell.make_session(node)
    cluster_id = cell.cluster_id()
    sockets = session / "sockets"
    for stale in sockets.iterdir():  # of a former life of this raylet
        stale.unlink()
    resources = f"node:{LOOPBACK},1.0,memory,1000000000,object_store_memory,{OBJECT_STORE_BYTES}"
    labels = {} if head else {"phalanx.node": node}
    return [
        str(ray / "core/src/ray/raylet/raylet"),
        f"--raylet_socket_name={sockets}/raylet",
        f"--store_socket_name={sockets}/plasma_store",
        "--object_manager_port=0",
        "--min_worker_port=0",
        "--max_worker_port=0",
        "--node_manager_port=0",
        f"--node_id={secrets.token_hex(28)}",
        f"--node_ip_address={LOOPBACK}",
        "--maximum_startup_concurrency=2",
        "--static_resource_list=" + ("node:__internal_head__,1.0," if head else "") + resources,
        "--python_worker_command=" + subprocess.list2cmdline(_worker_command(cell, ray, node, session, cluster_id)),
        "--java_worker_command=",
        "--cpp_worker_command=",
        f"--native_library_path={ray}/cpp/lib",
        f"--temp_dir={cell.folder_of(node)}",
        f"--session_dir={session}",
        f"--log_dir={session}/logs",
        f"--resource_dir={session}/runtime_resources",
        "--metrics-agent-port=1",  # agent ports must be given and not 0, or the raylet waits and aborts; none listens
        "--metrics_export_port=1",
        "--runtime_env_agent_port=1",
        "--dashboard_agent_listen_port=1",
        f"--object_store_memory={OBJECT_STORE_BYTES}",
        "--plasma_directory=/dev/shm",
        f"--fallback_directory={session}",
        "--ray-debugger-external=0",
        f"--gcs-address={cell.gcs}",
        f"--session-name={SESSION}",
        "--labels=" + json.dumps(labels),
        f"--cluster-id={cluster_id}",
        f"--stdout_filepath={session}/logs/raylet.out",
        f"--stderr_filepath={session}/logs/raylet.err",
        "--num_prestart_python_workers=0",
        f"--dashboard_agent_command={AGENT_STUB}",
        f"--runtime_env_agent_command={AGENT_STUB}",
        f"--node-name={node}",
        *(["--head"] if head else []),
    ]


def _worker_command(cell: Cell, ray: Path, node: str, session: Path, cluster_id: str) -> list[str]:
    return [
        sys.executable,
        f"{ray}/_private/workers/setup_worker.py",
        f"{ray}/_private/workers/default_worker.py",
        f"--node-ip-address={LOOPBACK}",
        "--node-manager-port=RAY_NODE_MANAGER_PORT_PLACEHOLDER",
        f"--object-store-name={session}/sockets/plasma_store",
        f"--raylet-name={session}/sockets/raylet",
        "--redis-address=None",
        "--metrics-agent-port=-1",
        "--logging-rotate-bytes=16777216",
        "--logging-rotate-backup-count=1",
        "--runtime-env-agent-port=0",
        f"--gcs-address={cell.gcs}",
        f"--session-name={SESSION}",
        f"--temp-dir={cell.folder_of(node)}",
        "--webui=",
        f"--cluster-id={cluster_id}",
        "RAY_WORKER_DYNAMIC_OPTION_PLACEHOLDER",
    ]


def ray_folder() -> Path:
    """Where Ray is installed; finds it without importing it."""
    found = importlib.util.find_spec("ray")
    if found is None or not found.submodule_search_locations:
        raise LookupError("Ray is not installed: `pip install 'phalanx[cell]'`, or start the site with --no-cell")
    return Path(found.submodule_search_locations[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepares one process of the cell and becomes it."""
    parser = argparse.ArgumentParser(prog="python -m cli.supervisor.ray_cell", description=__doc__)
    parser.add_argument("what", choices=("gcs", "raylet"))
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--gcs-port", type=int, required=True)
    parser.add_argument("--node", default=HEAD)
    parser.add_argument("--head", action="store_true")
    options = parser.parse_args(arguments)
    cell = Cell(options.root, options.root, options.gcs_port)
    ray = ray_folder()
    is_gcs = options.what == "gcs"
    command = gcs_command(cell, ray) if is_gcs else raylet_command(cell, ray, options.node, head=options.head)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
