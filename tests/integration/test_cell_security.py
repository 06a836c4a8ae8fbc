"""Nobody without the token gets into a cell, and nothing of it listens beyond loopback."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import grpc
import pytest
from phalanx.v1 import cell_pb2

from tests.fixtures.cell_launcher import listening_sockets, processes_with
from tests.fixtures.cell_peers import kill_session

if TYPE_CHECKING:  # at run time pytest imports it as a plugin, once
    from tests.fixtures.cell_fixtures import CellSite

pytest_plugins = ["tests.fixtures.cell_fixtures"]

GCS_METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetClusterId",
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
)
RAYLET_METHOD = "/ray.rpc.NodeManagerService/GetNodeStats"
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")


@pytest.fixture
def site(cell_site: CellSite) -> CellSite:
    return cell_site


def call(address: str, method: str, token: str = "") -> grpc.StatusCode:
    """Status of an empty request."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=30, metadata=metadata)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", GCS_METHODS)
def test_the_gcs_refuses_strangers(site: CellSite, method: str) -> None:
    assert call(site.cell.address, method) is grpc.StatusCode.UNAUTHENTICATED
    assert call(site.cell.address, method, "0" * 64) is grpc.StatusCode.UNAUTHENTICATED
    assert call(site.cell.address, method, site.cell.token) is grpc.StatusCode.OK


def test_raylets_refuse_strangers(site: CellSite) -> None:
    for name in ("head", "n0", "n1"):
        ports = [port for _, _, port in listening_sockets([site.cell.processes[name].pid])]
        answers = {port: call(f"127.0.0.1:{port}", RAYLET_METHOD) for port in ports}
        assert grpc.StatusCode.OK not in answers.values()
        with_token = [port for port in ports if call(f"127.0.0.1:{port}", RAYLET_METHOD, site.cell.token).value[0] == 0]
        assert [answers[port] for port in with_token] == [grpc.StatusCode.UNAUTHENTICATED]


def test_a_driver_with_a_wrong_token_does_not_get_in(site: CellSite) -> None:
    wrong = site.root / "wrong-token"
    wrong.touch(mode=0o600)
    wrong.write_text("0" * 64)
    environment = site.cell.environment | {"RAY_AUTH_TOKEN_PATH": str(wrong), "RAY_NUM_REDIS_GET_RETRIES": "1"}
    out = subprocess.run(
        [sys.executable, "-c", f"import ray; ray.init(address='{site.cell.address}')"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert out.returncode != 0
    assert "ConnectionError" in out.stderr


def test_everything_listens_on_loopback_only(site: CellSite) -> None:
    spec = site.spec("n0", {"sleep": True})
    host_pid = site.run_host(spec)
    sockets = list(listening_sockets(processes_with(str(site.root))))
    kill_session(host_pid)

    assert len(sockets) >= 4  # GCS, three raylets
    assert [found for found in sockets if found[1] not in LOOPBACK] == []
    site.controller.actor(spec.host_id, cell_pb2.ACTOR_STATE_DEAD)


def test_the_agent_does_not_start_without_a_token(site: CellSite) -> None:
    environment = {name: value for name, value in site.cell.environment.items() if not name.startswith("RAY_AUTH")}
    out = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "agents.cell",
                "--cell",
                "c1",
                "--plaintext",
                "--controller",
                site.controller.address,
            ),
            *("--ray-address", site.cell.address, "--store", "127.0.0.1:1"),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert out.returncode == 2
    assert "RAY_AUTH_TOKEN_PATH" in out.stdout
