"""A small world around the real machine, turn and journal: nodes, processes and a cell that obey effects in virtual time.

Nothing of the product is copied here: every decision comes from `controlplane.core`, every write goes through
`controlplane.engine`. The world only plays agents, Ray and the ranks, and checks the invariants after each turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from controlplane.adapters.journal.memory import MemoryJournal
from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.checkpoints import ShardFile
from controlplane.core.draft import Answer, Policy, Refusal
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.fleet import Accelerator
from controlplane.core.health.distrust import LagLog, Vitals
from controlplane.core.invariants import check, check_step
from controlplane.core.jobs import Exit, Job, split_host_id
from controlplane.core.machine import Machine
from controlplane.core.recovery.rules import IMPLICIT
from controlplane.core.spec import CheckpointPolicy, JobSpec, Parallel, SparePolicy, Workload
from controlplane.core.state import State
from controlplane.core.units import NS_PER_S, seconds
from controlplane.core.vocabulary import AcceleratorState, RankState
from controlplane.engine.recover import lead, load
from controlplane.engine.turn import Engine, Request

START_NS = 1_800_000_000 * NS_PER_S
TICK_NS = NS_PER_S // 10


@dataclass
class Process:
    """One rank host and its process in the world."""

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

    def row(self) -> ev.HostRow:
        return ev.HostRow(
            self.job, self.serial, self.state, self.rank, self.generation, 1000 + self.serial, 2000 + self.serial,
            self.since_ns, self.exit, *self.times,
        )  # fmt: skip


@dataclass
class Machine_:
    """One node of the world."""

    name: str
    rack: str
    accelerators: int
    boot: int = 1
    up: bool = True
    agent: bool = True
    raylet: bool = True
    frozen: bool = False
    session: bool = False
    faults: dict[int, str] = field(default_factory=dict)
    processes: dict[tuple[str, int], Process] = field(default_factory=dict)

    @property
    def boot_id(self) -> str:
        return f"{self.boot:04d}"

    @property
    def talks(self) -> bool:
        """Whether its agent's session carries anything now."""
        return self.up and self.agent and self.session and not self.frozen

    def devices(self) -> tuple[ev.AcceleratorRow, ...]:
        return tuple(
            ev.AcceleratorRow(
                i,
                AcceleratorState.FAILED if i in self.faults else AcceleratorState.HEALTHY,
                Accelerator(f"{self.name}-{i}", vendor="simulated", fault_code=self.faults.get(i, "")),
            )
            for i in range(self.accelerators)
        )


