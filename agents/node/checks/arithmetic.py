"""Arithmetic against a known answer: a product of small integers, which single precision holds exactly on any hardware."""

from __future__ import annotations

import time
import zlib
from typing import Any

import numpy as np

from agents.node.checks.finding import ARITHMETIC, NODE, Answer, Finding
from agents.node.checks.torch_devices import TorchDevices

SIDE = 256
KNOWN_CRC = 2_993_461_674
"""CRC-32 of the product as little-endian 32-bit integers, from Python's own integers: no machine's float is the reference."""


def factors() -> tuple[np.ndarray, np.ndarray]:
    """Two matrices of integers 0 to 15: sums stay below 2**24, so every order of adding gives the same float32."""
    i = np.arange(SIDE, dtype=np.int64)
    mixed = i[:, None] * i[None, :]
    left = (i[:, None] * 31 + i[None, :] * 17 + mixed % 13) % 16
    right = (i[:, None] * 7 + i[None, :] * 29 + mixed % 11) % 16
    return left.astype(np.float32), right.astype(np.float32)


def is_right(product: np.ndarray) -> bool:
    """Whether a product is the known answer, bit by bit."""
    return zlib.crc32(product.astype("<i4").tobytes()) == KNOWN_CRC


def check(devices: TorchDevices | None, seconds: float) -> Answer:
    """Multiply for `seconds` on each device, or on the processors."""
    left, right = factors()
    if devices is None:
        found = _repeat(lambda: left @ right, NODE, seconds)
        return Answer("cpu", found)
    findings: list[Finding] = []
    for index in devices.indexes:
        a, b = devices.put(left, index), devices.put(right, index)
        findings += _repeat(lambda a=a, b=b: devices.take(a @ b), devices.entity(index), seconds)
    return Answer(devices.kind, tuple(findings))


def _repeat(multiply: Any, entity: str, seconds: float) -> tuple[Finding, ...]:
    """Right every time until the time is over, at least once."""
    end, rounds = time.monotonic() + seconds, 0
    while rounds == 0 or time.monotonic() < end:
        rounds += 1
        if not is_right(multiply()):
            text = f"a product with a known answer came out wrong, in round {rounds}"
            return (Finding(entity, ARITHMETIC, text),)
    return ()
