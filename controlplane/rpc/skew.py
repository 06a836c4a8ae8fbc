"""Agents of another version: neighbours are welcome, others are refused before they touch anything."""

from __future__ import annotations

import structlog

from controlplane.core.versions import Skew, fix, skew
from controlplane.rpc.errors import refuse
from controlplane.rpc.site import Site

MAX_SHOWN = 64
"""Characters of a peer's version that are repeated."""

log = structlog.get_logger(__name__)


def check_version(site: Site, name: str, version: str) -> None:
    """Refuse an agent whose version is too far from ours; one that names none we know is let in, and logged once.

    Raises:
        RequestRefused: VERSION_SKEW, naming both versions and what to do.
    """
    shown = version[:MAX_SHOWN]
    match skew(site.version, version):
        case Skew.UNSUPPORTED:
            text = (
                f"{name} runs Phalanx {shown}, this controller {site.version}: they may differ by one minor version; "
                f"{fix(site.version, version)}"
            )
            refuse("conflict", "VERSION_SKEW", text)
        case Skew.UNKNOWN:
            if site.metrics.first("version", f"{name} {shown}"):
                log.warning("version_unknown", peer_name=name, peer_version=shown, version=site.version)
        case Skew.SAME | Skew.SUPPORTED:
            pass
