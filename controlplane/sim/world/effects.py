"""The controller's edge towards agents: sends effects over open sessions, fills them in from the state, sends them again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from controlplane.core import events as ev
from controlplane.core.draft import Answer, Refusal
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.health.standstill import Stacks
from controlplane.core.vocabulary import PairWord

if TYPE_CHECKING:
    from controlplane.sim.world.controller import Controller
    from controlplane.sim.world.site import World


class Effects:
    """Carries effects of every controller to node agents and to the cell agent, and their outcomes back."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent: list[Effect] = []

    def submit(self, controller: Controller, effects: Sequence[Effect], later_s: float) -> None:
        """Effects of a durable turn leave; a slow disk holds them back for as long as it takes."""
        self.sent.extend(effects)
        self.world.submitted(effects)
        for effect in effects:
            self.world.kernel.after(self.world.timings.effect_s + later_s, partial(self._send, controller, effect))

    def resend(self, controller: Controller, target: str) -> None:
        """A session was opened: everything that is outstanding for it goes out again."""
        kind, _, name = target.partition(":")
        for effect in list(controller.state.effects.values()):
            if effect.target == target:
                self._send(controller, effect)
            elif effect.group and kind == "node":
                self._send_to(controller, effect, name)

    def _send(self, controller: Controller, effect: Effect) -> None:
        """Write an effect to its session, or to those of all nodes of its job, if it is still wanted."""
        if not controller.alive or effect.id not in controller.state.effects:
            return
        if effect.kind in (EffectKind.START_HOSTS, EffectKind.STOP_HOSTS):
            self.world.cell.perform(controller, effect)
        elif effect.group:
            job, fleet = controller.state.jobs.get(effect.job), controller.state.fleet
            for number in job.nodes() if job else ():
                self._send_to(controller, effect, fleet.name(number))
        else:
            self._send_to(controller, effect, effect.node)

    def _send_to(self, controller: Controller, effect: Effect, name: str) -> None:
        world = self.world
        node = world.nodes.get(name)
        if not controller.alive or effect.id not in controller.state.effects:
            return
        if node is None or not node.up or not node.agent or node.controller is not controller:
            return
        if not node.link.down:  # the stream is open and nothing gets through: it is written again, as TCP does
            world.kernel.after(world.timings.retry_s, lambda: self._send_to(controller, effect, name))
            return
        if self._superseded(controller, effect):
            self.done(controller, effect, ok=False, text="superseded", node=name)
            return
        state, boot = controller.state, node.boot
        world.network.down(
            node, lambda: world.agents.perform(node, controller, effect, state) if node.boot == boot else None
        )

    @staticmethod
    def _superseded(controller: Controller, effect: Effect) -> bool:
        if effect.kind is not EffectKind.APPLY_GENERATION:
            return False
        job = controller.state.jobs.get(effect.job)
        return job is None or job.terminal or job.generation != effect.generation

    def stand(self, controller: Controller, effect: Effect, node: str, stacks: Stacks) -> None:
        """A node has said where its ranks stand: soft state of the controller that asked."""
        if controller.alive:
            controller.soft.stand(effect.id, node, stacks)
            self.world.soft_changed()

    def done(
        self, controller: Controller, effect: Effect, *, ok: bool = True, text: str = "", node: str = "",
        pair: PairWord = PairWord.UNSPECIFIED,
    ) -> None:  # fmt: skip
        """An outcome is told until it is durable. Nodes say of a group effect only that they refuse it. `pair`: the word on a test
        with another node."""
        if effect.group and ok:
            return

        def answered(answer: Answer | Refusal | None) -> None:
            if isinstance(answer, Refusal) and answer.code == "unavailable":
                delay_s = self.world.timings.reconnect_s
                self.world.kernel.after(
                    delay_s, lambda: self.done(controller, effect, ok=ok, text=text, node=node, pair=pair)
                )

        controller.tell(ev.EffectDone(effect.id, ok, text, node if effect.group else "", pair), answered)
