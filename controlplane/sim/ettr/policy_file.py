"""A site's own policy and weather from a TOML file, over the defaults of our policy; every mistake named with its place."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from controlplane.sim.ettr.policies import World
from controlplane.sim.ettr.run import Arrivals


class BadPolicy(ValueError):
    """A policy file that cannot be used; the message names the place and the reason."""


def _number(where: str, value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadPolicy(f"{where}: {value!r} is not a number")
    if value < least:
        raise BadPolicy(f"{where}: {value:g} is below {least:g}")
    return float(value)


def _count(where: str, value: object, least: int) -> int:
    number = _number(where, value, least)
    if number != int(number):
        raise BadPolicy(f"{where}: {number:g} is not a whole number")
    return int(number)


def _arrivals(where: str, value: object) -> Arrivals:
    if value not in tuple(Arrivals):
        raise BadPolicy(f"{where}: {value!r} is none of {', '.join(Arrivals)}")
    return Arrivals(str(value))


Read = Callable[[str, object], Any]


def _at_least(least: float) -> Read:
    return lambda where, value: _number(where, value, least)


def _whole(least: int) -> Read:
    return lambda where, value: _count(where, value, least)


TABLES: Mapping[str, Mapping[str, Read]] = {
    "spares": {"warm_nodes": _whole(0), "parked_per_node": _whole(0)},
    "saving": {"step_s": _at_least(1e-3), "steps": _whole(1), "stall_s": _at_least(0.0)},
    "weather": {"rack_rate": _at_least(0.0), "false_alarms": _at_least(0.0), "arrivals": _arrivals},
    "repairs": {
        "median_h": _at_least(1e-3), "mean_h": _at_least(1e-3), "false_alarm_h": _at_least(0.0),
        "again": _at_least(0.0), "again_h": _at_least(1e-3),
    },
}  # fmt: skip
"""What a file may hold: tables and their keys. Rates and units are those of `run.Weather`, `run.Repairs` and `progress.Saving`."""


def _unknown(place: str, name: str, known: Mapping[str, object]) -> BadPolicy:
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
    return BadPolicy(f"{place}: unknown {name}{hint}")


def _read(text: str, place: str) -> dict[str, dict[str, Any]]:
    try:
        body = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadPolicy(f"{place}: {error}") from error
    found: dict[str, dict[str, Any]] = {}
    for table, values in body.items():
        if table not in TABLES:
            raise _unknown(place, table, TABLES)
        if not isinstance(values, Mapping):
            raise BadPolicy(f"{place}: {table} must be a table, [{table}]")
        for key, value in values.items():
            if key not in TABLES[table]:
                raise _unknown(f"{place}: [{table}]", key, TABLES[table])
            found.setdefault(table, {})[key] = TABLES[table][key](f"{place}: {table}.{key}", value)
    return found


def apply(world: World, text: str, place: str) -> World:
    """The world with what a file says.

    Raises:
        BadPolicy: not TOML, an unknown or impossible value; the message names it.
    """
    found = _read(text, place)
    try:
        saving = replace(world.conduct.saving, **found.get("saving", {}))
        repairs = replace(world.weather.repairs, **found.get("repairs", {}))
    except ValueError as error:
        raise BadPolicy(f"{place}: {error}") from error
    return replace(
        world,
        conduct=replace(world.conduct, saving=saving, **found.get("spares", {})),
        weather=replace(world.weather, repairs=repairs, **found.get("weather", {})),
    )
