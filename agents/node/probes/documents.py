"""JSON as vendor tools print it. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from agents.node.probes.quantity import GarbledError

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


def mended(text: str) -> str:
    """JSON in which commas are missing between values and numbers carry units (`41.0C`), as hy-smi prints it, as proper JSON.
    A text that ends early stays broken: nothing is closed that the tool did not close."""
    found: list[str] = []
    for token in _TOKEN.findall(text):
        if found and found[-1][-1] not in "{[:," and token not in ("}", "]", ":", ","):
            found.append(",")
        found.append(token if token[0] in '"{}[]:,' else json.dumps(token))
    return "".join(found)


def document(text: str) -> Any:
    """The JSON value in a text; lines before it that are none (warnings of a driver) are passed over.

    Raises:
        GarbledError: there is no whole JSON object or array in it.
    """
    starts = [place for mark in "{[" if (place := _line_start(text, mark)) >= 0]
    try:
        return json.loads(text[min(starts) :]) if starts else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GarbledError(f"is no JSON: {error}") from error


def _line_start(text: str, mark: str) -> int:
    return 0 if text.startswith(mark) else text.find(f"\n{mark}") + 1 or -1


def rows(value: Any, key: str = "") -> list[dict[str, Any]]:
    """The objects of an array, or of the array under `key`.

    Raises:
        GarbledError: there is no such array of objects.
    """
    found = value.get(key) if isinstance(value, dict) and key else value
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise GarbledError(f"has no list of objects{f' {key}' if key else ''}")
    return found


def at(value: Any, *path: str) -> Any:
    """What lies at a path of keys; None when there is nothing."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def shown(value: Any) -> str | None:
    """A value as a text that `quantity` reads: a number, a text, or an object of value and unit; None when it is absent."""
    match value:
        case None:
            return None
        case {"value": inner, "unit": str(unit)} if not isinstance(inner, dict | list):
            return f"{inner} {unit}" if inner is not None and str(inner).upper() != "N/A" else "N/A"
        case bool() | list() | dict():
            return f"?{str(value)[:60]}"
        case _:
            return str(value)
