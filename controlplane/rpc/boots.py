"""Lives of agents: boot ids begin with when a life began, and the core refuses one that sorts below what it knows.

A boot that began in our future would keep all later ones out until then. It stays the highest that is known (an older process of
the same name must not get in by that), but whoever is refused for it is told of it, and an agent that has never spoken takes a
later one.
"""

from __future__ import annotations

import re

from controlplane.core.draft import Refusal
from controlplane.observability.beats import MAX_OFF_NS
from controlplane.rpc.errors import RequestRefused

KNOWN_BOOT_KEY = "phalanx-known-boot"
"""Trailing metadata of a refused hello: the boot that is known, when it began in our future."""
_BOOT = re.compile(r"([0-9]{20})-[0-9A-Za-z]{1,40}")
"""The boot id of our own agents: microseconds (Unix) of their start."""


def ahead_ns(boot_id: str, now_ns: int) -> int:
    """How far in our future a life began, ns; 0: in the past, not further than clocks are off, or it does not say."""
    began = _BOOT.fullmatch(boot_id)
    found = int(began[1]) * 1_000 - now_ns if began else 0
    return found if found > MAX_OFF_NS else 0


def hello_refused(refusal: Refusal, known: str, now_ns: int) -> RequestRefused:
    """The refusal of a hello by the core. `known`: the boot id that it knows of this name, "" when it knows none."""
    told = refusal.reason == "OLDER_BOOT" and ahead_ns(known, now_ns)
    return RequestRefused(refusal, ((KNOWN_BOOT_KEY, known),) if told else ())
