"""What a node agent is told on its command line."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from agents.node.checks.pair import Spoiled
from agents.node.membership import JOIN_FILE, MembershipConfig

AGENT_VERSION = "0.2.0"
DEFAULT_ORPHAN_GRACE_MS = 600_000


def memory_folder(directory: Path) -> Path:
    """Where states of ranks lie in memory, of the agent with this folder: agents on one machine do not share one."""
    return Path("/dev/shm") / f"phalanx-{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Settings of one agent. Paths are absolute.

    `relays` are tried before the controllers. `vendors`: probes that run, each in a process of its own. `idle_check_interval_s`:
    from one light check of the idle node to the next; 0: none. `preflight_age_s`: a gang starts unchecked on a node that was
    checked so lately; 0: always unchecked. `pair_sums`: tests with other nodes also add up through torch. `spoiled`: how a node
    with simulated accelerators spoils such tests. `memory_folder`: where states of ranks lie in memory; None: nowhere.
    `disk_folder`: the same for versions on the node's own disk. `orphan_grace_ms` holds only until the first welcome of a
    controller, which dictates its own.
    """

    controllers: tuple[str, ...]
    node: str
    directory: Path
    socket_path: Path
    address: str
    labels: dict[str, str] = field(default_factory=dict)
    simulated_accelerators: int = 0
    vendors: tuple[str, ...] = ()
    probe_deadline_s: float = 15.0
    relays: tuple[str, ...] = ()
    idle_check_interval_s: float = 0.0
    preflight_age_s: float = 0.0
    pair_sums: bool = True
    spoiled: Spoiled = Spoiled.NO
    plaintext: bool = False
    join_file: Path | None = None
    memory_folder: Path | None = None
    disk_folder: Path | None = None
    snapshot_interval_s: float = 300.0
    orphan_grace_ms: int = DEFAULT_ORPHAN_GRACE_MS
    log_level: str = "info"
    log_format: str = "json"

    @property
    def membership(self) -> MembershipConfig | None:
        """Whose identity lies in the node's folder; None: plaintext, nobody has one."""
        if self.plaintext:
            return None
        join_file = self.join_file or self.directory / JOIN_FILE
        return MembershipConfig(kind="node", name=self.node, folder=self.directory, join_file=join_file)

    @property
    def key_path(self) -> Path:
        """Secret that rank hosts and rank processes prove they can read."""
        return self.directory / "host.key"

    @property
    def hosts_path(self) -> Path:
        """Table of rank hosts, so that a restarted agent knows which sessions are its own."""
        return self.directory / "hosts.json"

    @property
    def memory_path(self) -> Path:
        """Highest epoch obeyed and the last orphan grace."""
        return self.directory / "agent.json"

    @property
    def boot_path(self) -> Path:
        """The last boot id, so that the next one is later whatever the clock says."""
        return self.directory / "boot"

    @property
    def accelerators_path(self) -> Path:
        """Accelerators by position on the node, so that one that is gone after a restart is known to be lost."""
        return self.directory / "accelerators.json"

    @property
    def memory_port_path(self) -> Path:
        """The port on which states are brought and fetched, so that other nodes find it again after a restart."""
        return self.directory / "memory.port"

    @property
    def checks_path(self) -> Path:
        """What checks of this machine have found, and the best figures that it has shown."""
        return self.directory / "checks.json"

    @property
    def telemetry_path(self) -> Path:
        """Values of the accelerators in the Prometheus text format, for a node exporter's textfile collector."""
        return self.directory / "telemetry.prom"

    @property
    def generations_path(self) -> Path:
        """Folder with the rank tables of the jobs on this node."""
        return self.directory / "generations"

    @property
    def exits_path(self) -> Path:
        """Folder in which a rank host leaves how its process ended when no agent listened (agents.cell.rank_host)."""
        return self.directory / "exits"

    @property
    def logs_path(self) -> Path:
        """Folder with the output of rank processes."""
        return self.directory / "logs"
