"""Which versions may talk to each other: the same major number, minor numbers that differ by at most one.

The wire only ever gains fields and messages, so that neighbours understand each other; beyond a neighbour nobody has
tried it. Used by the edge for agents, and by the CLI to show skew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

MINORS_APART = 1
FIRST_NAMED = "0.1"
"""What an empty version means in a message whose version field came with 0.2."""
_FORM = re.compile(r"(\d{1,6})\.(\d{1,6})(?:[.\-+a-z].*)?", re.DOTALL)


class Skew(StrEnum):
    """How two versions stand to each other. UNKNOWN: one of them is no number (a tree that was never packaged)."""

    SAME = "same"
    SUPPORTED = "supported"
    UNSUPPORTED = "unsupported"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """The part of a version that decides who understands whom."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def parse(text: str) -> Version | None:
    """The version in a text such as `0.2.0`; None when there is none."""
    found = _FORM.fullmatch(text.strip())
    return Version(int(found[1]), int(found[2])) if found else None


def skew(one: str, other: str) -> Skew:
    """How two versions stand to each other; the order does not matter."""
    left, right = parse(one), parse(other)
    if left is None or right is None:
        return Skew.UNKNOWN
    if left == right:
        return Skew.SAME
    near = left.major == right.major and abs(left.minor - right.minor) <= MINORS_APART
    return Skew.SUPPORTED if near else Skew.UNSUPPORTED


def fix(controller: str, peer: str) -> str:
    """What to do about two versions that are too far apart: one step of one side at a time, the controller first."""
    ours, theirs = parse(controller), parse(peer)
    if ours is None or theirs is None or skew(controller, peer) is not Skew.UNSUPPORTED:
        return ""
    if ours.major != theirs.major:
        return f"install {ours} on the peer, or start a controller of {theirs}: major versions never mix"
    if theirs < ours:
        return f"upgrade the peer to {Version(ours.major, ours.minor - MINORS_APART)} or {ours}"
    return f"upgrade the controller to {Version(ours.major, theirs.minor - MINORS_APART)} or {theirs} first"
