"""Boot ids: later than the start before, whatever the clock says; changed once, and never by the older of two processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.node import boot
from agents.node.boot import Boot, new_boot_id

YEAR_NS = 365 * 86_400 * 10**9
NOW_NS = 1_790_000_000 * 10**9


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = NOW_NS
        monkeypatch.setattr(boot.time, "time_ns", lambda: self.now_ns)  # type: ignore[attr-defined] # the module's own import


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_start_says_when_it_was(clock: Clock) -> None:
    assert new_boot_id().startswith(f"{NOW_NS // 1_000:020d}-")
    assert new_boot_id() != new_boot_id()


def test_a_start_after_one_in_the_future_is_later_in_the_same_folder(clock: Clock, tmp_path: Path) -> None:
    clock.now_ns += YEAR_NS
    lost = Boot(tmp_path / "boot")
    clock.now_ns -= YEAR_NS
    lives = [Boot(tmp_path / "boot").id for _ in range(3)]
    assert [lost.id, *lives] == sorted({lost.id, *lives})
    clock.now_ns += 2 * YEAR_NS
    assert Boot(tmp_path / "boot").id.startswith(f"{clock.now_ns // 1_000:020d}"), (
        "the clock counts again once it is later"
    )


@pytest.mark.parametrize("kept", [b"", b"\xff\xfe", b"tomorrow", b"1" * 4_096, b"9" * 21 + b"-ab"])
def test_a_spoiled_file_is_no_start(clock: Clock, tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "boot").write_bytes(kept)
    assert Boot(tmp_path / "boot").id.startswith(f"{NOW_NS // 1_000:020d}-")


def test_a_folder_that_takes_nothing_ends_no_start(clock: Clock, tmp_path: Path) -> None:
    assert Boot(tmp_path / "gone" / "boot").id


def test_who_never_spoke_takes_a_later_boot_once(clock: Clock, tmp_path: Path) -> None:
    known = f"{(NOW_NS + YEAR_NS) // 1_000:020d}-ffffffff"
    one = Boot(tmp_path / "boot")
    assert one.outbid(known)
    assert one.id > known
    assert (tmp_path / "boot").read_text() == one.id
    taken = one.id
    assert not one.outbid(taken + "f"), "two processes of one name must not outbid each other for ever"
    assert one.id == taken


def test_who_has_spoken_is_the_older_of_two_and_stays_so(clock: Clock) -> None:
    one = Boot()
    one.spoken()
    before = one.id
    assert not one.outbid(f"{(NOW_NS + YEAR_NS) // 1_000:020d}-ffffffff")
    assert one.id == before


@pytest.mark.parametrize("known", ["", "zzz", f"{1:020d}-ab", "9" * 21 + "-ab"])
def test_nothing_else_is_outbid(clock: Clock, known: str) -> None:
    one = Boot()
    before = one.id
    assert not one.outbid(known)
    assert one.id == before
