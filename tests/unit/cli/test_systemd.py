"""The units that `phalanx systemd` writes."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.errors import Exit
from cli.systemd.units import Place, Role, files

SERVICES = sorted(
    {(name, text) for role in Role for name, text in files(role, Place()).items() if name.endswith(".service")}
)
ANALYZE = shutil.which("systemd-analyze")


def parsed(text: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    return unit


@pytest.mark.parametrize(("name", "text"), SERVICES, ids=[name for name, _ in SERVICES])
def test_a_unit_keeps_the_promises(name: str, text: str) -> None:
    assert "@" not in re.sub(r"postgresql://phalanx@db", "", text), "a word was left unfilled"
    service = parsed(text)["Service"]
    assert service["Restart"] == "always"
    assert int(service["LimitNOFILE"]) >= 65_536
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["UMask"]) == ("yes", "strict", "0077")
    assert service["Type"] == ("exec" if "store" in name else "notify")
    assert parsed(text)["Unit"]["StartLimitIntervalSec"] == "0", "an outage must not leave a unit failed for good"
    reads_kernel_log = name == "phalanx-node-agent.service"
    assert service["CapabilityBoundingSet"] == ("CAP_SYSLOG" if reads_kernel_log else "")
    assert service["ProtectKernelLogs"] == ("no" if reads_kernel_log else "yes")
    if "agent" in name:
        assert service["KillMode"] == "process", "ranks outlive agents"
    for line in text.splitlines():
        if line.startswith("Environment="):
            assert not re.search(r"(?i)(password|secret|token|key)=", line), line


def test_secrets_come_as_credentials() -> None:
    texts = dict(SERVICES)
    postgresql = parsed(texts["phalanx-controller-postgresql.service"])["Service"]
    assert postgresql["LoadCredential"].startswith("journal-password:/etc/")
    assert "${CREDENTIALS_DIRECTORY}/journal-password" in postgresql["ExecStart"]
    cell = parsed(texts["phalanx-cell-agent.service"])["Service"]
    assert cell["LoadCredential"].startswith("ray-token:/etc/")
    assert "RAY_AUTH_TOKEN_PATH=%d/ray-token" in cell["Environment"]


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed; the parser test above still ran")
def test_systemd_takes_the_units_and_would_say_what_is_wrong(tmp_path: Path) -> None:
    for name, text in SERVICES:
        (tmp_path / name).write_text(text)
    good = verify(*tmp_path.glob("*.service"))
    assert (good.returncode, good.stderr) == (0, "")
    broken = tmp_path / "broken.service"
    broken.write_text(SERVICES[0][1].replace("Type=notify", "Type=sometimes").replace("ExecStart=", "ExecBegin="))
    bad = verify(broken)
    assert bad.returncode != 0
    assert "ExecBegin" in bad.stderr


def verify(*paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ANALYZE), "verify", *map(str, paths)], capture_output=True, text=True, check=False)


def test_the_command_writes_and_does_not_overwrite_what_was_changed(
    phalanx: Callable[..., Any], tmp_path: Path
) -> None:
    first = phalanx("systemd", "--role", "node-agent", "-o", "units", "--user", "trainer", "--shared", "/lustre")
    assert (first.code, first.out.split()) == (0, ["units/phalanx-node-agent.service", "units/node-agent.env"])
    text = (tmp_path / "units/phalanx-node-agent.service").read_text()
    assert "User=trainer" in text
    assert "ReadWritePaths=-/lustre" in text
    assert (
        phalanx("systemd", "--role", "node-agent", "-o", "units", "--user", "trainer", "--shared", "/lustre").code == 0
    )
    (tmp_path / "units/node-agent.env").write_text("PHALANX_ADDRESS=10.9.9.9\n")
    again = phalanx("systemd", "--role", "node-agent", "-o", "units", "--user", "trainer", "--shared", "/lustre")
    assert again.code == Exit.CONFLICT
    assert (tmp_path / "units/node-agent.env").read_text() == "PHALANX_ADDRESS=10.9.9.9\n"


def test_without_a_folder_it_prints(phalanx: Callable[..., Any]) -> None:
    outcome = phalanx("systemd", "--role", "controller")
    assert (outcome.code, outcome.err) == (0, "")
    assert "[Service]" in outcome.out
    assert "PHALANX_LISTEN=" in outcome.out


@pytest.mark.parametrize(("name", "text"), SERVICES, ids=[name for name, _ in SERVICES])
def test_a_unit_starts_a_process_with_options_that_it_has(name: str, text: str) -> None:
    words = shlex.split(parsed(text)["Service"]["ExecStart"])
    module = words[words.index("-m") + 1]
    shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True).stdout
    used = {word for word in words if word.startswith("--")}
    assert used <= set(re.findall(r"--[a-z-]+", shown)), f"{module} does not have what {name} gives it"


@pytest.mark.parametrize("role", list(Role))
def test_every_word_of_a_unit_is_in_its_environment_file(role: Role) -> None:
    texts = files(role, Place())
    (environment,) = (text for name, text in texts.items() if name.endswith(".env"))
    given = set(re.findall(r"^(PHALANX_\w+)=", environment, re.MULTILINE))
    wanted = {
        word for name, text in texts.items() if name.endswith(".service") for word in re.findall(r"PHALANX_\w+", text)
    }
    assert wanted <= given
    assert not re.search(r"(?im)^\w*(password|secret|token|key)\w*=", environment)
