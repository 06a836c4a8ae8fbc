"""The Ray cluster and its agent: membership as raylets come and go, processes started where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from controlplane.core import events as ev
from controlplane.core.draft import Answer, Refusal
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.jobs import Exit, split_host_id
from controlplane.sim.world.nodes import Process

if TYPE_CHECKING:
    from controlplane.sim.world.controller import Controller
    from controlplane.sim.world.site import World


class CellAgent:
    """One cell of the site. `open`: its agent lives and wants a session; `incarnation` grows when Ray starts anew."""

    def __init__(self, world: World, name: str = "cell-0") -> None:
        self.world = world
        self.name = name
        self.boot = 1
        self.incarnation = 1
        self.open = True
        self.controller: Controller | None = None

    def hello(self) -> None:
        """The agent dials and tells the whole membership."""
        self.open = True
        controller = self.world.control.leader
        if controller is None:
            return
        self.controller = controller
        event = ev.CellHello(self.name, self._boot_id(), f"ray-{self.incarnation}", "127.0.0.1:1", self._members())

        def greeted(answer: Answer | Refusal | None) -> None:
            if isinstance(answer, Answer):
                self.world.effects.resend(controller, f"cell:{self.name}")
            elif isinstance(answer, Refusal) and answer.code == "unavailable":
                self.world.kernel.after(self.world.timings.reconnect_s, self.redial)

        controller.tell(event, greeted)

    def _boot_id(self) -> str:
        """Boots are compared as text, so that the tenth must sort after the ninth."""
        return f"{self.boot:04}"

    def redial(self) -> None:
        """Dial again, if the agent lives."""
        if self.open:
            self.hello()

    def collapse(self) -> None:
        """The cluster ends: its agent's stream, and every process that it had started."""
        self.lose()
        for node in self.world.nodes.values():
            if node.up:
                killed = Exit(observed=True, signal=9, sender="unknown", group_empty=True)
                self.world.agents.exit_all(node.live(), killed)

    def start_anew(self) -> None:
        """A new cluster, without any actor of the former one."""
        self.boot += 1
        self.incarnation += 1
        self.hello()

    def lose(self) -> None:
        """The agent's stream ends; ranks run on."""
        self.open = False
        controller, self.controller = self.controller, None
        if controller is not None:
            self._tell_lost(controller)

    def _tell_lost(self, controller: Controller) -> None:
        def answered(answer: Answer | Refusal | None) -> None:
            if isinstance(answer, Refusal) and answer.code == "unavailable":
                delay_s = self.world.timings.reconnect_s
                self.world.kernel.after(delay_s, lambda: None if self.open else self._tell_lost(controller))

        controller.tell(ev.CellSessionLost(self.name, self._boot_id(), "stream reset"), answered)

    def _members(self) -> tuple[tuple[str, bool], ...]:
        return tuple((node.name, node.up and node.raylet) for node in self.world.nodes.values())

    def report_nodes(self) -> None:
        """Membership has changed."""
        self._report(ev.CellReport(self.name, self._boot_id(), nodes=self._members()))

    def report_dead(self, actors: Sequence[str]) -> None:
        """Actors have died, as Ray sees it."""
        dead = tuple((name, "its node left") for name in actors)
        self._report(ev.CellReport(self.name, self._boot_id(), dead_actors=dead))

    def _report(self, event: ev.CellReport) -> None:
        if not self.open or self.controller is None:
            return

        def answered(answer: Answer | Refusal | None) -> None:
            if isinstance(answer, Refusal) and answer.code == "unavailable":
                self.world.kernel.after(self.world.timings.reconnect_s, lambda: self._report(event))

        self.controller.tell(event, answered)

    def perform(self, controller: Controller, effect: Effect) -> None:
        """Start processes on their nodes; those whose raylet is gone are dead actors a moment later."""
        if not self.open or self.controller is not controller:
            return
        state = controller.state
        job = state.jobs.get(effect.job)
        self.world.effects.done(controller, effect)
        if effect.kind is not EffectKind.START_HOSTS or job is None:
            return
        started: list[Process] = []
        dead: list[str] = []
        for item in effect.items:
            uid, serial = split_host_id(item) or ("", 0)
            row = job.hosts.row(serial)
            if row < 0:
                continue
            node = self.world.nodes[state.fleet.name(int(job.hosts.node[row]))]
            if (uid, serial) in node.processes:
                continue
            if not node.up or not node.raylet:
                dead.append(item)
                continue
            process = Process(uid, serial, node.name, since_ns=self.world.now_ns)
            node.processes[(uid, serial)] = process
            started.append(process)
        if started:
            self.world.gangs.started(started)
        if dead:
            self.world.kernel.after(self.world.timings.actor_notice_s, lambda: self.report_dead(dead))
