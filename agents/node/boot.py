"""Which life of an agent speaks: boot ids begin with the time of the start, and the controller refuses a lower one than it knows.

A clock that was ahead once would keep later starts out until that time comes. So a start in the same folder is always later than
the one before it, whatever the clock says. Where the folder has been lost, the controller says which boot it knows when that one
began in its future; a life that has never spoken for its name then takes a later one, once. One that has spoken never does: when a
later one is known, it is the older process of two, and must stay silent.
"""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path

import structlog

from agents.node.durable import replace_file

KNOWN_BOOT_KEY = "phalanx-known-boot"
"""Trailing metadata of a refusal: the boot that the controller knows, and that cannot be right."""
LAST_US = 10**20 - 1
"""Twenty digits: a later boot id would be longer, and sort lower."""

_BOOT = re.compile(r"([0-9]{20})-[0-9A-Za-z]{1,40}")

log = structlog.get_logger(__name__)


def new_boot_id(after: str = "") -> str:
    """Identity of this life of the agent; later ones sort higher, and this one higher than `after`."""
    former = _BOOT.fullmatch(after)
    began_us = max(time.time_ns() // 1_000, min(int(former[1]) + 1, LAST_US) if former else 0)
    return f"{began_us:020d}-{secrets.token_hex(4)}"


class Boot:
    """The boot id of this process, kept in its folder (if it has one) for the next one to be later."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._final = False
        self.id = new_boot_id(_read(path) if path is not None else "")
        self._keep()

    def spoken(self) -> None:
        """The controller has taken this boot: it is not changed any more."""
        self._final = True

    def outbid(self, known: str) -> bool:
        """The controller knows a boot that began in its future: take a later one. False: that is not for this process."""
        if self._final or not _BOOT.fullmatch(known) or known <= self.id:
            return False
        self._final = True
        former, self.id = self.id, new_boot_id(known)
        self._keep()
        log.warning("agent.boot_taken_later", boot_id=self.id, former_boot_id=former, known_boot_id=known)
        return True

    def _keep(self) -> None:
        if self._path is None:
            return
        try:
            replace_file(self._path, self.id.encode(), sync=True)
        except OSError as error:  # a full disk: the next start goes by its clock
            log.error("agent.boot_not_saved", reason=str(error))  # noqa: TRY400  the reason is for an operator


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")[:100].strip()
    except (OSError, UnicodeDecodeError):
        return ""
