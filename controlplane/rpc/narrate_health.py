"""Sentences for people about faults, quarantines and the detector."""

from __future__ import annotations

from controlplane.core import records as r

Health = r.DetectorDegraded | r.DetectorRestored | r.LinksReported
"""Records that this module words."""


def narrate_health(record: Health) -> str:
    """The sentence."""
    match record:
        case r.DetectorDegraded():
            return f"the detector is degraded, silence convicts nobody: {'; '.join(record.reasons)}"
        case r.DetectorRestored():
            return f"the detector is well again after {record.after_ms / 1000:.1f} s"
        case r.LinksReported():
            names = ", ".join(record.broken)
            return (
                f"{record.node} says that its links to {names} are broken"
                if names
                else (f"{record.node} says that its links are whole")
            )
