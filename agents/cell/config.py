"""What a cell agent is told on its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.node.membership import JOIN_FILE, MembershipConfig

AGENT_VERSION = "0.2.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellConfig:
    """Settings of one cell agent; addresses are host:port.

    `ray_limit_s`: a call to Ray may take this long, and Ray may fail this long, before the agent ends with status 3.
    It is above what a GCS needs to come back (1 s measured) and below what an operator would call lost.
    """

    controllers: tuple[str, ...]
    cell: str
    ray_address: str
    store: str
    membership_interval_s: float = 0.25
    store_interval_s: float = 1.0
    ray_limit_s: float = 20.0
    connect_limit_s: float = 60.0
    identity: Path | None = None
    join_file: Path | None = None

    @property
    def membership(self) -> MembershipConfig | None:
        """Whose identity lies in the identity folder; None: plaintext, nobody has one."""
        if self.identity is None:
            return None
        join_file = self.join_file or self.identity / JOIN_FILE
        return MembershipConfig(kind="cell", name=self.cell, folder=self.identity, join_file=join_file)
