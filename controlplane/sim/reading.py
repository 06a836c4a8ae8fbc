"""Tables of a scenario file as frozen dataclasses: every mistake is refused with its place, and with what was probably meant."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from controlplane.core.manifest import parse_duration

T = TypeVar("T")
Table = Mapping[str, Any]


ROOT = ""
"""The place of the whole file."""


class BadScenario(ValueError):
    """A scenario that cannot be run: where in the file, why, and what to write instead."""


def unknown(place: str, name: str, known: list[str], what: str = "key") -> BadScenario:
    """A name that nobody knows, with the nearest one that somebody does."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(known))}"
    return BadScenario(f"{place}: no {what} is named `{name}`; {hint}")


def read(cls: type[T], value: object, place: str) -> T:
    """A dataclass from a table. Keys are its fields; numbers must not be negative; fields in `_s` and `_ms` also take
    durations with a unit (`20m`).

    Raises:
        BadScenario: an unknown key, a missing one, or a value of the wrong type or sign.
    """
    table = as_table(value, place)
    prefix = f"{place}." if place != ROOT else ""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type] # a dataclass
    for name in table:
        if name not in fields:
            raise unknown(f"{prefix}{name}", name, list(fields))
    hints = typing.get_type_hints(cls)
    given = {name: _value(hints[name], table[name], f"{prefix}{name}") for name in fields if name in table}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in given:
            raise BadScenario(f"{prefix}{name}: is missing")
    return cls(**given)


def as_table(value: object, place: str) -> Table:
    """The value as a table.

    Raises:
        BadScenario: it is something else.
    """
    if not isinstance(value, Mapping):
        raise BadScenario(f"{place}: a table is expected, this is {_kind(value)}")
    return value


def as_list(value: object, place: str) -> list[Any]:
    """The value as a list.

    Raises:
        BadScenario: it is something else.
    """
    if not isinstance(value, list):
        raise BadScenario(f"{place}: a list is expected, this is {_kind(value)}")
    return value


def write(value: Any) -> dict[str, Any]:
    """The table from which `read` makes this dataclass; what has its default value is left out."""
    table = {}
    for field in dataclasses.fields(value):
        found = getattr(value, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.init and found is not None and (default is dataclasses.MISSING or found != default):
            table[field.name] = _written(found)
    return table


def _written(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return write(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        pairs = bool(value) and all(isinstance(item, tuple) and len(item) == 2 for item in value)
        return {str(key): _written(item) for key, item in value} if pairs else [_written(item) for item in value]
    return value


def _value(hint: Any, value: object, place: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _value(next(a for a in arguments if a is not type(None)), value, place)
    if dataclasses.is_dataclass(hint):
        return read(hint, value, place)  # type: ignore[arg-type] # a class
    if origin is tuple:
        return _several(arguments, value, place)
    if isinstance(hint, type) and issubclass(hint, Enum):
        names = [str(member.value) for member in hint]
        if str(value) not in names:
            raise unknown(place, str(value), names, "value")
        return next(member for member in hint if str(member.value) == str(value))
    if hint in (int, float):
        return _number(hint, value, place)
    if not isinstance(value, hint):
        raise BadScenario(f"{place}: {_KINDS.get(hint, hint.__name__)} is expected, this is {_kind(value)}")
    return value


def _several(arguments: tuple[Any, ...], value: object, place: str) -> tuple[Any, ...]:
    """A tuple of one kind from a list; a tuple of pairs from a table."""
    item = arguments[0]
    if typing.get_origin(item) is tuple:
        kinds = typing.get_args(item)
        return tuple((key, _value(kinds[1], found, f"{place}.{key}")) for key, found in as_table(value, place).items())
    return tuple(_value(item, found, f"{place}[{at}]") for at, found in enumerate(as_list(value, place)))


def _number(hint: type, value: object, place: str) -> int | float:
    if isinstance(value, str) and place.endswith(("_s", "_ms")):
        found = parse_duration(value)
        if found is None:
            raise BadScenario(f"{place}: `{value}` is no duration; write a number with a unit: 200ms, 2s, 5m or 1h")
        value = found if place.endswith("_ms") else found / 1_000
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - not NaN
        raise BadScenario(f"{place}: a number is expected, this is {_kind(value)}")
    if value < 0:
        raise BadScenario(f"{place}: {value} is negative")
    if hint is int and int(value) != value:
        raise BadScenario(f"{place}: a whole number is expected, this is {value}")
    return hint(value)  # type: ignore[no-any-return] # int or float


_KINDS = {str: "text", bool: "true or false"}


def _kind(value: object) -> str:
    match value:
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text `{value[:40]}`"
        case list():
            return "a list"
        case Mapping():
            return "a table"
        case _:
            return type(value).__name__


def to_toml(table: Table, prefix: str = "") -> str:
    """A table of plain values as TOML text: scalars first, then tables, then lists of tables."""
    lines, tables, lists = [], [], []
    for key, value in table.items():
        name = _key(key)
        if isinstance(value, Mapping):
            tables.append((f"{prefix}{name}", value))
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            lists.append((f"{prefix}{name}", value))
        else:
            lines.append(f"{name} = {_scalar(value)}")
    text = "".join(f"{line}\n" for line in lines)
    for path, value in tables:
        text += f"\n[{path}]\n{to_toml(value, f'{path}.')}"
    for path, items in lists:
        for item in items:
            text += f"\n[[{path}]]\n{to_toml(item, f'{path}.')}"
    return text


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else _scalar(key)


def _scalar(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
            return f'"{escaped}"'
        case list():
            return f"[{', '.join(_scalar(item) for item in value)}]"
        case Mapping():
            return "{ " + ", ".join(f"{_key(key)} = {_scalar(item)}" for key, item in value.items()) + " }"
        case _:
            raise TypeError(f"TOML has no {type(value).__name__}")
