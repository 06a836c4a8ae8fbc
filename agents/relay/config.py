"""What a relay is told on its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.node.config import AGENT_VERSION
from agents.node.membership import JOIN_FILE, MembershipConfig

RELAY_VERSION = AGENT_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayConfig:
    """Settings of one relay; addresses are host:port."""

    controllers: tuple[str, ...]
    listen: str
    relay: str
    directory: Path
    plaintext: bool = False
    join_file: Path | None = None

    @property
    def membership(self) -> MembershipConfig | None:
        """Whose identity lies in the relay's folder; None: plaintext, nobody has one."""
        if self.plaintext:
            return None
        join_file = self.join_file or self.directory / JOIN_FILE
        return MembershipConfig(kind="relay", name=self.relay, folder=self.directory, join_file=join_file)