class WorldSoft:
    """Soft state in closed form: living agents have always just beaten; steps are known when any agent of the job talks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.silent_since: dict[str, int] = {}
        self.trusted_ns = START_NS
        self.steps: dict[str, tuple[int, int]] = {}
        self.lags = LagLog()
        self.sick = Vitals()

    def last_beat_ns(self, size: int) -> np.ndarray:
        fleet = self.world.engine.state.fleet
        names = [facts.name for facts in fleet.facts][:size]
        beats = [self.silent_since.get(name, self.world.now_ns) for name in names]
        return np.array(beats + [self.world.now_ns] * (size - len(beats)), dtype=np.int64)

    def trusted_since_ns(self) -> int:
        return self.trusted_ns

    def excused_ns(self, since_ns: np.ndarray) -> np.ndarray:
        return self.lags.excused_ns(since_ns)

    def vitals(self) -> Vitals:
        return self.sick

    def step_time_ns(self, job_uid: str) -> int:
        return TICK_NS

    def progress(self, job_uid: str) -> tuple[int, int]:
        return self.steps.get(job_uid, (0, 0))

    def node_progress_ns(self, job_uid: str, node: int) -> int:
        return self.steps.get(job_uid, (0, 0))[1]


class World:
    """A site of `nodes` nodes in virtual time. Delays are in seconds and deterministic."""

    def __init__(self, nodes: int = 4, accelerators: int = 2, racks: int = 2, policy: Policy | None = None) -> None:
        self.now_ns = START_NS
        self.machine = Machine(policy or Policy())
        self.journal = MemoryJournal()
        self.soft = WorldSoft(self)
        self.nodes = {
            f"node-{i:02d}": Machine_(f"node-{i:02d}", f"r{i * racks // nodes}", accelerators) for i in range(nodes)
        }
        self.later: list[tuple[int, int, Callable[[], None]]] = []
        self.sequence = 0
        self.cell_open = True
        self.lines: list[str] = []
        self.sent: list[Effect] = []
        self.steps: dict[str, int] = {}
        self.corrupt: set[str] = set()
        self.broken: dict[str, str] = {}
        self.jammed: set[str] = set()
        self.held: list[ev.NodeReport] | None = None
        self.checked = True
        self.delays = {"park": 2.0, "join": 0.05, "rendezvous": 0.1, "restore": 0.2, "step": 0.1}
        self.engine = self._lead()
        self.join_all()

    def _lead(self) -> Engine:
        state = lead(self.journal, self.machine, "test", "0", self.now_ns)
        return Engine(self.machine, self.journal, self.soft, self._submit, state)

    def join_all(self) -> None:
        for node in self.nodes.values():
            self.hello(node.name)
        self.cell_hello()

    # -- time -------------------------------------------------------------------------------------------------------

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self.sequence += 1
        heapq.heappush(self.later, (self.now_ns + seconds(delay_s), self.sequence, action))

    def run(self, duration_s: float, tick_s: float = 0.1) -> None:
        """Let virtual time pass, one tick of 100 ms at a time."""
        end = self.now_ns + seconds(duration_s)
        while self.now_ns < end:
            self.now_ns += seconds(tick_s)
            while self.later and self.later[0][0] <= self.now_ns:
                heapq.heappop(self.later)[2]()
            self._advance_steps()
            self.turn(ev.Tick())

    def run_until(self, condition: Callable[[], bool], limit_s: float = 120.0, tick_s: float = 0.1) -> None:
        end = self.now_ns + seconds(limit_s)
        while not condition():
            if self.now_ns >= end:
                raise AssertionError("not reached in virtual time:\n" + "\n".join(self.lines[-40:]))
            self.run(tick_s, tick_s)

    # -- turns ------------------------------------------------------------------------------------------------------

    def turn(self, *events: ev.Event) -> list[Answer | Refusal | None]:
        """One real turn; invariants are checked on what it published."""
        answers: list[Answer | Refusal | None] = []
        before = self.engine.state
        requests = [Request(event, answers.append) for event in events]
        result = self.engine.turn(requests, self.now_ns)
        after = self.engine.state
        for record in result.records:
            self.lines.append(f"{(self.now_ns - START_NS) / NS_PER_S:8.1f} {type(record).__name__} {brief(record)}")
        if any(isinstance(answer, Refusal) and answer.code == "unavailable" for answer in answers):
            self._tell_later(events)
            return answers
        if not result.records:
            return answers
        found = check(after) + check_step(before, after) + self.truth()
        if found:
            raise AssertionError("\n".join([*self.lines[-30:], "VIOLATED:", *found]))
        return answers

    def _tell_later(self, events: Sequence[ev.Event]) -> None:
        """The edge keeps what was not stored and tells it again; refused reports and hellos end the session instead."""
        for event in events:
            match event:
                case ev.NodeSessionLost():
                    self.after(0.3, lambda e=event: None if self.nodes[e.node].session else self._again(e))
                case ev.CellSessionLost():
                    self.after(0.3, lambda e=event: None if self.cell_open else self._again(e))
                case ev.CellHello():
                    self.after(0.3, lambda: self.cell_hello() if self.cell_open else None)
                case ev.CellReport():
                    self.after(0.3, self.cell_nodes)
                    if event.dead_actors:
                        self.after(0.3, lambda e=event: self._actors_died([name for name, _ in e.dead_actors]))
                case ev.EffectDone():
                    self.after(0.3, lambda e=event: self._again(e))
                case _:
                    pass

    def _again(self, event: ev.Event) -> None:
        self.turn(event)

    def truth(self) -> list[str]:
        """S1 on the world's truth: at most one process that held a rank is left on any accelerator."""
        found = []
        for node in self.nodes.values():
            held: dict[int, str] = {}
            for process in node.processes.values():
                if process.generation and process.occupies:
                    who = f"{process.job}-{process.serial} of generation {process.generation}"
                    for position in process.devices:
                        if position in held:
                            found.append(f"S1 (truth): {node.name}/{position} runs {held[position]} and {who}")
                        held[position] = who
        return found

    def _submit(self, effects: Sequence[Effect]) -> None:
        self.sent.extend(effects)
        for effect in effects:
            self.after(0.01, lambda effect=effect: self._perform(effect))

    def _perform(self, effect: Effect, only: str = "") -> None:
        if effect.id not in self.engine.state.effects:
            return
        if effect.kind is EffectKind.START_HOSTS:
            self._start_hosts(effect)
            return
        names = [effect.node]
        if effect.group:
            names = [self.engine.state.fleet.name(number) for number in self.job(effect.job).nodes()]
        for name in names:
            if not only or name == only:
                self._perform_on(self.nodes.get(name), effect)

    def _perform_on(self, node: Machine_ | None, effect: Effect) -> None:
        if node is None or not node.up or not node.agent or not node.session:
            return
        if node.frozen:
            self.after(0.5, lambda: self._perform(effect, node.name))
            return
        ok, text = True, ""
        match effect.kind:
            case EffectKind.APPLY_GENERATION:
                ok, text = self._apply_generation(node, effect)
            case EffectKind.FENCE_HOSTS:
                for item in effect.items:
                    uid, serial = split_host_id(item) or ("", 0)
                    self._fence(node, uid, serial)
            case EffectKind.FORGET_HOSTS:
                for item in effect.items:
                    key = split_host_id(item) or ("", 0)
                    if key in node.processes and not node.processes[key].occupies:
                        del node.processes[key]
            case EffectKind.INJECT_FAULT:
                index, code, _ = effect.items
                self.set_fault(node.name, int(index), code)
            case EffectKind.VERIFY_CHECKPOINT:
                name = effect.items[0]
                bad = name in self.corrupt
                file, reason = ("r0", "the digest differs") if bad else ("", "")
                row = ev.CheckedRow(effect.job, name, ok=not bad, file=file, reason=reason)
                self.turn(ev.NodeReport(node.name, node.boot_id, checked=(row,)))
            case EffectKind.SWEEP_FOLDERS | EffectKind.STOP_HOSTS | EffectKind.START_HOSTS:
                pass
        if not effect.group:
            self.turn(ev.EffectDone(effect.id, ok, text))

    def resend(self, target: str) -> None:
        for effect in list(self.engine.state.effects.values()):
            if effect.target == target or effect.group:
                self._perform(effect, target.partition(":")[2])

    def _start_hosts(self, effect: Effect) -> None:
        if not self.cell_open:
            return
        job = self.job(effect.job)
        self.turn(ev.EffectDone(effect.id, ok=True, message=""))
        dead: list[str] = []
        for item in effect.items:
            uid, serial = split_host_id(item) or ("", 0)
            row = job.hosts.row(serial)
            if row < 0:
                continue
            node = self.nodes[self.engine.state.fleet.name(int(job.hosts.node[row]))]
            if (uid, serial) in node.processes:
                continue
            if not node.up or not node.raylet:
                dead.append(item)
                continue
            process = Process(uid, serial, node.name, since_ns=self.now_ns)
            node.processes[(uid, serial)] = process
            self.report(node, [process])
            self.after(self.delays["park"], lambda p=process, n=node: self._park(n, p))
        if dead:
            self.after(1.0, lambda: self._actors_died(dead))

    def _actors_died(self, names: list[str]) -> None:
        if self.cell_open:
            self.turn(ev.CellReport("cell-0", "1", dead_actors=tuple((name, "its node left") for name in names)))

    def _park(self, node: Machine_, process: Process) -> None:
        error = self.broken.get(self.job(process.job).name)
        if error is None:
            self._become(node, process, RankState.PARKED)
        elif process.exit is None and node.up:
            self.exit(node, process, Exit(observed=True, code=1, message=error, group_empty=True))

    def exit(self, node: Machine_, process: Process, exit_: Exit) -> None:
        """A process ends; what lingers of its group goes half a second later."""
        process.state, process.exit, process.since_ns = RankState.EXITED, exit_, self.now_ns
        self.report(node, [process])
        if process.generation and not exit_.final_marker:
            self._peers_pause(process.job)
        if not exit_.group_empty:
            self.after(0.5, lambda: self._emptied(node, process))

    def _emptied(self, node: Machine_, process: Process) -> None:
        if process.exit is not None and not process.exit.group_empty:
            process.exit = replace(process.exit, group_empty=True)
            self.report(node, [process])

    def _peers_pause(self, uid: str) -> None:
        """The ranks that work with a lost one notice its broken connections, and say that they cannot go on."""
        self.after(0.05, lambda: [self._pause(*found) for found in self._working(uid)])

    def _working(self, uid: str) -> list[tuple[Machine_, Process]]:
        job = self.engine.state.jobs[uid]
        return [
            (node, process)
            for node in self.nodes.values()
            for process in node.processes.values()
            if process.job == uid and process.generation == job.generation and process.state is RankState.RUNNING
        ]

    def _pause(self, node: Machine_, process: Process) -> None:
        if not self._whole(self.job(process.job), 3):
            self._become(node, process, RankState.PAUSED)

    def _become(self, node: Machine_, process: Process, state: RankState) -> None:
        if process.state is RankState.EXITED or not node.up or not process.obeys:
            return
        process.state, process.since_ns = state, self.now_ns
        self.report(node, [process])

    def _apply_generation(self, node: Machine_, effect: Effect) -> tuple[bool, str]:
        job = self.job(effect.job)
        if job.generation != effect.generation or job.terminal:
            return False, "superseded"
        for rank in np.flatnonzero(job.rank_node == self.engine.state.fleet.number(node.name)):
            process = node.processes.get((job.uid, int(job.rank_host[rank])))
            if process is None or process.state is RankState.EXITED or process.generation == job.generation:
                continue
            process.rank, process.generation, process.times = int(rank), job.generation, [0, 0, 0, 0]
            process.devices = tuple(job.rank_acc[rank].tolist())
            if not process.obeys:
                continue
            process.state, process.since_ns = RankState.JOINING, self.now_ns
            process.times[0] = self.now_ns
            self.report(node, [process])
            self.after(self.delays["rendezvous"], lambda p=process, n=node, g=job.generation: self._rendezvous(n, p, g))
        return True, ""

    def _whole(self, job: Job, column: int) -> bool:
        """Whether every rank of the current generation has got this far: collectives need all of them."""
        for rank, serial in enumerate(job.rank_host.tolist()):
            name = self.engine.state.fleet.name(int(job.rank_node[rank]))
            process = self.nodes[name].processes.get((job.uid, serial))
            if process is None or process.generation != job.generation or not process.times[column]:
                return False
            if process.state is RankState.EXITED or not self.nodes[name].up:
                return False
        return True

    def _stage(self, node: Machine_, process: Process, generation: int, column: int, retry: Callable[[], None]) -> bool:
        if process.state is RankState.EXITED or process.generation != generation or not node.up or not process.obeys:
            return False
        job = self.job(process.job)
        if job.generation != generation or job.terminal:
            return False
        if job.name in self.jammed or not self._whole(job, column - 1):
            self.after(0.1, retry)
            return False
        process.times[column] = self.now_ns
        return True

    def _rendezvous(self, node: Machine_, process: Process, generation: int) -> None:
        if self._stage(node, process, generation, 1, lambda: self._rendezvous(node, process, generation)):
            self._become(node, process, RankState.RESTORING)
            self.after(self.delays["restore"], lambda: self._restored(node, process, generation))

    def _restored(self, node: Machine_, process: Process, generation: int) -> None:
        job = self.job(process.job)
        if job.restore_id in self.corrupt and process.generation == job.generation == generation and not job.terminal:
            if process.state is not RankState.EXITED and process.obeys and node.talks:
                row = ev.RestoreFailedRow(
                    job.uid, generation, process.rank, job.restore_id, f"r{process.rank}", "the digest differs"
                )
                self.turn(ev.NodeReport(node.name, node.boot_id, restore_failures=(row,)))
            return
        if self._stage(node, process, generation, 2, lambda: self._restored(node, process, generation)):
            self.report(node, [process])
            self.after(self.delays["step"], lambda: self._first_step(node, process, generation))

    def _first_step(self, node: Machine_, process: Process, generation: int) -> None:
        if self._stage(node, process, generation, 3, lambda: self._first_step(node, process, generation)):
            job = self.job(process.job)
            self.steps[job.uid] = job.restore_step + 1
            self._learn_step(job)
            self._become(node, process, RankState.RUNNING)

    def _learn_step(self, job: Job) -> None:
        """Steps are told by the agents of the job's nodes: what none of them can say is not known."""
        if any(self.nodes[self.engine.state.fleet.name(number)].talks for number in job.nodes()):
            self.soft.steps[job.uid] = (self.steps[job.uid], self.now_ns)

    def _advance_steps(self) -> None:
        for job in self.engine.state.active_jobs():
            if job.generation and self._whole(job, 3):
                self.steps[job.uid] = self.steps.get(job.uid, 0) + 1
                self._learn_step(job)

    def _fence(self, node: Machine_, uid: str, serial: int) -> None:
        process = node.processes.get((uid, serial))
        if process is None:
            process = Process(uid, serial, node.name, exit=Exit(observed=False, sender="agent", group_empty=True))
        elif process.exit is None:
            process.exit = Exit(observed=True, signal=9, sender="agent", group_empty=True)
        process.state, process.since_ns = RankState.EXITED, self.now_ns
        process.exit = replace(process.exit, group_empty=True) if process.exit else None
        node.processes[(uid, serial)] = process
        self.report(node, [process])

    # -- what agents say --------------------------------------------------------------------------------------------

    def hello(self, name: str) -> list[Answer | Refusal | None]:
        node = self.nodes[name]
        if not node.up or not node.agent or node.frozen:
            return []
        self.soft.silent_since.pop(name, None)
        rows = tuple(process.row() for process in node.processes.values())
        labels = (("rack", node.rack),)
        answers = self.turn(ev.NodeHello(name, node.boot_id, labels, "127.0.0.1", "0", rows, node.devices()))
        node.session = isinstance(answers[0], Answer)
        if isinstance(answers[0], Refusal) and answers[0].code == "unavailable":
            self.after(0.5, lambda: self.hello(name))
        self.resend(f"node:{name}")
        return answers

    def cell_hello(self) -> None:
        self.cell_open = True
        nodes = tuple((node.name, node.up and node.raylet) for node in self.nodes.values())
        self.turn(ev.CellHello("cell-0", "1", "ray-1", "127.0.0.1:1", nodes))
        self.resend("cell:cell-0")

    def cell_nodes(self) -> None:
        if self.cell_open:
            nodes = tuple((node.name, node.up and node.raylet) for node in self.nodes.values())
            self.turn(ev.CellReport("cell-0", "1", nodes=nodes))

    def report(
        self,
        node: Machine_,
        processes: Sequence[Process] = (),
        accelerators: tuple[ev.AcceleratorRow, ...] = (),
        *,
        full: bool = False,
    ) -> None:
        """Rows that changed; a refusal ends the stream and the agent dials again, as the edge does it."""
        if not node.talks:
            return
        rows = tuple(process.row() for process in processes)
        report = ev.NodeReport(node.name, node.boot_id, full=full, hosts=rows, accelerators=accelerators)
        if self.held is not None:
            self.held.append(report)
            return
        self._tell_reports([report])

    def _tell_reports(self, reports: Sequence[ev.NodeReport]) -> None:
        for report, answer in zip(reports, self.turn(*reports), strict=True):
            node = self.nodes[report.node]
            if isinstance(answer, Refusal) and node.session:
                node.session = False
                self.after(0.0 if answer.code == "unavailable" else 0.2, lambda name=node.name: self.hello(name))

    def together(self, act: Callable[[], object]) -> None:
        """What agents report while `act` runs arrives as one batch, in one turn."""
        self.held = []
        act()
        reports, self.held = self.held, None
        if reports:
            self._tell_reports(reports)

    def snapshot(self, name: str) -> None:
        """A full report within a session."""
        node = self.nodes[name]
        self.report(node, list(node.processes.values()), node.devices(), full=True)

    # -- commands and faults ----------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, request_id: str = "") -> Answer | Refusal | None:
        return self.turn(ev.SubmitJob(request_id or f"submit-{spec.name}", spec))[0]

    def job(self, name: str) -> Job:
        state = self.engine.state
        return state.jobs.get(name) or state.jobs[state.names[name]]

    def process(self, job: str, rank: int) -> tuple[Machine_, Process | None]:
        """Where a rank is placed, and the process that holds it there."""
        found = self.job(job)
        node = self.nodes[self.engine.state.fleet.name(int(found.rank_node[rank]))]
        return node, node.processes.get((found.uid, int(found.rank_host[rank])))

    def end(self, job: str, rank: int, exit_: Exit) -> bool:
        """The process of a rank ends. False: it has none that lives."""
        found = self.job(job)
        if not found.placed or found.rank_host[rank] < 0:
            return False
        node, process = self.process(job, rank)
        if process is None or process.exit is not None:
            return False
        self.exit(node, process, exit_)
        return True

    def kill_rank(self, job: str, rank: int, *, lingers: bool = False) -> bool:
        return self.end(job, rank, Exit(observed=True, signal=9, group_empty=not lingers))

    def hang(self, job: str, rank: int) -> None:
        """The process of a rank does nothing any more; signals still end it."""
        _, process = self.process(job, rank)
        if process is not None:
            process.obeys = False

    def destroy(self, name: str) -> None:
        node = self.nodes[name]
        node.up = node.agent = node.raylet = node.session = node.frozen = False
        jobs = {process.job for process in node.processes.values() if process.generation and process.exit is None}
        node.processes.clear()
        for uid in sorted(jobs):
            self._peers_pause(uid)
        self.soft.silent_since.setdefault(name, self.now_ns)
        self.turn(ev.NodeSessionLost(name, node.boot_id, "stream reset"))
        self.after(0.5, self.cell_nodes)

    def repair(self, name: str) -> None:
        node = self.nodes[name]
        node.up = node.agent = node.raylet = True
        node.boot += 1
        node.faults.clear()
        self.hello(name)
        self.cell_nodes()

    def lose_agent(self, name: str) -> None:
        node = self.nodes[name]
        node.agent = node.session = node.frozen = False
        self.soft.silent_since.setdefault(name, self.now_ns)
        self.turn(ev.NodeSessionLost(name, node.boot_id, "stream reset"))

    def return_agent(self, name: str) -> None:
        self.nodes[name].agent = True
        self.nodes[name].boot += 1
        self.hello(name)

    def freeze(self, name: str) -> None:
        """Nothing of the node gets through any more, its stream stays open; its ranks go on."""
        self.nodes[name].frozen = True
        self.soft.silent_since.setdefault(name, self.now_ns)

    def thaw(self, name: str) -> None:
        """The path is whole again: beats arrive and what changed meanwhile is told."""
        node = self.nodes[name]
        node.frozen = False
        if node.session:
            self.soft.silent_since.pop(name, None)
            self.snapshot(name)
        else:
            self.hello(name)

    def set_raylet(self, name: str, *, up: bool) -> None:
        self.nodes[name].raylet = up
        self.cell_nodes()

    def lose_cell(self) -> None:
        self.cell_open = False
        self.turn(ev.CellSessionLost("cell-0", "1", "stream reset"))

    def set_fault(self, name: str, index: int, code: str) -> None:
        """An accelerator reports a fault, or none ("")."""
        node = self.nodes[name]
        node.faults.pop(index, None)
        if code:
            node.faults[index] = code
        self.report(node, accelerators=node.devices())

    def checkpoint(self, job: str, step: int, ranks: Sequence[int] | None = None) -> None:
        found = self.job(job)
        for rank in range(found.spec.ranks) if ranks is None else ranks:
            node, _ = self.process(job, rank)
            row = ev.ShardRow(
                found.uid, found.generation, step, rank, f"/s/{found.uid}/g{found.generation}/step-{step}",
                (ShardFile(f"r{rank}", 10, "0" * 64),), 1_000_000, self.now_ns,
            )  # fmt: skip
            if node.talks:
                self.turn(ev.NodeReport(node.name, node.boot_id, shards=(row,)))

    def finish(self, job: str, ranks: Sequence[int] | None = None) -> None:
        uid = self.job(job).uid
        for rank in range(self.job(job).spec.ranks) if ranks is None else ranks:
            self.end(uid, rank, Exit(observed=True, final_marker=True, group_empty=True, result={"ok": "1"}))

    def restart_controller(self, stall_s: float = 0.5, reconnect_s: float = 0.3) -> None:
        """SIGKILL and a new one: state from the journal, fresh leases; it ticks before the agents say hello again."""
        self.journal = self.journal.open_again()
        digest = self.engine.state.digest()
        assert load(self.journal).digest() == digest, "S6: replay gives another state"
        self.now_ns += seconds(stall_s)
        self.engine = self._lead()
        self.soft.trusted_ns = self.now_ns
        for node in self.nodes.values():
            node.session = False
            self.after(reconnect_s, lambda name=node.name: self.hello(name))
        if self.cell_open:
            self.after(reconnect_s, lambda: self.cell_hello() if self.cell_open else None)

    def stall_controller(self, stall_s: float) -> None:
        """The brain sleeps; agents beat and wait. What they said meanwhile is still to be read."""
        self.now_ns += seconds(stall_s)
        self.soft.lags.note(seconds(stall_s), self.now_ns)
        self.soft.sick = replace(self.soft.sick, lag_ns=seconds(stall_s), lag_at_ns=self.now_ns)

    def state(self) -> State:
        return self.engine.state


