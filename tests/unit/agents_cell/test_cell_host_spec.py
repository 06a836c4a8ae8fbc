"""What a rank host makes of its HostSpec and its environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from phalanx.v1 import cell_pb2

from agents.cell.rank_host import NodeFolder, plain_struct, rank_environment, read_settings

ENVIRON = {"PHALANX_NODE": "n0", "PHALANX_NODE_SOCKET": "/run/n0.sock", "PHALANX_NODE_DIR": "/nodes/n0", "PATH": "/bin"}


def spec(**arguments: object) -> cell_pb2.HostSpec:
    made = cell_pb2.HostSpec(host_id="h-1", node="n0", job_uid="uid", job_name="job")
    made.workload.module = "train"
    made.workload.args.update(arguments)
    return made


def test_arguments_come_back_as_they_were_given() -> None:
    arguments: dict[str, object] = {
        "steps": 100,
        "rate": 1e-3,
        "huge": 1e300,
        "name": "x",
        "on": True,
        "none": None,
        "nested": {"list": [1, 2.5, "three", {"four": 4}], "empty": {}},
    }
    back = plain_struct(spec(**arguments).workload.args)
    assert back == arguments
    assert json.dumps(back, sort_keys=True) == json.dumps(arguments, sort_keys=True)


def test_the_environment_of_the_rank() -> None:
    environment = rank_environment(spec(a=1), ENVIRON)
    assert environment["PATH"] == "/bin"
    assert environment["PHALANX_HOST_ID"] == "h-1"
    assert environment["PHALANX_JOB"] == "job"
    assert json.loads(environment["PHALANX_WORKLOAD"]) == {"module": "train", "path": "", "args": {"a": 1}}


@pytest.mark.parametrize(
    ("change", "environ", "message"),
    [
        ({}, {"PHALANX_NODE": "n0"}, "PHALANX_NODE_SOCKET, PHALANX_NODE_DIR not set"),
        ({"host_id": ""}, ENVIRON, "host_id"),
        ({"host_id": "../../etc"}, ENVIRON, "host_id"),
        ({"node": "n1"}, ENVIRON, "for node n1, this is n0"),
    ],
)
def test_bad_input_is_named(change: dict[str, str], environ: dict[str, str], message: str) -> None:
    made = spec()
    for name, value in change.items():
        setattr(made, name, value)
    with pytest.raises(ValueError, match=message):
        read_settings(made, environ)


def test_a_removed_or_replaced_folder_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "n0"
    path.mkdir()
    folder = NodeFolder(str(path))
    assert not folder.gone()
    path.rmdir()
    assert folder.gone()
    path.mkdir()
    assert folder.gone()
