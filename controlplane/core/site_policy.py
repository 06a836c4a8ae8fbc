"""What a site may decide about the decisions: every number of `Policy` with its unit, bounds and reason, and the file for it.

A policy file is TOML with the names below, tables for those with a dot; a time is a number in the unit of its name, or a
duration with a unit of its own (`"20s"`). A scenario of the simulator takes the same names under `[policy]`. Text in, values
out: whoever opens the file is elsewhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from controlplane.core import codec
from controlplane.core.draft import Policy
from controlplane.core.durations import FIX, parse_duration
from controlplane.core.records_policy import PolicyChanged
from controlplane.core.settings import SETTINGS, Setting

BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}


class BadPolicy(ValueError):
    """A policy file that cannot be used; the message says where, why, and what to write."""


def values(policy: Policy) -> dict[str, float]:
    """Every number of a policy by name, in the order of `SETTINGS`."""
    return {setting.name: _read(policy, setting.name) for setting in SETTINGS}


def fault_table(policy: Policy) -> str:
    """Fingerprint of the table of fault codes: it is too large to be told number by number."""
    text = json.dumps(codec.encode(policy.catalogue), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changed(known: PolicyChanged | None, policy: Policy) -> PolicyChanged | None:
    """The record for a policy that is not the one that was recorded last; None when it is."""
    settings, table = _told(policy), fault_table(policy)
    if known is None:
        return PolicyChanged(settings, table)
    if (known.settings, known.fault_table) == (settings, table):
        return None
    return PolicyChanged(settings, table, tuple(_differences(known, settings, table)))


def _told(policy: Policy) -> dict[str, float]:
    """What the journal is told: every number, quiet ones only where they are not what they usually are."""
    usual = values(Policy())
    return {name: value for name, value in values(policy).items() if not BY_NAME[name].quiet or value != usual[name]}


def _differences(before: PolicyChanged, settings: Mapping[str, float], table: str) -> Iterator[str]:
    """What is other than before, in words."""
    for name, value in settings.items():
        was = before.settings.get(name)
        if was != value:
            yield f"{name} {shown(name, value)}" + ("" if was is None else f" (was {shown(name, was)})")
    for name in [name for name in before.settings if name in BY_NAME and name not in settings]:
        yield f"{name} as usual (was {shown(name, before.settings[name])})"
    if before.fault_table != table:
        yield f"fault table {table} (was {before.fault_table})"


def with_values(policy: Policy, settings: Mapping[str, float]) -> Policy:
    """The policy with these numbers; names that this version does not know are passed over (a journal may be older)."""
    for name, value in settings.items():
        if name in BY_NAME:
            policy = _write(policy, name, value)
    return policy


def shown(name: str, value: float) -> str:
    """A number with its unit; a number of a name that this version does not know as it stands."""
    setting = BY_NAME.get(name)
    return f"{value:g}" if setting is None else setting.shown(value)


def parse(text: str, place: str, base: Policy) -> Policy:
    """The policy of a file's text over `base`.

    Raises:
        BadPolicy: not TOML, an unknown name, a value of the wrong kind or out of bounds, or values that contradict others.
    """
    try:
        body = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadPolicy(f"{place}: is no TOML: {error}") from error
    policy = base
    for name, value in _named(body, place):
        policy = _write(policy, name, _number(f"{place}: {name}", BY_NAME[name], value))
    for problem in _contradictions(policy):
        raise BadPolicy(f"{place}: {problem}")
    return policy


def _named(body: Mapping[str, Any], place: str) -> Iterator[tuple[str, object]]:
    tables = {name.partition(".")[0] for name in BY_NAME if "." in name}
    for key, value in body.items():
        if key in tables:
            if not isinstance(value, Mapping):
                raise BadPolicy(f"{place}: {key} is a table: write [{key}], and below it what it holds")
            known = [name.partition(".")[2] for name in BY_NAME if name.startswith(f"{key}.")]
            for inner, found in value.items():
                yield _known(f"{key}.{inner}", inner, known, place), found
        else:
            yield _known(key, key, [*tables, *(name for name in BY_NAME if "." not in name)], place), value


def _known(name: str, written: str, known: list[str], place: str) -> str:
    setting = BY_NAME.get(name)
    if setting is None:
        near = get_close_matches(written, known, n=1)
        offered = sorted(one for one in known if one not in BY_NAME or not BY_NAME[one].flag)
        hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(offered)}"
        raise BadPolicy(f"{place}: nothing is named `{name}`; {hint}")
    if setting.flag:
        raise BadPolicy(f"{place}: {name} follows from the controller's {setting.flag}: set it there")
    return name


def _number(where: str, setting: Setting, value: object) -> float:
    if isinstance(value, str):
        found = parse_duration(value) if setting.is_time else None
        if found is None:
            wanted = FIX if setting.is_time else f"write a plain number ({setting.unit})"
            raise BadPolicy(f"{where}: `{value[:40]}` is no {'duration' if setting.is_time else 'number'}; {wanted}")
        number: float = found if setting.unit == "ms" else found / 1_000
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise BadPolicy(f"{where}: {value!r} is not a number")
    else:
        number = value
    if not setting.least <= number <= setting.most:  # refuses NaN as well
        least, most = setting.shown(setting.least), setting.shown(setting.most)
        raise BadPolicy(f"{where}: {setting.shown(number)} is not between {least} and {most}")
    if setting.whole and number != int(number):
        raise BadPolicy(f"{where}: {number:g} is not a whole number of {setting.unit}")
    return int(number) if setting.whole else float(number)


def _contradictions(policy: Policy) -> Iterator[str]:
    """Values that are each possible and together are not."""
    quarantine, ladder = policy.quarantine, policy.ladder
    pairs = (
        ("quarantine.retry_ms", quarantine.retry_ms, "quarantine.retry_most_ms", quarantine.retry_most_ms),
        ("quarantine.trial_ms", quarantine.trial_ms, "quarantine.trial_most_ms", quarantine.trial_most_ms),
        ("ladder.process_warm_s", ladder.process_warm_s, "ladder.process_cold_s", ladder.process_cold_s),
        ("ladder.groups_s", ladder.groups_s, "ladder.groups_whole_s", ladder.groups_whole_s),
    )
    for low, less, high, more in pairs:
        if less > more:
            yield f"{low} is {shown(low, less)}, above {high} with {shown(high, more)}: the first may be the second at most"


def _read(policy: Policy, name: str) -> float:
    found: Any = policy
    for part in name.split("."):
        found = getattr(found, part)
    number: float = found
    return number


def _write(policy: Policy, name: str, value: float) -> Policy:
    table, _, key = name.rpartition(".")
    holder: Any = getattr(policy, table) if table else policy
    written: Any = replace(holder, **{key: _as_kind(holder, key, value)})
    whole: Policy = replace(policy, **{table: written}) if table else written
    return whole


def _as_kind(holder: Any, key: str, value: float) -> float:
    """Whole numbers stay whole: the state's digest tells 3 from 3.0."""
    kind: type[int] | type[float] = type(getattr(holder, key))
    return kind(value)


def unlisted(policy: Policy) -> set[str]:
    """Numbers of `Policy` that `SETTINGS` does not name; a test keeps this empty."""
    found = set()
    for field in dataclasses.fields(policy):
        value = getattr(policy, field.name)
        if isinstance(value, int | float):
            found.add(field.name)
        elif field.name != "catalogue":
            found |= {f"{field.name}.{inner.name}" for inner in dataclasses.fields(value)}
    return found - BY_NAME.keys()
