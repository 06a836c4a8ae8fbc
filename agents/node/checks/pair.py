"""The path between this node and another one, tested by both at once: bytes over TCP each way, then a sum over both.

Rank 0 listens and rank 1 calls. What the two find is about the path; neither of them can tell whose fault it is.
"""

from __future__ import annotations

import errno
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agents.node.checks import collective
from agents.node.checks.finding import LOSS, NODE, Answer, Finding
from agents.node.checks.network import BYTES, SEGMENT_BYTES, ChangedError, Path, receive_over, send_over

SPEED = "to a peer, bytes per second"
ROUNDS = 2
"""Transfers each way; the better one counts."""
QUIET_S = 120.0
"""The other one is given up after so much silence in the middle of the test."""
STRANGER_S = 2.0
MAX_STRANGERS = 16
MAX_LINE = 1_024
AGAIN_S = 0.2
CUT = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT})
SLOW_CHUNK_S = 0.005


class Word(StrEnum):
    """How a test ended. CUT: the network does not lead there; UNMET: the other one did not come, or broke off."""

    PASSED = "passed"
    FAILED = "failed"
    UNMET = "unmet"
    CUT = "cut"
    NOT_RUN = "not_run"


class Spoiled(StrEnum):
    """How a node with simulated accelerators breaks its path on purpose, in trials of these tests."""

    NO = ""
    BYTES = "wrong-bytes"
    SUM = "wrong-sum"
    SLOW = "slow"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class PairTest:
    """One test. `test`: the same word at both nodes. `meet_s`: how long the two may take to find each other. `sums`: add up
    through torch, too, where both have it."""

    rank: int
    address: str
    port: int
    test: str
    meet_s: float = 30.0
    sums: bool = True
    spoiled: Spoiled = Spoiled.NO


class _NotRunError(Exception):
    """Nothing could be tried here."""


class _CutError(Exception):
    """The network does not lead to the other one."""


def check(test: PairTest) -> Answer:
    """Meet, test, and say what came out."""
    try:
        with _listen(test) if test.rank == 0 else _call(test) as link:
            return _exchange(link, test)
    except ChangedError as error:
        return Answer("", word=Word.FAILED, text=str(error))
    except _NotRunError as error:
        return Answer("", word=Word.NOT_RUN, text=str(error))
    except _CutError as error:
        return Answer("", word=Word.CUT, text=str(error))
    except (OSError, ValueError) as error:
        return Answer("", word=Word.UNMET, text=str(error) or type(error).__name__)


def _listen(test: PairTest) -> socket.socket:
    if test.spoiled is Spoiled.CUT:
        raise _CutError(f"{test.address} is cut off (simulated)")
    end = time.monotonic() + test.meet_s
    family = socket.AF_INET6 if ":" in test.address else socket.AF_INET
    try:
        server = socket.create_server((test.address, test.port), family=family)
    except OSError as error:
        raise _NotRunError(f"cannot listen on {test.address}:{test.port}: {error.strerror}") from error
    with server:
        for _ in range(MAX_STRANGERS):
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                link, _ = server.accept()
            except TimeoutError as error:
                raise TimeoutError(f"nobody called within {test.meet_s:g} s") from error
            link.settimeout(STRANGER_S)
            try:
                if _hear(link).get("test") == test.test:
                    link.settimeout(QUIET_S)
                    return link
            except (OSError, ValueError):
                pass  # a stranger; the one that is waited for may still come
            link.close()
    raise TimeoutError(f"{MAX_STRANGERS} strangers called")


def _call(test: PairTest) -> socket.socket:
    if test.spoiled is Spoiled.CUT:
        raise _CutError(f"no route to {test.address} (simulated)")
    end, seen = time.monotonic() + test.meet_s, OSError("there was no time to call")
    while (left := end - time.monotonic()) > 0:
        try:
            link = socket.create_connection((test.address, test.port), min(left, QUIET_S))
        except OSError as error:
            seen = error
            time.sleep(min(AGAIN_S, left))
            continue
        link.settimeout(QUIET_S)
        _say(link, {"test": test.test})
        return link
    where = f"{test.address}:{test.port}"
    if isinstance(seen, TimeoutError) or seen.errno in CUT:
        raise _CutError(f"{where} cannot be reached: {seen.strerror or 'no answer at all'}") from seen
    raise TimeoutError(f"nobody listened on {where} within {test.meet_s:g} s: {seen.strerror or seen}") from seen


def _exchange(link: socket.socket, test: PairTest) -> Answer:
    """Bytes each way, sums, and what the other one says of them."""
    paths: list[Path] = []
    for sender in (1, 0) * ROUNDS:
        if sender == test.rank:
            paths.append(send_over(link, _broken(test.spoiled)))
        elif not receive_over(link):
            raise ChangedError(f"{BYTES >> 20} MiB came changed")
    best = max(path.bytes_per_s for path in paths)
    _say(link, {"sums": test.sums and collective.possible(), "speed": best})
    other = _hear(link)
    slower = min(best, float(other["speed"]))
    again = min(path.sent_again for path in paths)
    text = f"{slower / 1e6:,.0f} MB/s over TCP, {again * SEGMENT_BYTES / BYTES:.1%} sent again"
    backend, word = "cpu", Word.PASSED
    if test.sums and collective.possible() and other["sums"]:
        summed = _sum(link, test)
        backend, text = summed.backend, f"{summed.text}; {text}"
        word = Word.PASSED if summed.right else Word.FAILED
    lossy = all(path.lossy() for path in paths)
    found = (Finding(NODE, LOSS, text),) if lossy else ()
    return Answer(backend, found, {f"{NODE}: {SPEED}": slower}, word, text)


def _sum(link: socket.socket, test: PairTest) -> collective.Summed:
    """Both have to find it right, or it is wrong for both."""
    here = link.getsockname()[0]
    spoil = test.spoiled is Spoiled.SUM
    mine = collective.add_up(test.rank, here, test.address, lambda word: _swap(link, word), spoil=spoil)
    theirs = bool(_swap(link, {"right": mine.right})["right"])
    if mine.right and not theirs:
        return collective.Summed(mine.backend, right=False, text=f"{mine.text} here, and wrong there")
    return mine


def _broken(spoiled: Spoiled) -> Callable[[int, bytes], bytes]:
    def spoil(number: int, chunk: bytes) -> bytes:
        if spoiled is Spoiled.SLOW:
            time.sleep(SLOW_CHUNK_S)
        if spoiled is Spoiled.BYTES and number == 7:
            return b"?" + chunk[1:]
        return chunk

    return spoil


def _swap(link: socket.socket, value: dict[str, Any]) -> dict[str, Any]:
    _say(link, value)
    return _hear(link)


def _say(link: socket.socket, value: dict[str, Any]) -> None:
    link.sendall(json.dumps(value).encode() + b"\n")


def _hear(link: socket.socket) -> dict[str, Any]:
    """One line, read byte by byte: what follows it is not ours to take. Raises OSError, ValueError."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := link.recv(1)):
            raise ConnectionResetError("the other one broke off")
        line += byte
        if len(line) > MAX_LINE:
            raise ValueError("the other one says what is no word of this test")
    body = json.loads(line)
    if not isinstance(body, dict):
        raise ValueError("the other one says what is no word of this test")  # noqa: TRY004  as any other line of nonsense
    return body
