"""What AMD's tool and its binding both fill in, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping

from agents.node.probes.findings import Findings
from agents.node.probes.reading import Severity

ESSENTIAL = frozenset({"temperature_celsius"})
THERMAL = ("prochot", "socket_thermal", "vr_thermal", "hbm_thermal")
"""Violations that are of heat; the power limit (`ppt`) is ordinary work."""


def set_violations(found: Findings, active: Mapping[str, bool | None], *, throttled: bool | None) -> None:
    """Clocks held down because of heat; `throttled` is the driver's summary, where it has one."""
    known = [state for state in active.values() if state is not None]
    hot = sorted(name for name, state in active.items() if state)
    held = any(known) if known else throttled
    found.put("throttled", None if held is None else float(held))
    if hot:
        found.fault("THERMAL", Severity.MAJOR, f"clocks are held down: {', '.join(hot)}")


def set_pages(found: Findings, pages: Mapping[str, int] | None) -> None:
    """Numbers of bad pages by state: `retired`, `pending`, `un_res`; None: the device keeps no such list."""
    found.put("retired_pages", None if pages is None else pages["retired"])
    found.put("retired_pages_pending", None if pages is None else pages["pending"])
    if pages is not None and pages["pending"]:
        found.fault("PAGES-PENDING", Severity.HINT, f"{pages['pending']} memory pages wait to be taken out of use")
    if pages is not None and pages["un_res"]:
        found.fault("PAGES-UNRESERVABLE", Severity.CRITICAL, f"{pages['un_res']} bad pages cannot be taken out of use")
