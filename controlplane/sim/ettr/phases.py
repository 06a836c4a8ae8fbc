"""Durations of the phases of one recovery, read from a file that says for every number where it comes from."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import resources
from typing import Any

FILE = "recovery_phases.toml"


class Kind(StrEnum):
    """Where a duration comes from."""

    PUBLISHED = "published"
    MEASURED = "measured"
    ASSUMED = "assumed"


class Column(StrEnum):
    """Which of the three values of every phase is used."""

    LOW = "low"
    EXPECTED = "expected"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase: three durations in seconds, the kind of its source, and the source in words."""

    kind: Kind
    low: float
    expected: float
    high: float
    source: str


class BadPhases(ValueError):
    """A file of phases that cannot be used; the message names the place and the reason."""


NAMES = (
    "detect.local_evidence", "detect.network", "detect.silence", "detect.hang", "decide", "announce", "spare_ready.warm",
    "spare_ready.cold", "rebuild_communicators.affected_groups", "rebuild_communicators.whole_job",
    "fetch_state.memory_peer", "fetch_state.shared_storage", "restart_job.cold", "elastic_stall",
    "checkpoint.memory_stall_per_step",
)  # fmt: skip
"""Every phase that a file must have, and no other."""

_KEYS = frozenset({"kind", "low", "expected", "high", "source"})


@dataclass(frozen=True, slots=True)
class Phases:
    """All phases by name, and one column of them."""

    rows: Mapping[str, Phase]
    column: Column = Column.EXPECTED
    overrides: Mapping[str, float] | None = None

    def __getitem__(self, name: str) -> float:
        """The duration of a phase in seconds, in this column."""
        if self.overrides and name in self.overrides:
            return self.overrides[name]
        return float(getattr(self.rows[name], self.column.value))

    def at(self, column: Column) -> Phases:
        """The same phases in another column."""
        return replace(self, column=column)

    def with_duration(self, name: str, duration_s: float) -> Phases:
        """The same phases with one duration replaced, for break-evens and ablations."""
        if name not in self.rows:
            raise KeyError(name)
        return replace(self, overrides={**(self.overrides or {}), name: duration_s})

    def of_kind(self, kind: Kind) -> tuple[str, ...]:
        """Names of the phases whose values come from one kind of source."""
        return tuple(name for name in NAMES if self.rows[name].kind is kind)


def _tables(body: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tables of a file that hold values, by dotted name."""
    for key, value in body.items():
        name = f"{prefix}{key}"
        if not isinstance(value, Mapping):
            raise BadPhases(f"{name}: a value outside of any phase; put it below [phase]")
        if any(isinstance(inner, Mapping) for inner in value.values()):
            yield from _tables(value, f"{name}.")
        else:
            yield name, value


def _duration(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadPhases(f"{where}: {value!r} is not a number of seconds")
    if value < 0:
        raise BadPhases(f"{where}: {value:g} s is below 0; a duration cannot be negative")
    return float(value)


def _phase(where: str, table: Mapping[str, Any]) -> Phase:
    unknown = sorted(set(table) - _KEYS)
    if unknown:
        raise BadPhases(f"{where}.{unknown[0]}: unknown key; a phase has {', '.join(sorted(_KEYS))}")
    missing = sorted(_KEYS - set(table))
    if missing:
        raise BadPhases(f"{where}: {', '.join(missing)} missing")
    if table["kind"] not in tuple(Kind):
        raise BadPhases(f"{where}.kind: {table['kind']!r} is none of {', '.join(Kind)}")
    if not isinstance(table["source"], str) or not table["source"].strip():
        raise BadPhases(f"{where}.source: say where the numbers come from")
    low, expected, high = (_duration(f"{where}.{column}", table[column]) for column in Column)
    if not low <= expected <= high:
        raise BadPhases(f"{where}: low {low:g} <= expected {expected:g} <= high {high:g} does not hold")
    return Phase(Kind(table["kind"]), low, expected, high, table["source"])


def parse(text: str, place: str = FILE) -> Phases:
    """Phases from the text of a file.

    Args:
        text: TOML, one table per phase.
        place: what to call the file in errors.

    Raises:
        BadPhases: not TOML, unknown or missing phases or keys, negative or disordered durations.
    """
    try:
        body = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadPhases(f"{place}: {error}") from error
    rows: dict[str, Phase] = {}
    for name, table in _tables(body, ""):
        if name not in NAMES:
            raise BadPhases(f"{place}: [{name}]: unknown phase; known are {', '.join(NAMES)}")
        rows[name] = _phase(f"{place}: {name}", table)
    missing = [name for name in NAMES if name not in rows]
    if missing:
        raise BadPhases(f"{place}: phases {', '.join(missing)} are missing")
    return Phases(rows)


def load() -> Phases:
    """The phases that come with the product."""
    return parse(resources.files("controlplane.sim").joinpath("data", FILE).read_text(encoding="utf-8"))
