"""What scripts rely on: exit codes, data on standard output and nothing else there, one form of JSON everywhere."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import grpc
import pytest
import yaml
from phalanx.v1 import agent_pb2, checkpoint_pb2, event_pb2, fleet_pb2, job_pb2
from phalanx.v1 import types_pb2 as t

from cli.__main__ import build
from cli.catalogue import COMMANDS
from cli.errors import Exit

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "cli"))

from fake_controller import Refusal, Served

CODES = {
    "OK": 0, "ERROR": 1, "USAGE": 2, "NOT_FOUND": 3, "NOT_ALLOWED": 4, "CONFLICT": 5, "TIMED_OUT": 6, "DEGRADED": 7,
    "INTERRUPTED": 130,
}  # fmt: skip
NASTY = "\x1b[31mred\x1b[0m \r\n\x07 \u202e\x00"
MANIFEST = (
    "apiVersion: phalanx/v1\nkind: TrainingJob\nmetadata: {name: moe}\n"
    "spec: {workload: {module: m}, ranks: 4, labels: 1}\n"
)


@dataclass
class Outcome:
    code: int
    out: str
    err: str


class Shell:
    """Runs `phalanx` as a process without a terminal, against a controller that answers from tables."""

    def __init__(self, served: Served, folder: Path) -> None:
        self.controller = served.controller
        self.folder = folder
        self._environment = dict(os.environ) | {
            "PHALANX_ADDRESS": served.address,
            "PHALANX_PLAINTEXT": "1",
            "XDG_CONFIG_HOME": str(folder / "config"),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }

    def __call__(self, *arguments: str, **environment: str) -> Outcome:
        done = subprocess.run(
            (sys.executable, "-m", "cli", *arguments),
            capture_output=True, cwd=self.folder, env=self._environment | environment, stdin=subprocess.DEVNULL, timeout=60,
            check=False,
        )  # fmt: skip
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    served = Served()
    shell = Shell(served, tmp_path_factory.mktemp("cli"))
    controller = served.controller
    spec = t.TrainingJobSpec(name="moe", ranks=4, labels={"team": NASTY})
    controller.jobs["moe"] = job_pb2.Job(name="moe", state=t.JOB_STATE_RUNNING, spec=spec, blocker=NASTY)
    devices = [agent_pb2.AcceleratorStatus(index=0, state=t.ACCELERATOR_STATE_HEALTHY)]
    cordon = fleet_pb2.CordonReason(owner="operator", reason=NASTY)
    for number in (1, 2):
        controller.nodes[f"node-{number}"] = fleet_pb2.Node(
            name=f"node-{number}", labels={"rack": f"r{number}"}, accelerators=devices, cordons=[cordon],
            liveness=t.NODE_LIVENESS_ALIVE, service=t.NODE_SERVICE_IN_SERVICE, agent_version="0.2.0",
        )  # fmt: skip
    controller.checkpoints = [
        checkpoint_pb2.Checkpoint(id="c1", job="moe", step=20, state=t.CHECKPOINT_STATE_VERIFIED, reason=NASTY)
    ]
    controller.events = [event_pb2.Event(revision=3, type="RankExited", job="moe", message=NASTY, body_json="{}")]
    yield shell
    served.stop()


def test_the_exit_codes_are_these() -> None:
    assert {code.name: int(code) for code in Exit} == CODES


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("get", "jobs"), Exit.OK),
        (("frobnicate",), Exit.USAGE),
        (("--dir", "x", "get", "jobs"), Exit.USAGE),
        (("get", "noodes"), Exit.USAGE),
        (("get", "nodes", "-l", "a in b"), Exit.USAGE),
        (("get", "nodes", "--field", "stat=x"), Exit.USAGE),
        (("get", "checkpoints", "-l", "a=b"), Exit.USAGE),
        (("get", "nodes", "node-[3-1]"), Exit.USAGE),
        (("get", "jobs", "--colour"), Exit.USAGE),
        (("watch", "moe", "--timeout", "soon"), Exit.USAGE),
        (("logs", "moe", "--rank", "0-99"), Exit.USAGE),
        (("cancel", "moe"), Exit.USAGE),
        (("restart", "moe"), Exit.USAGE),
        (("drain", "node-1", "--reason", "fan"), Exit.USAGE),
        (("submit", "-f", "job.yaml"), Exit.USAGE),
        (("get", "nodes", "node-[1-3]"), Exit.NOT_FOUND),
        (("describe", "job", "nobody"), Exit.NOT_FOUND),
        (("describe", "rank", "moe/9"), Exit.NOT_FOUND),
        (("get", "jobs", "--context", "nowhere"), Exit.NOT_FOUND),
        (("explain", "trainingjob.spec.nothing"), Exit.NOT_FOUND),
        (("watch", "moe", "--timeout", "200ms"), Exit.TIMED_OUT),
        (("version",), Exit.OK),
    ],
)
def test_every_kind_of_end_has_its_code(shell: Shell, arguments: tuple[str, ...], code: Exit) -> None:
    (shell.folder / "job.yaml").write_text(MANIFEST)
    outcome = shell(*arguments)
    assert outcome.code == code, outcome.err
    if code is not Exit.OK:
        assert outcome.out == "", "errors are no data"
        assert outcome.err.lower().count("error:") >= 1 or code is Exit.TIMED_OUT


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, Exit.NOT_ALLOWED),
        (grpc.StatusCode.FAILED_PRECONDITION, Exit.CONFLICT),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Exit.TIMED_OUT),
        (grpc.StatusCode.INTERNAL, Exit.ERROR),
    ],
)
def test_what_the_controller_refuses_has_its_code(shell: Shell, status: grpc.StatusCode, code: Exit) -> None:
    shell.controller.refusals["CordonNodeRequest"] = Refusal(status, "no", "REASON")
    try:
        assert shell("cordon", "node-1", "--reason", "fan").code == code
    finally:
        shell.controller.refusals.clear()


def test_a_degraded_controller_is_7(shell: Shell) -> None:
    before = shell.controller.site
    shell.controller.site = fleet_pb2.GetSiteResponse(journal_state="disk full")
    try:
        outcome = shell("get", "site", "-o", "json")
    finally:
        shell.controller.site = before
    assert outcome.code == Exit.DEGRADED
    assert json.loads(outcome.out)["journal_state"] == "disk full"


DOCUMENTS = (
    ("get", "jobs"), ("get", "nodes"), ("get", "checkpoints"), ("get", "events"), ("get", "site"), ("nodes",),
    ("events",), ("why", "job", "moe"), ("checkpoints", "ls"), ("context", "ls"), ("version",),
)  # fmt: skip


@pytest.mark.parametrize("arguments", DOCUMENTS, ids=" ".join)
def test_documents_parse_and_agree_in_both_forms(shell: Shell, arguments: tuple[str, ...]) -> None:
    as_json, as_yaml = (shell(*arguments, "-o", form) for form in ("json", "yaml"))
    assert (as_json.code, as_yaml.code) == (0, 0), as_json.err
    assert json.loads(as_json.out) == yaml.safe_load(as_yaml.out)


@pytest.mark.parametrize(
    "arguments",
    [*DOCUMENTS, ("get", "nodes", "-o", "wide"), ("describe", "job", "moe"), ("describe", "node", "node-1"),
     ("describe", "checkpoint", "c1"), ("get", "nodes", "-o", "name")],
    ids=" ".join,
)  # fmt: skip
def test_what_others_wrote_moves_no_cursor_and_there_is_no_colour(shell: Shell, arguments: tuple[str, ...]) -> None:
    outcome = shell(*arguments)
    assert outcome.code == 0, outcome.err
    for text in (outcome.out, outcome.err):
        assert all(sign == "\n" or sign.isprintable() for sign in text), repr(text)


def test_selection_by_name_range_label_and_field(shell: Shell) -> None:
    def names(*more: str) -> list[str]:
        return shell("get", "nodes", "-o", "name", *more).out.split()

    assert names() == ["node-1", "node-2"]
    assert names("node-[2,1]") == ["node-2", "node-1"]
    assert names("-l", "rack!=r1") == ["node-2"]
    assert names("--field", "rack=R1,liveness=alive") == ["node-1"]


def leaves(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from leaves(f"{path} {name}", below)
    else:
        yield path, command


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(name: str) -> None:
    for path, command in leaves(f"phalanx {name}", build(name).click.commands[name]):
        assert command.help, path
        assert (command.epilog or "").startswith("Example: "), path
        assert path in (command.epilog or ""), path


@pytest.mark.parametrize("name", ["get", "checkpoints"])
def test_help_goes_to_standard_output(shell: Shell, name: str) -> None:
    outcome = shell(name, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Usage: phalanx {name}")
