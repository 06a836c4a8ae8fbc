"""A site with one gang that obeys at once: the real engine and machine, everything else as cheap as it can be told.

The world's part (who beats, what agents say) is columns, so that what is measured is the controller's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from controlplane.adapters.journal.memory import MemoryJournal
from controlplane.core import events as ev
from controlplane.core.checkpoints import ShardFile, checkpoint_id
from controlplane.core.draft import Refusal
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.fleet import Accelerator
from controlplane.core.health.distrust import Vitals
from controlplane.core.health.standstill import Stacks
from controlplane.core.health.stragglers import Standing, StragglerPolicy
from controlplane.core.jobs import NONE, Job
from controlplane.core.machine import Machine
from controlplane.core.recovery.restore_point import Copies
from controlplane.core.softstate import StepTimes
from controlplane.core.spec import Budget, CheckpointPolicy, JobSpec, Parallel, RestartPolicy, SparePolicy, Workload
from controlplane.core.state import State
from controlplane.core.units import NS_PER_MS, NS_PER_S, ms
from controlplane.core.vocabulary import AcceleratorState, JobState, RankState
from controlplane.engine.ports import Journal
from controlplane.engine.recover import lead
from controlplane.engine.turn import Engine, Request, TurnResult

START_NS = 1_800_000_000 * NS_PER_S
WIDTH = 8
RACK_NODES = 16
BATCH = 256
"""Events of one turn, as the controller's default."""
STEP_NS = 100 * NS_PER_MS
PHASES = ((RankState.JOINING, 0), (RankState.RESTORING, 1), (RankState.RESTORING, 2), (RankState.RUNNING, 3))


@dataclass(slots=True)
class GangSoft:
    """Soft state in closed form: whoever is not silent has just beaten; the gang has just made a step."""

    now_ns: int = START_NS
    start_ns: int = START_NS
    silent_since_ns: dict[int, int] = field(default_factory=dict)
    step: int = 1

    def last_beat_ns(self, size: int) -> np.ndarray:
        beats = np.full(size, self.now_ns, dtype=np.int64)
        for node, since_ns in self.silent_since_ns.items():
            beats[node] = since_ns
        return beats

    def trusted_since_ns(self) -> int:
        return self.start_ns

    def excused_ns(self, since_ns: np.ndarray) -> np.ndarray:
        return np.zeros_like(since_ns)

    def vitals(self) -> Vitals:
        return Vitals()

    def step_time_ns(self, job_uid: str) -> int:
        return STEP_NS

    def progress(self, job_uid: str) -> tuple[int, int]:
        stopped = min(self.silent_since_ns.values(), default=self.now_ns)
        return self.step, stopped

    def step_times(self, job_uid: str) -> StepTimes:
        return StepTimes(1_000, STEP_NS, 0, STEP_NS)

    def stacks(self, effect_id: str) -> Stacks:
        return Stacks.none()

    def copies(self, job_uid: str) -> Copies:
        return Copies.none()

    def node_progress_ns(self, job_uid: str, node: int) -> int:
        return self.progress(job_uid)[1]

    def slow_ranks(self, job_uid: str, ranks: int, parallel: Parallel, policy: StragglerPolicy) -> Standing | None:
        """See `core.softstate.SoftState`. Nobody tells phase times here."""
        return None


