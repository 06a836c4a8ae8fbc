"""`phalanx policy show` and `check`: the numbers of a site, and files that are refused with the place and the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_controller import FakeController

from cli.errors import Exit
from controlplane.core.draft import Policy
from controlplane.core.site_policy import values

Phalanx = Callable[..., Any]


def test_show_tells_value_default_and_meaning(phalanx: Phalanx, controller: FakeController) -> None:
    controller.settings = {**values(Policy()), "ladder.groups_s": 20.0, "newer.thing": 3.0}
    lines = phalanx("policy", "show").out.splitlines()
    assert len(lines) == len(controller.settings) + 1
    changed = phalanx("policy", "show", "--changed").out.splitlines()
    assert [line.split()[:4] for line in changed[1:]] == [
        ["ladder.groups_s", "20s", "15s", "--policy"],
        ["newer.thing", "3", "-", "-"],
    ]
    assert json.loads(phalanx("policy", "show", "--changed", "-o", "json").out) == {
        "settings": {"ladder.groups_s": 20.0, "newer.thing": 3.0},
        "fault_table": "0a1b",
    }


def test_check_shows_what_a_file_changes_and_asks_nobody(
    phalanx: Phalanx, controller: FakeController, tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text('hang_ms = "20m"\n[ladder]\ngroups_s = 20\n')
    outcome = phalanx("policy", "check", "policy.toml", "-o", "name")
    assert (outcome.code, outcome.out) == (Exit.OK, "hang_ms\nladder.groups_s\n")
    assert not controller.requests


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (None, "policy.toml cannot be read"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"x" * (1 << 20) + b"x", "more than 1048576 bytes"),
        (b"[ladder]\ngroup_s = 20\n", "nothing is named `ladder.group_s`; did you mean `groups_s`?"),
    ],
)
def test_check_refuses_with_the_reason(phalanx: Phalanx, tmp_path: Path, raw: bytes | None, said: str) -> None:
    if raw is not None:
        (tmp_path / "policy.toml").write_bytes(raw)
    outcome = phalanx("policy", "check", "policy.toml")
    assert outcome.code == Exit.USAGE
    assert said in outcome.err


def test_up_reads_the_file_before_anything_is_started(phalanx: Phalanx, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("hang_ms = -1\n")
    outcome = phalanx("up", "--dir", str(tmp_path / "site"), "--policy", "policy.toml")
    assert outcome.code == Exit.USAGE
    assert "hang_ms: -1ms is not between 10s and 24h" in outcome.err
    assert not (tmp_path / "site").exists()
