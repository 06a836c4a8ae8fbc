"""The simulated site as a whole: its parts, its clock, and what can be done to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from controlplane.core import events as ev
from controlplane.core.draft import Answer, Policy, Refusal
from controlplane.core.effects import Effect
from controlplane.core.jobs import Exit, Job
from controlplane.core.machine import Machine
from controlplane.core.spec import JobSpec
from controlplane.core.state import State
from controlplane.core.units import seconds
from controlplane.engine.turn import Engine
from controlplane.sim.journal import SimJournal
from controlplane.sim.kernel import Kernel
from controlplane.sim.observer import Observer, Turn
from controlplane.sim.soft import SimSoft
from controlplane.sim.trace import Trace
from controlplane.sim.world.agents import Agents
from controlplane.sim.world.cells import CellAgent
from controlplane.sim.world.control import Control
from controlplane.sim.world.controller import Controller
from controlplane.sim.world.effects import Effects
from controlplane.sim.world.gangs import Gang, Gangs
from controlplane.sim.world.network import Network
from controlplane.sim.world.nodes import Process, SimNode
from controlplane.sim.world.relays import Relays
from controlplane.sim.world.stores import Stores
from controlplane.sim.world.timings import Timings


class World:
    """A site in virtual time around the real machine, turn and journal port.

    `broken`: job name -> what its processes die of when they start. `jammed`: jobs whose ranks cannot find each other.
    `stuck`: nodes on which no process parks any more.
    `unsound`: processes that compute wrong results and do not notice. `refused`: hellos refused, by reason. `keeps_copies`:
    names of jobs whose state is copied to the memory of other nodes after every step. `injected`: faults of a scenario that
    struck, by kind. `park_spread`: starting takes up to this share longer or shorter. `changes` grows with everything that
    the next tick may have to look at.
    """

    def __init__(
        self,
        nodes: Iterable[SimNode],
        policy: Policy | None = None,
        *,
        seed: int = 0,
        observers: Sequence[Observer] = (),
        timings: Timings | None = None,
        keep_lines: bool = True,
    ) -> None:
        self.kernel = Kernel(seed)
        self.machine = Machine(policy or Policy())
        self.timings = timings or Timings()
        self.observers = tuple(observers)
        self.trace = Trace(keep_lines=keep_lines)
        self.journal = SimJournal()
        self.wall_offset_ns = 0
        self.nodes = {node.name: node for node in nodes}
        self.broken: dict[str, str] = {}
        self.jammed: set[str] = set()
        self.stuck: set[str] = set()
        self.unsound: set[Process] = set()
        self.keeps_copies: set[str] = set()
        self.refused: dict[str, int] = {}
        self.injected: dict[str, int] = {}
        self.park_spread = 0.0
        self.turns = 0
        self.changes = 0
        self.gangs = Gangs(self)
        self.stores = Stores(self)
        self.network = Network(self)
        self.agents = Agents(self)
        self.effects = Effects(self)
        self.relays = Relays(self)
        self.cell = CellAgent(self)
        self.control = Control(self)
        self.control.begin()
        self.agents.hello_all(self.nodes.values())
        self.cell.hello()

    # -- what there is ----------------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """The world's time, Unix ns."""
        return self.kernel.now_ns

    @property
    def leader(self) -> Controller:
        """The newest controller.

        Raises:
            RuntimeError: nobody leads now.
        """
        if self.control.leader is None:
            raise RuntimeError("nobody leads now: begin a controller, or ask `control.leader`")
        return self.control.leader

    @property
    def engine(self) -> Engine:
        """The leader's engine."""
        return self.leader.engine

    @property
    def soft(self) -> SimSoft:
        """The leader's soft state."""
        return self.leader.soft

    def state(self) -> State:
        """The leader's published state."""
        return self.leader.state

    @property
    def lines(self) -> list[str]:
        """The readable trace."""
        return self.trace.lines

    def job(self, name: str) -> Job:
        """A job by name or uid."""
        state = self.state()
        return state.jobs.get(name) or state.jobs[state.names[name]]

    def name_of(self, uid: str) -> str:
        """Name of a job, as its newest gang or the leader knows it."""
        gang = self.gangs.newest.get(uid)
        if gang is not None:
            return gang.name
        job = self.control.leader.state.jobs.get(uid) if self.control.leader else None
        return job.name if job else uid

    def process(self, job: str, rank: int) -> tuple[SimNode, Process | None]:
        """Where a rank is placed, and the process that holds it there."""
        found = self.job(job)
        node = self.nodes[self.state().fleet.name(int(found.rank_node[rank]))]
        return node, node.processes.get((found.uid, int(found.rank_host[rank])))

    def park_s(self) -> float:
        """How long the next processes take to park."""
        if not self.park_spread:
            return self.timings.park_s
        draw = 2 * self.kernel.stream("world/park").random() - 1
        return self.timings.park_s * (1 + self.park_spread * draw)

    # -- time -------------------------------------------------------------------------------------------------------

    def run(self, duration_s: float, tick_s: float = 0.1) -> None:
        """Let virtual time pass, with a tick every `tick_s`."""
        end_ns = self.now_ns + seconds(duration_s)
        while self.now_ns < end_ns:
            self.kernel.run_until(self.now_ns + seconds(tick_s))
            self.tick()

    def run_until(self, condition: Callable[[], bool], limit_s: float = 120.0, tick_s: float = 0.1) -> None:
        """Let time pass until a condition holds.

        Raises:
            AssertionError: it does not hold after `limit_s`; with the newest records.
        """
        end_ns = self.now_ns + seconds(limit_s)
        while not condition():
            if self.now_ns >= end_ns:
                raise AssertionError("not reached in virtual time:\n" + "\n".join(self.lines[-40:]))
            self.run(tick_s, tick_s)

    def tick(self) -> None:
        """Every controller that lives notices that time has passed."""
        for controller in (self.control.leader, *self.control.stale):
            if controller is not None:
                controller.tick()

    def turn(self, *events: ev.Event) -> list[Answer | Refusal | None]:
        """The leader decides about events now, and answers."""
        return self.leader.turn(*events)

    def submit(self, spec: JobSpec, request_id: str = "") -> Answer | Refusal | None:
        """An operator submits a job."""
        return self.turn(ev.SubmitJob(request_id or f"submit-{spec.name}", spec))[0]

    # -- what its parts tell each other -----------------------------------------------------------------------------

    def soft_changed(self) -> None:
        """Something that only a tick notices has changed."""
        self.changes += 1

    def committed(self, turn: Turn) -> None:
        """A turn has been published."""
        self.turns += 1
        self.changes += 1
        if turn.leads:
            self.control.committed(turn.after)
        self.trace.add(turn.result.entries, turn.result.records)
        for observer in self.observers:
            observer.on_turn(turn, self)

    def began(self, controller: Controller) -> None:
        """A controller has read the journal and leads."""
        self.changes += 1
        found = controller.journal.read(self.trace.revision, 1_000_000)
        self.trace.digest_only(found)
        for observer in self.observers:
            observer.on_restart(controller.state, found, self)

    def submitted(self, effects: Sequence[Effect]) -> None:
        """Effects leave a controller."""
        for observer in self.observers:
            observer.on_submit(effects, self)

    def count_refusal(self, answer: Answer | Refusal | None) -> None:
        """Somebody was refused."""
        if isinstance(answer, Refusal):
            self.refused[answer.reason] = self.refused.get(answer.reason, 0) + 1

    def struck(self, kind: str, target: str) -> None:
        """A fault of the catalogue has struck."""
        for observer in self.observers:
            observer.on_fault(kind, target, self)

    def order(self, spec: JobSpec) -> None:
        """An operator submits a job, again and again until somebody has stored it."""

        def answered(answer: Answer | Refusal | None) -> None:
            if isinstance(answer, Refusal) and answer.code == "unavailable":
                self.kernel.after(5.0, lambda: self.order(spec))
            else:
                self.count_refusal(answer)

        if self.control.leader is None:
            self.kernel.after(5.0, lambda: self.order(spec))
            return
        self.control.leader.tell(ev.SubmitJob(f"submit-{spec.name}", spec), answered)

    def performed(self, effect: Effect, node: SimNode, epoch: int) -> None:
        """An agent has carried out an effect of a controller of that epoch."""
        for observer in self.observers:
            observer.on_carried_out(effect, node, epoch, self)

    def has_read(self, gang: Gang) -> None:
        """The ranks of a gang have read their restore point, and found it whole."""
        for observer in self.observers:
            observer.on_read(gang, self)

    # -- machines ---------------------------------------------------------------------------------------------------

    def destroy(self, name: str, *, half_open: bool = False) -> None:
        """A machine loses power. `half_open`: nobody resets its connections."""
        node = self.nodes[name]
        lost = [process for process in node.processes.values() if process.generation and process.exit is None]
        node.up = node.agent = node.raylet = False
        node.processes.clear()
        for process in lost:
            process.exit, process.since_ns = Exit(observed=False, group_empty=True), self.now_ns
            self.gangs.ended(process)
            self.gangs.peers_pause(process)
        node.untold.clear()
        self.agents.end_session(node, "stream reset", seen=not half_open)
        self.kernel.after(self.timings.raylet_notice_s, self.cell.report_nodes)

    def repair(self, name: str) -> None:
        """The machine is back, empty."""
        node = self.nodes[name]
        node.up = node.agent = node.raylet = True
        node.link.up = node.link.down = True
        node.boot += 1
        node.slow, node.deaf = 1.0, False
        node.faults.clear()
        self.agents.hello(node)
        self.cell.report_nodes()

    def lose_agent(self, name: str) -> None:
        """The agent's process dies; its ranks go on."""
        node = self.nodes[name]
        node.agent = False
        node.link.up = node.link.down = True
        self.agents.end_session(node, "stream reset")
        self.gangs.sight_changed()

    def return_agent(self, name: str) -> None:
        """A new agent finds what runs."""
        node = self.nodes[name]
        node.agent, node.deaf = True, False
        node.boot += 1
        self.agents.hello(node)
        self.gangs.sight_changed()

    def freeze(self, name: str) -> None:
        """Nothing of the node gets through any more, its stream stays open; its ranks go on."""
        self.cut(name, up=True, down=True)

    def cut(self, name: str, *, up: bool = False, down: bool = False) -> None:
        """A path is cut: `up`, from the node to the controller; `down`, from the controller to the node."""
        node = self.nodes[name]
        node.link.up &= not up
        node.link.down &= not down
        if up:
            self.agents.silence(node)

    def thaw(self, name: str) -> None:
        """The path is whole again: beats arrive and what changed meanwhile is told."""
        node = self.nodes[name]
        node.link.up = node.link.down = True
        self.agents.heard_again(node)

    def isolate(self, nodes: Sequence[SimNode]) -> None:
        """Nothing gets to these machines or away from them: agent, raylet, and collectives with ranks elsewhere."""
        for node in nodes:
            self.freeze(node.name)
            node.raylet = False
        self.gangs.cut_apart(nodes)
        self.kernel.after(self.timings.raylet_notice_s, self.cell.report_nodes)

    def reconnect(self, nodes: Sequence[SimNode]) -> None:
        """They are back, with everything that still runs there."""
        for node in nodes:
            if node.up:
                node.raylet = True
                self.thaw(node.name)
        self.agents.links_whole({node.name for node in nodes})
        self.cell.report_nodes()

    def join(self, nodes: Sequence[SimNode]) -> None:
        """New machines: their agents dial, their raylets join."""
        for node in nodes:
            self.nodes[node.name] = node
        self.agents.hello_all(nodes)
        self.cell.report_nodes()

    def set_raylet(self, name: str, *, up: bool) -> None:
        """The node's raylet leaves the cell, or joins it."""
        self.nodes[name].raylet = up
        self.cell.report_nodes()

    def set_fault(self, name: str, index: int, code: str) -> None:
        """An accelerator reports a fault, or none ("")."""
        self.agents.set_fault(self.nodes[name], index, code)

    # -- processes --------------------------------------------------------------------------------------------------

    def end(self, job: str, rank: int, exit_: Exit) -> bool:
        """The process of a rank ends. False: it has none that lives."""
        found = self.job(job)
        if not found.placed or found.rank_host[rank] < 0:
            return False
        _, process = self.process(job, rank)
        if process is None or process.exit is not None:
            return False
        self.agents.exit(process, exit_)
        return True

    def kill_rank(self, job: str, rank: int, *, lingers: bool = False) -> bool:
        """SIGKILL; `lingers`: what it has started lives on for a moment."""
        return self.end(job, rank, Exit(observed=True, signal=9, group_empty=not lingers))

    def finish(self, job: str, ranks: Sequence[int] | None = None) -> None:
        """Ranks end with the final marker; None: all of them."""
        uid = self.job(job).uid
        for rank in range(self.job(job).spec.ranks) if ranks is None else ranks:
            self.end(uid, rank, Exit(observed=True, final_marker=True, group_empty=True, result={"ok": "1"}))

    def hang_process(self, process: Process) -> None:
        """A process does nothing any more and gives no sign of it."""
        process.obeys = False
        self.gangs.ended(process)

    # -- controllers ------------------------------------------------------------------------------------------------

    def restart_controller(self, stall_s: float = 0.5) -> None:
        """SIGKILL and, after a while, a new one; it ticks before the agents say hello again."""
        self.control.kill()
        self.kernel.run_until(self.now_ns + seconds(stall_s))
        self.control.begin()
        self.control.dial_all(self.timings.reconnect_s)

    def stall_controller(self, stall_s: float) -> None:
        """The brain sleeps; agents beat and wait. What they say meanwhile is read when it wakes."""
        self.control.stall(stall_s)
        self.kernel.run_until(self.now_ns + seconds(stall_s))