@dataclass
class GangSite:
    """One job over `nodes - spares` nodes, `ranks_per_node` ranks on each, with warm spare nodes beside it."""

    nodes: int = 6_250
    spares: int = 8
    ranks_per_node: int = WIDTH
    cpu_ns: list[int] = field(default_factory=list)
    start_ns: int = START_NS
    journal: Journal = field(default_factory=MemoryJournal)

    def __post_init__(self) -> None:
        self.soft = GangSoft(self.start_ns, self.start_ns)
        self.effects: list[Effect] = []
        machine = Machine()
        state = lead(self.journal, machine, "bench", "0", self.soft.now_ns)
        self.engine = Engine(machine, self.journal, self.soft, self.effects.extend, state)

    @property
    def state(self) -> State:
        return self.engine.state

    @property
    def job(self) -> Job:
        return next(iter(self.state.jobs.values()))

    def turn(self, *events: ev.Event, after_ns: int = STEP_NS) -> TurnResult:
        """One turn, some time after the last one; its CPU time is noted."""
        self.soft.now_ns += after_ns
        answers: list[object] = []
        began = time.process_time_ns()
        result = self.decide([Request(event, answers.append) for event in events])
        self.cpu_ns.append(time.process_time_ns() - began)
        refused = [answer for answer in answers if isinstance(answer, Refusal)]
        assert not refused, refused[0].message
        return result

    def decide(self, requests: Sequence[Request]) -> TurnResult:
        """The controller's part of a turn."""
        return self.engine.turn(requests, self.soft.now_ns)

    def hello(self, number: int, boot: int = 1) -> ev.NodeHello:
        name = f"node-{number:04d}"
        devices = tuple(
            ev.AcceleratorRow(k, AcceleratorState.HEALTHY, Accelerator(f"{name}-{k}")) for k in range(WIDTH)
        )
        labels = (("rack", f"r{number // RACK_NODES:03d}"),)
        return ev.NodeHello(name, f"{boot:04d}", labels, f"10.0.0.{number}", "0", (), devices)

    def saved(self, step: int) -> list[ev.NodeReport]:
        """What the nodes tell when the gang has saved a step: a report of each, with the shards of its ranks."""
        job, fleet = self.job, self.state.fleet
        name = checkpoint_id(job.uid, job.generation, step)
        ranks: dict[int, list[int]] = {}
        for rank, number in enumerate(job.rank_node.tolist()):
            ranks.setdefault(number, []).append(rank)
        return [
            ev.NodeReport(
                fleet.name(number), fleet.facts[number].boot_id,
                shards=tuple(
                    ev.ShardRow(
                        job.uid, job.generation, step, rank, f"/s/{name}", (ShardFile(f"r{rank}", 1, "0" * 64),), 1,
                        self.soft.now_ns,
                    )
                    for rank in held
                ),
            )
            for number, held in ranks.items()
        ]  # fmt: skip

    def open(self) -> None:
        """The job is submitted and comes to run."""
        self.submit()
        self.run_gang()

    def submit(self) -> None:
        """All nodes say hello and are members of the cell; the job is submitted, its processes are on their way."""
        self.turn(ev.NodesJoined(tuple(self.hello(number) for number in range(self.nodes))))
        self.turn(*self.cells())
        self.turn(ev.SubmitJob("submit", self.spec()))

    def cells(self) -> Sequence[ev.CellHello]:
        """Cells with all nodes as their members."""
        members = tuple((f"node-{number:04d}", True) for number in range(self.nodes))
        return (ev.CellHello("cell-0", "1", "ray-1", "10.0.0.0:1", members),)

    def raylet(self, name: str, *, alive: bool) -> ev.CellReport:
        """The cell of a node tells that its raylet is gone, or there again."""
        return ev.CellReport("cell-0", "1", nodes=((name, alive),))

    def spec(self) -> JobSpec:
        ranks = (self.nodes - 2 * self.spares) * self.ranks_per_node
        budget = Budget(1_000_000, 24 * 3_600_000)
        return JobSpec(
            "gang", Workload("training_jobs.moe.train"), ranks, WIDTH // self.ranks_per_node, Parallel(dp=ranks),
            SparePolicy(self.spares, 0), CheckpointPolicy(every_steps=0),
            RestartPolicy(infrastructure=budget),
        )  # fmt: skip

    def gang(self, state: RankState, column: int = NONE) -> ev.HostsReached:
        """What all processes of the job's generation say of themselves."""
        job = self.job
        generation = 0 if state is RankState.PARKED else job.generation
        everyone = ((1, job.next_host),)
        return ev.HostsReached("gang", job.uid, generation, state, everyone, self.soft.now_ns + STEP_NS, column)

    def park(self) -> None:
        """Processes that were asked for are there."""
        orders = [effect for effect in self.take(EffectKind.START_HOSTS) if effect.id in self.state.effects]
        if orders:
            self.turn(*(ev.EffectDone(effect.id, True, "") for effect in orders))
            self.turn(self.gang(RankState.PARKED))

    def run_gang(self) -> None:
        """Processes park, and the generation comes to run; then spares park too."""
        self.park()
        self.take(EffectKind.APPLY_GENERATION)
        for state, column in PHASES:
            self.turn(self.gang(state, column))
        assert self.job.state is JobState.RUNNING, self.job.blocker
        self.park()

    def take(self, kind: EffectKind) -> Sequence[Effect]:
        """Effects of a kind that were sent since the last look."""
        found = [effect for effect in self.effects if effect.kind is kind]
        self.effects.clear()
        return found

    def lose_node(self, number: int) -> None:
        """The whole recovery from one node's loss: three witnesses, the verdict, the next generation, its first step, and
        the spare that takes the place of the one that was used."""
        facts = self.state.fleet.facts[number]
        self.soft.silent_since_ns[number] = self.soft.now_ns
        self.turn(ev.NodeSessionLost(facts.name, facts.boot_id, "reset"))
        self.turn(self.gang(RankState.PAUSED))
        self.turn(self.raylet(facts.name, alive=False))
        generation = self.job.generation
        self.turn(ev.Tick(), after_ns=ms(800))
        assert self.job.generation == generation + 1, self.job.blocker
        self.run_gang()

    def repair_node(self, number: int) -> None:
        """The node is back, as a new boot."""
        boot = int(self.state.fleet.facts[number].boot_id) + 1
        del self.soft.silent_since_ns[number]
        self.turn(self.hello(number, boot))
        self.turn(self.raylet(self.state.fleet.name(number), alive=True))

    def park_reports(self) -> tuple[ev.NodeReport, ...]:
        """What every node's own agent would say when all processes that are on their way have parked."""
        job, since_ns = self.job, self.soft.now_ns
        by_node: dict[int, list[ev.HostRow]] = {}
        for serial, node in zip(job.hosts.serial.tolist(), job.hosts.node.tolist(), strict=True):
            row = ev.HostRow(job.uid, serial, RankState.PARKED, NONE, 0, serial, serial, since_ns)
            by_node.setdefault(node, []).append(row)
        facts = self.state.fleet.facts
        return tuple(ev.NodeReport(facts[n].name, facts[n].boot_id, hosts=tuple(rows)) for n, rows in by_node.items())
