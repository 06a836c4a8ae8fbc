"""Node agents: sessions, reports of what changed, and effects carried out. Each says only what its own machine shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from controlplane.core import events as ev
from controlplane.core.draft import Answer, Refusal
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.health import canaries
from controlplane.core.jobs import Exit, split_host_id
from controlplane.core.state import State
from controlplane.core.vocabulary import Assertion, PairWord, RankState
from controlplane.sim.world.checks import check_pair, run_checks
from controlplane.sim.world.nodes import Process, SimNode
from controlplane.sim.world.stacks import stacks_of

if TYPE_CHECKING:
    from controlplane.sim.world.controller import Controller, Reply
    from controlplane.sim.world.site import World

OLDER_VERSION = "0.0.9"
UNKNOWN_TO_OLDER = (
    EffectKind.VERIFY_CHECKPOINT, EffectKind.SWEEP_FOLDERS, EffectKind.GATHER_STACKS, EffectKind.SAVE_NOW,
)  # fmt: skip
"""What an agent of an earlier version cannot do, and says so."""

HELLO_S = 10.0
"""An agent waits so long for the answer to its hello."""

Told = Callable[[SimNode, ev.NodeReport], None]
"""A report of a node is durable."""


class Agents:
    """All node agents of the site."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._held: list[tuple[SimNode, ev.NodeReport]] | None = None

    # -- sessions ---------------------------------------------------------------------------------------------------

    def hello(self, node: SimNode) -> None:
        """The agent dials and tells its whole truth. Without a controller, or a path, it tries again later."""
        self.hello_all([node])

    def hello_all(self, nodes: Iterable[SimNode]) -> None:
        """Agents dial at the same instant; those whose messages pass at once are heard in one turn."""
        controller = self.world.control.leader
        if controller is None:
            return  # whoever leads next has all agents dial
        together: list[tuple[ev.Event, Reply | None]] = []
        for node in nodes:
            open_way = node.link.up and node.link.down and self.world.relays.carries(node)
            if not (node.up and node.agent and open_way):
                continue
            told = self._dial(node, controller)
            if node.link.calm:
                together.append(told)
            else:
                self.world.network.up(node, partial(controller.tell, *told))
                self.world.kernel.after(HELLO_S, partial(self._redial_lost, node, node.dials))
        if together:
            controller.tell_all(together)

    def _dial(self, node: SimNode, controller: Controller) -> tuple[ev.NodeHello, Reply]:
        node.controller = None
        node.dials += 1
        dial = node.dials
        shift_ns = controller.clock_ns() - self.world.now_ns
        rows = tuple(process.row(shift_ns) for process in node.processes.values())
        controller.soft.heard(node.name)

        def greeted(answer: Answer | Refusal | None) -> None:
            if node.dials == dial and node.up and node.agent:
                self._greeted(node, controller, answer)

        event = ev.NodeHello(
            node.name, node.boot_id, node.labels, "127.0.0.1", node.version, rows, node.devices(),
            tuple(node.events.values()), node.unreadable,
        )  # fmt: skip
        return event, greeted

    def _redial_lost(self, node: SimNode, dial: int) -> None:
        """A hello that nobody answered, or that was turned away, is said again; once, however often the answer came."""
        if node.dials == dial:
            self._redial(node)

    def _greeted(self, node: SimNode, controller: Controller, answer: Answer | Refusal | None) -> None:
        world = self.world
        if isinstance(answer, Answer) and controller.alive and controller.state.epoch >= node.epoch:
            node.controller, node.epoch = controller, controller.state.epoch
            world.soft_changed()
            world.effects.resend(controller, f"node:{node.name}")
            self._tell_shards([node])
            self._retell_links([node])
        elif isinstance(answer, Refusal) and answer.code == "unavailable":
            world.kernel.after(world.timings.retry_s, partial(self._redial_lost, node, node.dials))
        elif isinstance(answer, Refusal):
            world.count_refusal(answer)

    def _redial(self, node: SimNode) -> None:
        if not node.session:
            self.hello(node)

    def reset(self, node: SimNode, reason: str) -> None:
        """The stream ends under a living agent: it dials again."""
        if node.controller is None:
            return
        self.end_session(node, reason)
        self.world.kernel.after(self.world.timings.redial_s, lambda: self._redial(node))

    def end_session(self, node: SimNode, reason: str, *, seen: bool = True) -> None:
        """The agent's stream is no more. `seen`: the controller's side notices (no half-open connection)."""
        controller, node.controller = node.controller, None
        for leader in {id(c): c for c in (controller, self.world.control.leader) if c is not None}.values():
            leader.soft.silence(node.name)
        if controller is not None and seen:
            self._tell_lost(controller, node, node.boot_id, reason)
        self.world.soft_changed()

    def _tell_lost(self, controller: Controller, node: SimNode, boot_id: str, reason: str) -> None:
        """The edge says it until it is durable, unless the agent is back."""

        def answered(answer: Answer | Refusal | None) -> None:
            if isinstance(answer, Refusal) and answer.code == "unavailable":
                self.world.kernel.after(
                    self.world.timings.reconnect_s,
                    lambda: None if node.session else self._tell_lost(controller, node, boot_id, reason),
                )

        controller.tell(ev.NodeSessionLost(node.name, boot_id, reason), answered)

    def silence(self, node: SimNode) -> None:
        """No beat of the node gets through any more, and nobody has ended its stream."""
        if node.controller is not None:
            node.controller.soft.silence(node.name)
        self.unheard(node)
        self.world.gangs.sight_changed()
        self.world.soft_changed()

    def unheard(self, node: SimNode) -> None:
        """The way of a node has ended while it dialled: nothing of it arrives, and no answer to its hello either."""
        if node.controller is not None:
            return
        node.dials += 1
        if self.world.control.leader is not None:
            self.world.control.leader.soft.silence(node.name)

    def heard_again(self, node: SimNode) -> None:
        """The path is whole: beats arrive and what changed meanwhile is told; without a session the agent dials."""
        if node.controller is not None and node.controller.alive:
            node.controller.soft.heard(node.name)
            self.world.gangs.sight_changed()
            self.world.soft_changed()
            self.snapshot(node)
            self._retell_links([node])
        else:
            self.hello(node)

    # -- reports ----------------------------------------------------------------------------------------------------

    def report(self, processes: Iterable[Process], *, full: bool = False) -> None:
        """Rows that changed at the same instant, of any number of nodes: one report each, decided in one turn."""
        by_node: dict[str, list[Process]] = {}
        for process in processes:
            by_node.setdefault(process.node, []).append(process)
        reports = []
        for name, rows in by_node.items():
            node = self.world.nodes[name]
            if node.talks and node.controller is not None:
                shift_ns = node.controller.clock_ns() - self.world.now_ns
                reports.append(
                    (
                        node,
                        ev.NodeReport(
                            name, node.boot_id, full=full, hosts=tuple(process.row(shift_ns) for process in rows)
                        ),
                    )
                )
        self.tell(reports)

    def report_devices(self, node: SimNode) -> None:
        """What the probe reads now, faults of other parts, and sources that cannot be read."""
        if node.talks:
            ended = tuple(node.recovered)
            node.recovered.clear()
            report = ev.NodeReport(
                node.name, node.boot_id, accelerators=node.devices(), faults=(*ended, *node.events.values()),
                unreadable=node.unreadable,
            )  # fmt: skip
            self.tell([(node, report)])

    def snapshot(self, node: SimNode) -> None:
        """A full report within a session."""
        if node.talks and node.controller is not None:
            shift_ns = node.controller.clock_ns() - self.world.now_ns
            rows = tuple(process.row(shift_ns) for process in node.processes.values())
            self.tell([(node, ev.NodeReport(node.name, node.boot_id, True, rows, node.devices()))])

    def links_broke(self, names: Iterable[str], lost: Set[str]) -> None:
        """Nodes whose ranks worked with ranks on the `lost` ones say that they cannot reach them."""
        self._tell_links({name: self.world.nodes[name].cut_off | lost for name in names})

    def links_whole(self, found: Set[str]) -> None:
        """Those nodes can be reached again."""
        self._tell_links({n.name: n.cut_off - found for n in self.world.nodes.values() if n.cut_off & found})

    def _tell_links(self, broken: Mapping[str, Set[str]]) -> None:
        for name, lost in broken.items():
            self.world.nodes[name].cut_off = frozenset(lost)
        self._retell_links([self.world.nodes[name] for name in broken])

    def _retell_links(self, nodes: Iterable[SimNode]) -> None:
        """What a node cannot reach, where it is not what was acknowledged last."""
        reports = [
            (node, ev.NodeReport(node.name, node.boot_id, broken_links=tuple(sorted(node.cut_off))))
            for node in nodes
            if node.cut_off != node.cut_off_told
        ]
        if reports:
            self.tell(reports, acknowledged)

    def shards(self, rows: Sequence[tuple[SimNode, ev.ShardRow]]) -> None:
        """Shards are on storage; each is told until it is acknowledged."""
        for node, row in rows:
            node.untold.append(row)
        self._tell_shards({node.name: node for node, _ in rows}.values())

    def _tell_shards(self, nodes: Iterable[SimNode]) -> None:
        reports = [
            (node, ev.NodeReport(node.name, node.boot_id, shards=tuple(node.untold)))
            for node in nodes
            if node.untold and node.talks
        ]
        self.tell(reports, acknowledged)

    def tell(self, reports: Sequence[tuple[SimNode, ev.NodeReport]], told: Told | None = None) -> None:
        """Reports that leave at the same instant. A refusal ends the stream and the agent dials again, as the edge does it."""
        reports = [(node, report) for node, report in reports if node.talks]
        if self._held is not None:
            self._held.extend(reports)
            return
        batches: dict[int, list[tuple[SimNode, ev.NodeReport]]] = {}
        for node, report in reports:
            if node.link.calm:
                batches.setdefault(id(node.controller), []).append((node, report))
            else:
                self.world.network.up(node, self._delivery([(node, report)], told))
        for batch in batches.values():
            self._delivery(batch, told)()

    def _delivery(self, batch: Sequence[tuple[SimNode, ev.NodeReport]], told: Told | None) -> Callable[[], None]:
        """What happens when reports arrive, if their sessions are still the ones in which they were sent."""
        controller = batch[0][0].controller
        sent = [(node, node.dials, report) for node, report in batch]

        def deliver() -> None:
            current = [(node, report) for node, dial, report in sent if node.dials == dial and node.session]
            if controller is None:
                return
            rows, columns = self.world.relays.fold(current, controller.state.fleet)
            events: list[tuple[ev.Event, Reply | None]] = [(event, self.world.count_refusal) for event in columns]
            controller.tell_all([*events, *((report, self._reply(node, report, told)) for node, report in rows)])

        return deliver

    def _reply(self, node: SimNode, report: ev.NodeReport, told: Told | None) -> Reply:
        dial = node.dials

        def answered(answer: Answer | Refusal | None) -> None:
            if told is not None and isinstance(answer, Answer):
                told(node, report)
            if isinstance(answer, Refusal) and node.session and node.dials == dial:
                node.controller = None
                delay_s = 0.0 if answer.code == "unavailable" else self.world.timings.redial_s
                self.world.kernel.after(delay_s, lambda: self._redial(node))

        return answered

    def together(self, act: Callable[[], object]) -> None:
        """What agents report while `act` runs arrives as one batch, in one turn."""
        self._held = []
        act()
        reports, self._held = self._held, None
        if reports:
            self.tell(reports)

    # -- effects ----------------------------------------------------------------------------------------------------

    def perform(self, node: SimNode, controller: Controller, effect: Effect, state: State) -> None:
        """Carry out an effect as it was filled in from `state`, and answer it. Those of lower epochs are refused."""
        if not node.up or not node.agent or node.controller is not controller:
            return
        world = self.world
        if state.epoch < node.epoch:
            world.effects.done(
                controller, effect, ok=False, text=f"epoch {state.epoch} is lower than {node.epoch}", node=node.name
            )
            return
        if node.version == OLDER_VERSION and effect.kind in UNKNOWN_TO_OLDER:
            text = f"this agent ({node.version}) knows no {effect.kind}"
            world.network.up(node, lambda: world.effects.done(controller, effect, ok=False, text=text, node=node.name))
            return
        if node.deaf:
            return
        ok, text, pair = True, "", PairWord.UNSPECIFIED
        match effect.kind:
            case EffectKind.APPLY_GENERATION:
                world.gangs.assign(node, effect, state)
            case EffectKind.FENCE_HOSTS:
                self._fence(node, effect)
            case EffectKind.FORGET_HOSTS:
                for item in effect.items:
                    key = split_host_id(item) or ("", 0)
                    if key in node.processes and not node.processes[key].occupies:
                        del node.processes[key]
            case EffectKind.INJECT_FAULT:
                index, code, _ = effect.items
                self.set_fault(node, int(index), code)
            case EffectKind.VERIFY_CHECKPOINT:
                world.stores.verify(node, effect)
            case EffectKind.SAVE_NOW:
                ok, text = world.stores.save_asked(effect)
            case EffectKind.SWEEP_FOLDERS:
                world.stores.sweep(effect.items)
            case EffectKind.RUN_CHECKS:
                ok, text = run_checks(world, node, effect)
            case EffectKind.CHECK_PAIR:
                pair, text = check_pair(world, node, effect)
                ok = pair is PairWord.PASSED
            case EffectKind.RAISE_CANARY:
                row = ev.FaultRow(
                    "node", canaries.CODE, canaries.VENDOR, assertion=Assertion.ONCE, sequence=int(effect.items[0]),
                    raised_ns=world.now_ns,
                )  # fmt: skip
                node.recovered.append(row)  # it leaves nothing standing
                self.report_devices(node)
            case EffectKind.GATHER_STACKS:
                found = stacks_of(world, node, effect)
                world.network.up(node, lambda: world.effects.stand(controller, effect, node.name, found))
            case EffectKind.STOP_HOSTS | EffectKind.START_HOSTS:
                ok, text = False, f"{effect.kind} is for a cell"
        world.performed(effect, node, state.epoch)
        world.network.up(
            node, lambda: world.effects.done(controller, effect, ok=ok, text=text, node=node.name, pair=pair)
        )

    def _fence(self, node: SimNode, effect: Effect) -> None:
        """End processes and everything of their groups, and say that they are gone; unknown ones are gone too."""
        ended = []
        for item in effect.items:
            uid, serial = split_host_id(item) or ("", 0)
            process = node.processes.get((uid, serial))
            if process is None:
                process = Process(uid, serial, node.name, exit=Exit(observed=False, sender="agent", group_empty=True))
                node.processes[(uid, serial)] = process
            elif process.exit is None:
                process.exit = Exit(observed=True, signal=9, sender="agent", group_empty=True)
                self.world.gangs.ended(process)
            process.state, process.since_ns = RankState.EXITED, self.world.now_ns
            if process.exit is not None:
                process.exit = replace(process.exit, group_empty=True)
            ended.append(process)
        self.report(ended)

    # -- what happens to machines -----------------------------------------------------------------------------------

    def set_fault(self, node: SimNode, index: int, code: str) -> None:
        """An accelerator reports a fault, or none ("")."""
        node.faults.pop(index, None)
        if code:
            node.faults[index] = code
        self.report_devices(node)

    def raise_fault(self, node: SimNode, row: ev.FaultRow) -> None:
        """A part other than the devices' own probe reports a fault, its end, or that something happened once."""
        known = node.events.pop(row.entity, None)
        if row.assertion is Assertion.OCCURRED:
            node.events[row.entity] = row
        elif row.assertion is Assertion.ONCE or known is not None:
            node.recovered.append(row)
        self.report_devices(node)

    def exit(self, process: Process, exit_: Exit) -> None:
        """A process ends; what lingers of its group goes a little later."""
        world = self.world
        process.state, process.exit, process.since_ns = RankState.EXITED, exit_, world.now_ns
        world.gangs.ended(process)
        self.report([process])
        if process.generation and not exit_.final_marker:
            world.gangs.peers_pause(process)
        if not exit_.group_empty:
            world.kernel.after(world.timings.linger_s, lambda: self._emptied(process))

    def exit_all(self, processes: Sequence[Process], exit_: Exit) -> None:
        """Processes end at the same instant, and their agents say so together."""

        def act() -> None:
            for process in processes:
                self.exit(process, exit_)

        self.together(act)

    def _emptied(self, process: Process) -> None:
        node = self.world.nodes[process.node]
        if node.processes.get((process.job, process.serial)) is not process:
            return
        if process.exit is not None and not process.exit.group_empty:
            process.exit = replace(process.exit, group_empty=True)
            self.report([process])


def acknowledged(node: SimNode, report: ev.NodeReport) -> None:
    """What was told of shards and links need not be told again."""
    if report.broken_links is not None:
        node.cut_off_told = frozenset(report.broken_links)
    node.untold = [row for row in node.untold if row not in report.shards]
