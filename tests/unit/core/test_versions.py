"""Which versions may talk to each other."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from agents.cell.config import AGENT_VERSION as CELL_VERSION
from agents.node.config import AGENT_VERSION as NODE_VERSION
from controlplane.core.versions import Skew, Version, fix, parse, skew


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.2.0", Version(0, 2)),
        ("1.14.3", Version(1, 14)),
        ("0.2", Version(0, 2)),
        ("0.2.0.dev3+g12ab", Version(0, 2)),
        ("0.2rc1", Version(0, 2)),
        (" 0.2.0\n", Version(0, 2)),
        ("", None),
        ("unpackaged", None),
        ("2", None),
        ("v0.2", None),
        ("9999999.1", None),
    ],
)
def test_what_is_a_version(text: str, expected: Version | None) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("0.2.0", "0.2.7", Skew.SAME),
        ("0.2.0", "0.1.0", Skew.SUPPORTED),
        ("0.2.0", "0.3.0", Skew.SUPPORTED),
        ("0.3.0", "0.1.0", Skew.UNSUPPORTED),
        ("1.0.0", "0.9.0", Skew.UNSUPPORTED),
        ("0.2.0", "fake", Skew.UNKNOWN),
        ("unpackaged", "0.2.0", Skew.UNKNOWN),
    ],
)
def test_neighbours_are_supported_in_either_order(one: str, other: str, expected: Skew) -> None:
    assert (skew(one, other), skew(other, one)) == (expected, expected)


@pytest.mark.parametrize(
    ("controller", "peer", "expected"),
    [
        ("0.4.0", "0.1.0", "upgrade the peer to 0.3 or 0.4"),
        ("0.1.0", "0.4.0", "upgrade the controller to 0.3 or 0.4 first"),
        ("1.0.0", "0.9.0", "install 1.0 on the peer, or start a controller of 0.9: major versions never mix"),
        ("0.2.0", "0.1.0", ""),
        ("0.2.0", "fake", ""),
    ],
)
def test_the_fix_names_the_side_to_upgrade(controller: str, peer: str, expected: str) -> None:
    assert fix(controller, peer) == expected


def test_everything_of_one_release_has_one_version() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert {NODE_VERSION, CELL_VERSION} == {project["version"]}
