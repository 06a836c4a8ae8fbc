"""Machines and processes as they really are, whatever the controller believes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controlplane.core import events as ev
from controlplane.core.fleet import Accelerator
from controlplane.core.jobs import Exit
from controlplane.core.vocabulary import AcceleratorState, RankState

if TYPE_CHECKING:
    from controlplane.sim.world.controller import Controller


@dataclass(eq=False)
class Process:
    """One rank host and its process. `obeys`: it still does something when told; signals end it either way.

    `times`: when it was joining, had its groups, had restored, had made its first step; Unix ns, 0: not yet.
    """

    job: str
    serial: int
    node: str
    state: RankState = RankState.STARTING
    rank: int = -1
    generation: int = 0
    since_ns: int = 0
    times: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    exit: Exit | None = None
    obeys: bool = True
    devices: tuple[int, ...] = ()

    @property
    def occupies(self) -> bool:
        """Whether something of it still runs."""
        return self.exit is None or not self.exit.group_empty

    @property
    def works(self) -> bool:
        """Whether it would take part in a collective."""
        return self.exit is None and self.obeys

    def row(self, shift_ns: int = 0) -> ev.HostRow:
        """What its node agent says of it. `shift_ns`: how far the controller's clock is ahead of the world's."""
        times = (at_ns + shift_ns if at_ns else 0 for at_ns in self.times)
        return ev.HostRow(
            self.job, self.serial, self.state, self.rank, self.generation, 1000 + self.serial, 2000 + self.serial,
            self.since_ns + shift_ns, self.exit, *times,
        )  # fmt: skip


@dataclass
class Link:
    """The path between a node agent and the controller. `up`: from the agent, `down`: to it.

    `delay_s` is added to every message each way. A stream keeps its order, as TCP does: `arrives_ns` is when the newest
    message gets there, and no later one gets there before it.
    """

    up: bool = True
    down: bool = True
    delay_s: float = 0.0
    jitter_s: float = 0.0
    drop_share: float = 0.0
    duplicate_share: float = 0.0
    arrives_ns: int = 0

    def calm_down(self) -> None:
        """No delay, no loss; a path that is cut stays cut."""
        self.delay_s = self.jitter_s = self.drop_share = self.duplicate_share = 0.0

    @property
    def calm(self) -> bool:
        """Whether messages pass at once."""
        return not (self.delay_s or self.jitter_s or self.drop_share or self.duplicate_share or self.arrives_ns)


@dataclass(eq=False)
class SimNode:
    """One machine: hardware, node agent, raylet and processes, each of which can fail without the others.

    `controller`: whom its agent's session is open with; `dials`: how many sessions it has opened. `epoch`: highest one that
    its agent has obeyed. `slow`: how many times longer its ranks take for a step. `untold`: shards that nobody has
    acknowledged. `relay`: the one that its stream goes through, "" none.
    `events`: faults that stand on other parts, by entity; `recovered`: those that ended and were not told yet.
    `unreadable`: sources of health that cannot be read. `cut_off`: nodes that its ranks could not reach,
    `cut_off_told`: as it was acknowledged last. `incurable`: checks repair nothing; `knows_checks`: its agent is new
    enough for them. `spoils_pairs`: what it works out together with another node comes out wrong. `deaf`: its agent takes
    orders, carries none out and answers none.
    """

    name: str
    rack: str
    accelerators: int
    labels: tuple[tuple[str, str], ...] = ()
    boot: int = 1
    up: bool = True
    agent: bool = True
    raylet: bool = True
    link: Link = field(default_factory=Link)
    controller: Controller | None = None
    dials: int = 0
    epoch: int = 0
    version: str = "0"
    relay: str = ""
    slow: float = 1.0
    faults: dict[int, str] = field(default_factory=dict)
    processes: dict[tuple[str, int], Process] = field(default_factory=dict)
    untold: list[ev.ShardRow] = field(default_factory=list)
    events: dict[str, ev.FaultRow] = field(default_factory=dict)
    recovered: list[ev.FaultRow] = field(default_factory=list)
    unreadable: tuple[ev.SourceRow, ...] = ()
    cut_off: frozenset[str] = frozenset()
    cut_off_told: frozenset[str] = frozenset()
    incurable: bool = False
    knows_checks: bool = True
    spoils_pairs: bool = False
    deaf: bool = False

    @property
    def boot_id(self) -> str:
        """Of the agent's process; sorts by time."""
        return f"{self.boot:04d}"

    @property
    def session(self) -> bool:
        """Whether its agent's session is open, as far as the agent knows."""
        return self.controller is not None

    @property
    def frozen(self) -> bool:
        """Whether nothing gets through in either direction."""
        return not self.link.up and not self.link.down

    @property
    def talks(self) -> bool:
        """Whether what its agent says reaches a controller."""
        return self.up and self.agent and self.session and self.link.up

    def devices(self) -> tuple[ev.AcceleratorRow, ...]:
        """What its probe reads."""
        return tuple(
            ev.AcceleratorRow(
                i,
                AcceleratorState.FAILED if i in self.faults else AcceleratorState.HEALTHY,
                Accelerator(f"{self.name}-{i}", vendor="simulated", fault_code=self.faults.get(i, "")),
            )
            for i in range(self.accelerators)
        )

    def sibling(self, number: int) -> SimNode:
        """Another machine of the same sort in the same place, not yet seen by anybody."""
        return SimNode(f"node-{number:04d}", self.rack, self.accelerators, self.labels, relay=self.relay)

    def live(self) -> list[Process]:
        """Processes that have not ended."""
        return [process for process in self.processes.values() if process.exit is None]
