"""Followers: they outlive a controller that is away for a moment, and end with an interrupt."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import grpc
import pytest

from cli import following
from cli.grammar import Group


class Failure(grpc.RpcError):
    """What a call raises."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__()
        self._code = code

    def code(self) -> grpc.StatusCode:
        """See grpc.Call."""
        return self._code


def failing(code: grpc.StatusCode, times: int) -> Callable[[], int]:
    calls = count(1)

    def read() -> int:
        number = next(calls)
        if number <= times:
            raise Failure(code)
        return number

    return read


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RETRY_EVERY_S", 0.0)


def test_a_read_is_asked_again_while_the_controller_is_away() -> None:
    assert following.patiently(failing(grpc.StatusCode.UNAVAILABLE, 3)) == 4


def test_a_refusal_is_told_at_once() -> None:
    with pytest.raises(Failure):
        following.patiently(failing(grpc.StatusCode.PERMISSION_DENIED, 1))


def test_a_controller_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RETRY_FOR_S", 0.0)
    with pytest.raises(Failure):
        following.patiently(failing(grpc.StatusCode.UNAVAILABLE, 10_000_000))


def test_an_interrupt_ends_a_command_with_130_and_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    group = Group("A group.")

    @group.command()
    def follow() -> None:
        """Follow."""
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        group(["follow"])
    assert end.value.code == 130
    assert capfd.readouterr() == ("", "")
