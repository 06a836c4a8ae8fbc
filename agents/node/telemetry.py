"""Telemetry of accelerators as a file in the Prometheus text format, for a node exporter's textfile collector.

It does not travel to the controller: 50,000 accelerators with twenty values each are the business of a metrics system.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from phalanx.v1 import agent_pb2

from agents.node.durable import replace_file
from agents.node.probes.reading import UNITS

PREFIX = "phalanx_accelerator_"
MAX_SERIES = 50_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")


class Telemetry:
    """The newest values of every vendor."""

    def __init__(self, node: str, path: Path) -> None:
        self._node = node
        self._path = path
        self._readings: dict[str, tuple[agent_pb2.ProbeReading, float]] = {}
        self._lost: set[str] = set()

    def take(self, reading: agent_pb2.ProbeReading, at_s: float) -> None:
        """A reading of a vendor, made at `at_s` (Unix seconds)."""
        self._readings[reading.vendor] = (reading, at_s)
        self._lost.discard(reading.vendor)

    def lost(self, vendor: str) -> None:
        """The vendor's probe gives nothing: old values are not shown as new ones."""
        self._lost.add(vendor)

    def write(self) -> str:
        """Replace the file; returns why that failed, "" when it did not. May run beside `take`."""
        try:
            replace_file(self._path, self.text().encode())
            self._path.chmod(0o644)
        except OSError as error:
            return f"{self._path}: {error.strerror}"
        return ""

    def text(self) -> str:
        """All values, each family together."""
        families: dict[str, list[str]] = {}
        readings, lost = dict(self._readings), set(self._lost)
        for number, (name, labels, value) in enumerate(self._series(readings, lost)):
            if number >= MAX_SERIES:
                break
            families.setdefault(name, []).append(f"{name}{{{labels}}} {value:.17g}")
        lines = []
        for name in sorted(families):
            lines += [f"# HELP {name} {_help(name)}", f"# TYPE {name} {_kind(name)}", *families[name]]
        return "\n".join(lines) + "\n" if lines else ""

    def _series(
        self, readings: Mapping[str, tuple[agent_pb2.ProbeReading, float]], lost: set[str]
    ) -> Iterator[tuple[str, str, float]]:
        for vendor in sorted({*readings, *lost}):
            labels = _labels(node=self._node, vendor=vendor)
            yield "phalanx_probe_up", labels, float(vendor not in lost)
            if vendor in readings:
                yield "phalanx_probe_last_reading_timestamp_seconds", labels, readings[vendor][1]
        for vendor, (reading, _) in sorted(readings.items()):
            if vendor in lost:
                continue
            serials = {row.index: row.serial for row in reading.accelerators}
            for row in reading.telemetry:
                known = {
                    "vendor": vendor,
                    "accelerator": str(row.accelerator),
                    "serial": serials.get(row.accelerator, ""),
                }
                labels = _labels(node=self._node, **known)
                for name, value in sorted(row.values.items()):
                    if _NAME.fullmatch(name):
                        yield PREFIX + name, labels, value
                for name in row.unsupported:
                    yield PREFIX + "unsupported", _labels(node=self._node, **known, metric=name), 1.0


def _labels(**labels: str) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _help(name: str) -> str:
    if name == PREFIX + "unsupported":
        return "1 for a value that the device or its driver does not have"
    return UNITS.get(name.removeprefix(PREFIX), name.removeprefix("phalanx_").replace("_", " "))


def _kind(name: str) -> str:
    return "counter" if name.endswith("_total") and name != PREFIX + "link_total" else "gauge"
