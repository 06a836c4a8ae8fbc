"""sd_notify, as both kinds of process speak it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.node import supervision as of_agents
from controlplane.observability import supervision as of_controller

BOTH = pytest.mark.parametrize("tell", [of_agents.tell_supervisor, of_controller.tell_supervisor])


@BOTH
@pytest.mark.parametrize("abstract", [False, True])
def test_facts_arrive(
    tell: Callable[..., None], abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"\0{tmp_path.name}-notify" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(name)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        tell("READY=1", "STATUS=leads")
        assert supervisor.recv(1024) == b"READY=1\nSTATUS=leads"


@BOTH
def test_without_a_supervisor_nothing_happens(
    tell: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    tell("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    tell("READY=1")


def test_the_two_copies_are_one() -> None:
    """Agents never import the control plane, so that each has its copy of these few lines."""
    assert Path(of_agents.__file__).read_text() == Path(of_controller.__file__).read_text()
