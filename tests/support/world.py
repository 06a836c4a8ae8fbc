"""The simulated site as tests use it: small, ticking ten times a second, every turn checked, words for what a story does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from controlplane.core.draft import Policy
from controlplane.core.effects import Effect
from controlplane.core.invariants import check, check_step
from controlplane.core.spec import CheckpointPolicy, JobSpec, Parallel, SparePolicy, Workload
from controlplane.engine.recover import load
from controlplane.sim.observer import Observer, Turn
from controlplane.sim.world import site
from controlplane.sim.world.nodes import Process, SimNode
from controlplane.sim.world.timings import Timings
from controlplane.sim.world.truth import shared_devices

QUICK = Timings(park_s=2.0, rendezvous_s=0.1, restore_s=0.2, first_step_s=0.1, step_s=0.1)
"""What a person waits for while a story is told."""


class Checked(Observer):
    """The core's own invariants and S1 on the truth, after every turn."""

    def on_turn(self, turn: Turn, world: site.World) -> None:
        """Raises AssertionError with the newest records when something does not hold."""
        found = check(turn.after) + check_step(turn.before, turn.after) + shared_devices(world)
        if found:
            raise AssertionError("\n".join([*world.lines[-30:], "VIOLATED:", *found]))


class World(site.World):
    """A site of `nodes` nodes with `accelerators` each in `racks` racks."""

    def __init__(self, nodes: int = 4, accelerators: int = 2, racks: int = 2, policy: Policy | None = None) -> None:
        machines = []
        for i in range(nodes):
            rack = f"r{i * racks // nodes}"
            machines.append(SimNode(f"node-{i:02d}", rack, accelerators, (("rack", rack),)))
        super().__init__(machines, policy, observers=[Checked()], timings=replace(QUICK))

    @property
    def corrupt(self) -> set[str]:
        """Checkpoints whose files are damaged."""
        return self.stores.corrupt

    def hang(self, job: str, rank: int) -> bool:
        """The process of a rank does nothing any more. False: it has none."""
        _, process = self.process(job, rank)
        if process is not None:
            self.hang_process(process)
        return process is not None

    def exit(self, node: SimNode, process: Process, exit_: object) -> None:
        """A process ends."""
        self.agents.exit(process, exit_)  # type: ignore[arg-type]

    def together(self, act: Callable[[], object]) -> None:
        """What agents report while `act` runs arrives as one batch, in one turn."""
        self.agents.together(act)

    def snapshot(self, name: str) -> None:
        """A full report within a session."""
        self.agents.snapshot(self.nodes[name])

    def checkpoint(self, job: str, step: int, ranks: Sequence[int] | None = None) -> None:
        """Shards of a step are on storage."""
        self.stores.save_now(self.job(job).uid, step, ranks)

    def cell_hello(self) -> None:
        """The cell agent dials."""
        self.cell.hello()

    def cell_nodes(self) -> None:
        """The cell agent tells its membership."""
        self.cell.report_nodes()

    def lose_cell(self) -> None:
        """The cell agent's stream ends."""
        self.cell.lose()

    @property
    def cell_open(self) -> bool:
        """Whether the cell agent lives."""
        return self.cell.open

    @cell_open.setter
    def cell_open(self, lives: bool) -> None:
        """The cell agent does nothing any more, and nobody has noticed; or it does again."""
        self.cell.open = lives

    @property
    def sent(self) -> list[Effect]:
        """Every effect that left a controller."""
        return self.effects.sent

    def restart_controller(self, stall_s: float = 0.5) -> None:
        """SIGKILL and a new one, which must find the state of its predecessor."""
        digest = self.state().digest()
        assert load(self.journal).digest() == digest, "S6: replay gives another state"
        super().restart_controller(stall_s)


def spec(name: str = "moe", ranks: int = 4, **changes: object) -> JobSpec:
    """A job for tests: parked processes and one warm spare node."""
    base = JobSpec(
        name, Workload("training_jobs.moe.train"), ranks, parallel=Parallel(dp=ranks),
        spares=SparePolicy(warm_nodes=1, parked_per_node=1), checkpoint=CheckpointPolicy(every_steps=20, keep=3),
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]
