"""A stack as py-spy tells it, as one short text that is the same for all ranks that stand at the same place. No I/O.

Line numbers and the turns of polling loops differ between ranks that do the same; so a library is told by the function that the
workload called, and the workload by its own functions, the innermost first: `data.py:load < train.py:main (in socket.py:recv)`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

FRAMES = 6
"""Functions of the workload that are told."""
MOST = 512
"""Characters of a place."""
UP = " < "
DEEPEST = 400
"""Frames of a stack that are looked at, from the innermost on."""
_RANK_LIBRARY = "/agents/rank/"
_COLLECTIVES = ("/agents/rank/group.py", "/agents/rank/ddp.py", "/torch/distributed/")
_LIBRARIES = (_RANK_LIBRARY, "/site-packages/", "/dist-packages/", "/lib/python3", "<frozen ", "/runpy.py")


def place_of(frames: Sequence[Any]) -> tuple[str, bool]:
    """The place of a stack, and whether it is inside of a collective of torch or of the rank library.

    Args:
        frames: py-spy's, the innermost first; what makes no sense in them is left out.
    """
    known = [frame for frame in frames[:DEEPEST] if isinstance(frame, dict)]
    inner: list[dict[str, Any]] = []
    while known and _library(known[0]):
        inner.append(known.pop(0))
    own = [frame for frame in known if not _library(frame)]
    told = own or inner[-FRAMES:]
    text = UP.join(_named(frame) for frame in told[:FRAMES])
    if own and inner:
        text += f" (in {_named(inner[-1])})"
    inside = any(mark in _file(frame) for frame in inner for mark in _COLLECTIVES)
    return text[:MOST], inside


def main_thread(threads: Sequence[Any], pid: int) -> Sequence[Any]:
    """The frames of a process's first thread; empty when it has none."""
    for thread in threads:
        if isinstance(thread, dict) and thread.get("os_thread_id") == pid:
            frames = thread.get("frames")
            return frames if isinstance(frames, list) else ()
    return ()


def _file(frame: dict[str, Any]) -> str:
    return str(frame.get("filename") or "")


def _library(frame: dict[str, Any]) -> bool:
    return any(mark in _file(frame) for mark in _LIBRARIES)


def _named(frame: dict[str, Any]) -> str:
    name = f"{os.path.basename(_file(frame))}:{frame.get('name') or '?'}"
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:120]
