"""How long ago something was, for messages to operators."""

from __future__ import annotations

from controlplane.core.units import to_s


def age_s(at_ns: int, now_ns: int) -> float:
    """Seconds since a moment (Unix ns); 0 for one that never was (0) or lies ahead."""
    return max(0.0, to_s(now_ns - at_ns)) if at_ns else 0.0
