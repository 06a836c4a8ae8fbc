import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.__main__ import run

sys.path.insert(0, str(Path(__file__).parent))

from fake_controller import FakeController, Served


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    one = Served()
    monkeypatch.setenv("PHALANX_ADDRESS", one.address)
    monkeypatch.setenv("PHALANX_PLAINTEXT", "1")
    yield one
    one.stop()


@pytest.fixture
def controller(served: Served) -> FakeController:
    return served.controller


@pytest.fixture
def phalanx(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Runs one command in an empty folder and returns its exit code and both streams."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Outcome:
        capfd.readouterr()
        code = run(arguments)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
