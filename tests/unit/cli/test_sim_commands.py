"""`phalanx sim`: what is refused before anything is simulated, with the place and the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.errors import Exit

Phalanx = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("replay", "--seed", "12@99"), "seed 12 is of version 99 of the simulator"),
        (("replay", "--seed", "abc"), "`abc` is no seed: write 7"),
        (("sweep", "--seeds", "10-1"), "`10-1` is no span of seeds"),
        (("sweep", "--time", "5x"), "`5x` is no duration"),
        (("sweep", "--seeds", "1", "--folder", "a-file/below"), "results cannot go to a-file/below"),
        (("run", "nowhere.toml"), "nowhere.toml: cannot be read: No such file or directory"),
        (("run", "no-text"), "no-text: is not UTF-8 at byte 0"),
        (("run", "."), ".: cannot be read: Is a directory"),
        (("run", "broken.toml"), "broken.toml: not TOML: "),
        (("report", "."), ". is a folder"),
        (("report", "a-file/x.html"), "there is no folder"),
        (("ettr", "--rate", "-1"), "is not in the range"),
        (("ettr", "--phases", "nowhere.toml"), "nowhere.toml cannot be read"),
        (("ettr", "--phases", "no-text"), "it is not UTF-8 at byte 0"),
        (("ettr", "--policy", "unknown.toml"), "unknown spare"),
    ],
)
def test_bad_input_is_refused_at_once(phalanx: Phalanx, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    (tmp_path / "a-file").touch()
    (tmp_path / "no-text").write_bytes(b"\xff\xfe")
    (tmp_path / "broken.toml").write_text("x = \n")
    (tmp_path / "unknown.toml").write_text("[spare]\nwarm_nodes = 2\n")
    outcome = phalanx("sim", *arguments)
    assert outcome.code in (Exit.USAGE, Exit.NOT_FOUND), outcome.err
    assert said in outcome.err
    assert not outcome.out