BESIDE = ("evidence_ids", "offence", "draw", "backoff_ns")
"""Fields that a story does not show."""
UNUSUAL: dict[str, tuple[object, ...]] = {
    "rule": ("", IMPLICIT), "restore_limit": (-1,), "step_known": (True,), "why": ("",), "released": (False,),
}  # fmt: skip
"""Fields that a story shows when they say something; with the values that say nothing."""


def brief(record: r.Record) -> str:
    """A record in one short line, for golden files and failing tests."""
    parts = []
    for name in getattr(record, "__slots__", ()):
        value = getattr(record, name)
        if name in BESIDE or (name in UNUSUAL and value in UNUSUAL[name]):
            continue
        if name == "rules" and getattr(record, "rule", "") in UNUSUAL["rule"] and isinstance(record, r.RecoveryDecided):
            continue
        if name in ("spec", "labels", "accelerators", "states", "effects", "rows", "at_ns", "not_before_ns", "budgets"):
            if name == "effects":
                value = " ".join(f"{e.kind}->{e.target}" for e in value)
            elif name == "rows":
                value = " ".join(
                    f"{row.serial}:{row.state.name}" if hasattr(row, "serial") else str(row.index) for row in value
                )
            else:
                continue
        if name == "lost":
            value = [f"{entry.rank}: {entry.cause}" for entry in value]
        if name == "collect_until_ns" or (name == "path_broken" and not value):
            continue
        if name in ("exit",):
            value = "finished" if value.finished else f"code={value.code} signal={value.signal}"
        if name == "shard":
            value = f"rank {value.rank}"
        parts.append(f"{name}={value.name if hasattr(value, 'name') else value}")
    return " ".join(parts)


def spec(name: str = "moe", ranks: int = 4, **changes: object) -> JobSpec:
    """A job for tests: parked processes and one warm spare node."""
    base = JobSpec(
        name, Workload("training_jobs.moe.train"), ranks, parallel=Parallel(dp=ranks),
        spares=SparePolicy(warm_nodes=1, parked_per_node=1), checkpoint=CheckpointPolicy(every_steps=20, keep=3),
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]
