"""A site's own files: its policy, and fault tables, TOML into `core.health.catalogue`, each with its source and date; a site's
own table overrides single codes.

A file that cannot be understood is refused with the place and the reason: a level that was mistyped must not become harmless.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from controlplane.core.draft import Policy
from controlplane.core.health.catalogue import Catalogue, FaultRule, Frequency, Relation, SoftwareGuard
from controlplane.core.site_policy import BadPolicy, parse
from controlplane.core.vocabulary import HandlingLevel

MAX_BYTES = 4 << 20
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LONGEST_MS = 366 * 86_400_000


class CatalogueError(Exception):
    """A fault table is wrong; the message says where, why, and what to write."""


@cache
def built_in() -> Catalogue:
    """The tables that Phalanx brings along, read once."""
    folder = resources.files(__name__)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return merge(Catalogue(), [(name, (folder / name).read_text()) for name in names])


def site_catalogue(path: str) -> Catalogue:
    """The built-in tables with a site's own file on top ("": none).

    Raises:
        CatalogueError: the file cannot be read, or is wrong.
    """
    return merge(built_in(), [(path, _text_of(path, CatalogueError))]) if path else built_in()


def site_policy(path: str, base: Policy) -> Policy:
    """A policy with the numbers of a site's own file on top ("": none).

    Raises:
        BadPolicy: the file cannot be read, or is wrong.
    """
    return parse(_text_of(path, BadPolicy), path, base) if path else base


def _text_of(path: str, wrong: type[Exception]) -> str:
    """The text of a file; `wrong` is raised where there is none."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise wrong(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise wrong(f"{path}: has more than {MAX_BYTES} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise wrong(f"{path}: is not UTF-8 at byte {error.start}") from error


def merge(base: Catalogue, files: Iterable[tuple[str, str]]) -> Catalogue:
    """Add tables (name, TOML text) to a catalogue; a later file overrides single codes of earlier ones.

    Raises:
        CatalogueError: one of them is wrong.
    """
    rules, relations, guard = dict(base.rules), list(base.relations), base.guard
    for name, text in files:
        try:
            body = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise CatalogueError(f"{name}: is no TOML: {error}") from error
        _known(body, {"vendor", "source", "date", "code", "relation", "guard"}, name)
        origin = f"{_text(body, 'source', name)}, {_text(body, 'date', name)}"
        vendor = _text(body, "vendor", name)
        seen: set[str] = set()
        for number, entry in enumerate(_tables(body, "code", name)):
            rule = _rule(entry, vendor, origin, f"{name}: code[{number}]")
            if rule.code in seen:
                raise CatalogueError(f"{name}: code[{number}]: {rule.code} stands there twice: keep one")
            seen.add(rule.code)
            rules[(vendor, rule.code)] = rule
        relations += [
            _relation(entry, vendor, f"{name}: relation[{number}]")
            for number, entry in enumerate(_tables(body, "relation", name))
        ]
        if "guard" in body:
            guard = _guard(body["guard"], guard, f"{name}: guard")
    return Catalogue(rules, tuple(relations), guard)


def _known(entry: Mapping[str, Any], allowed: set[str], at: str) -> None:
    unknown = sorted(entry.keys() - allowed)
    if unknown:
        raise CatalogueError(f"{at}: does not know {', '.join(unknown)}: write {', '.join(sorted(allowed))}")


def _text(entry: Mapping[str, Any], key: str, at: str, *, default: str | None = None) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str) or (not value and default is None):
        raise CatalogueError(f"{at}: {key} must be a text, and is {value!r}")
    return value


def _tables(body: Mapping[str, Any], key: str, at: str) -> list[Mapping[str, Any]]:
    value = body.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise CatalogueError(f"{at}: {key} must be tables: write [[{key}]]")
    return value


def _level(entry: Mapping[str, Any], at: str) -> HandlingLevel:
    word = _text(entry, "level", at)
    if word not in HandlingLevel.__members__:
        raise CatalogueError(f"{at}: {word} is no level: write one of {', '.join(HandlingLevel.__members__)}")
    return HandlingLevel[word]


def _ms(entry: Mapping[str, Any], key: str, at: str) -> int:
    value = entry.get(key)
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise CatalogueError(f"{at}: {key} must be a duration such as 20s, 10m or 1h, and is {value!r}")
    length = round(float(found[1]) * _UNIT_MS[found[2]])
    if not 0 < length <= _LONGEST_MS:
        raise CatalogueError(f"{at}: {key} must be above 0 and at most a year, and is {value}")
    return length


def _count(entry: Mapping[str, Any], key: str, at: str, least: int) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 32:
        raise CatalogueError(f"{at}: {key} must be a number from {least} to 32, and is {value!r}")
    return value


def _rule(entry: Mapping[str, Any], vendor: str, origin: str, at: str) -> FaultRule:
    _known(entry, {"code", "level", "text", "debounce", "frequency", "mode"}, at)
    rule = FaultRule(vendor, _text(entry, "code", at), _level(entry, at), _text(entry, "text", at, default=""))
    if "debounce" in entry:
        rule = replace(rule, debounce_ms=_ms(entry, "debounce", at))
    if "frequency" in entry:
        rule = replace(rule, frequency=_frequency(entry["frequency"], rule, f"{at}: frequency"))
    return replace(rule, origin=origin, shadow=_shadow(entry, at))


def _shadow(entry: Mapping[str, Any], at: str) -> bool:
    mode = _text(entry, "mode", at, default="act")
    if mode not in ("act", "shadow"):
        raise CatalogueError(f"{at}: {mode} is no mode: write act (the default) or shadow")
    return mode == "shadow"


def _frequency(entry: object, rule: FaultRule, at: str) -> Frequency:
    if not isinstance(entry, dict):
        raise CatalogueError(f"{at}: must be a table with count, window, release and level")
    _known(entry, {"count", "window", "release", "level"}, at)
    level = _level(entry, at)
    if level <= rule.level:
        raise CatalogueError(f"{at}: {level.name} is not above {rule.level.name}, so it would never count")
    return Frequency(_count(entry, "count", at, 2), _ms(entry, "window", at), _ms(entry, "release", at), level)


def _relation(entry: Mapping[str, Any], vendor: str, at: str) -> Relation:
    _known(entry, {"codes", "window", "level", "text"}, at)
    codes = entry.get("codes")
    if not isinstance(codes, list) or len(codes) != 2 or not all(isinstance(code, str) for code in codes):
        raise CatalogueError(f"{at}: codes must be two codes")
    if codes[0] == codes[1]:
        raise CatalogueError(f"{at}: the same code twice is a frequency, not a relation")
    text = _text(entry, "text", at, default="")
    return Relation(vendor, (codes[0], codes[1]), _ms(entry, "window", at), _level(entry, at), text)


def _guard(entry: object, base: SoftwareGuard, at: str) -> SoftwareGuard:
    if not isinstance(entry, dict):
        raise CatalogueError(f"{at}: must be a table with devices, share and window")
    _known(entry, {"devices", "share", "window"}, at)
    if "devices" in entry:
        base = replace(base, devices=_count(entry, "devices", at, 2))
    if "share" in entry:
        share = entry["share"]
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
            raise CatalogueError(f"{at}: share must be above 0 and at most 1, and is {share!r}")
        base = replace(base, share=float(share))
    return replace(base, window_ms=_ms(entry, "window", at)) if "window" in entry else base
