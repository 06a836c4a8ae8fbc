"""Memory: what is written is read back, and the speed of a copy."""

from __future__ import annotations

import time

import numpy as np

from agents.node.checks.finding import MEMORY_DATA, NODE, Answer, Finding
from agents.node.checks.torch_devices import TorchDevices

HOST_BYTES = 64 << 20
DEVICE_BYTES = 512 << 20
COPIES = 5
FIGURE = "memory copy, bytes per second"
_PATTERNS = (0xAAAA_AAAA_AAAA_AAAA, 0x5555_5555_5555_5555)


def check(devices: TorchDevices | None) -> Answer:
    """Both patterns through the memory, and the best of some copies."""
    if devices is None:
        return _host()
    findings, figures = [], {}
    for index in devices.indexes:
        entity = devices.entity(index)
        times, wrong = [], 0
        for pattern in _PATTERNS:
            block = devices.put(np.full(DEVICE_BYTES // 8, pattern, dtype=np.uint64).view(np.int64), index)
            for _ in range(COPIES):
                devices.wait(index)
                began = time.perf_counter()
                copy = block.clone()
                devices.wait(index)
                times.append(time.perf_counter() - began)
            wrong += int((devices.take(copy).view(np.uint64) != pattern).sum())
        if wrong:
            findings.append(
                Finding(entity, MEMORY_DATA, f"{wrong} words of {DEVICE_BYTES >> 20} MiB came back changed")
            )
        figures[f"{entity}: {FIGURE}"] = 2 * DEVICE_BYTES / min(times)
    return Answer(devices.kind, tuple(findings), figures)


def _host() -> Answer:
    times, wrong = [], 0
    source = np.empty(HOST_BYTES // 8, dtype=np.uint64)
    target = np.empty_like(source)
    for pattern in _PATTERNS:
        source.fill(pattern)
        for _ in range(COPIES):
            began = time.perf_counter()
            np.copyto(target, source)
            times.append(time.perf_counter() - began)
        wrong += int((target != pattern).sum())
    found = (Finding(NODE, MEMORY_DATA, f"{wrong} words of {HOST_BYTES >> 20} MiB came back changed"),) if wrong else ()
    return Answer("cpu", found, {f"{NODE}: {FIGURE}": 2 * HOST_BYTES / min(times)})
