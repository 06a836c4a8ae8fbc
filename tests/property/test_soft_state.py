"""Closed forms and production columns see the same: one world asks how long its nodes must have been silent, the other is told
every beat and every step, and both decide the same over random histories.

The second one's controllers read `engine.soft.SoftColumns` behind the production gate, written as the edge writes them.
`PHALANX_PROPERTY_EXAMPLES` sets the number of histories (default: what CI can afford); with it, they are random.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from controlplane.core import records as r
from controlplane.core.health.distrust import Vitals
from controlplane.engine.soft import SoftColumns, StepColumns
from controlplane.rpc.progress import ProgressGate
from controlplane.sim.soft import SimSoft
from controlplane.sim.world.gangs import STEPPED
from tests.support.happenings import CALM_S, EXAMPLES, NODES, POLICY, Act, act, acts, first_difference
from tests.support.world import World

if TYPE_CHECKING:
    from controlplane.sim.world.controller import Controller


class ToldSoft(SimSoft):
    """The closed form's place, filled from columns: whoever talks beats, and tells of its ranks' newest steps, before every
    look. What agents hold (`copies`) and where ranks stand (`stacks`) is asked for in both worlds the same way, and how long steps
    took lately is a matter of how often one looks."""

    def __init__(self, world: World, controller: Controller) -> None:
        super().__init__(world, controller.clock_ns, controller.state.fleet)
        self.site, self.controller = world, controller
        self.columns = SoftColumns(controller.clock_ns())
        self.gate = ProgressGate(self.columns)

    def pulse(self) -> None:
        """Beats and steps of all agents whose sessions are with this controller."""
        now_ns = self.controller.clock_ns()
        for node in self.site.nodes.values():
            number = self.fleet.number(node.name)
            if number is not None and node.talks and node.controller is self.controller:
                self.gate.beat(number, now_ns)
                self.tell_steps(node.name, number)

    def tell_steps(self, name: str, number: int) -> None:
        """What the ranks on a node have done so far."""
        for gang in self.site.gangs.newest.values():
            step, at_ns = gang.at(self.site.now_ns)
            for rank, process in gang.members.items():
                if process.node == name and gang.stage == STEPPED:
                    row = (rank, number, step, at_ns, 0.0, gang.step_ns / 1e9)
                    columns = StepColumns(*(np.array([value]) for value in row))
                    self.gate.steps(lambda: self.controller.state, gang.job, gang.generation, columns)

    def silence(self, node: str) -> None:
        """The node's beats up to this moment have arrived."""
        number = self.fleet.number(node)
        if number is not None and node not in self._silent_since:
            self.gate.beat(number, self.controller.clock_ns())
            self.tell_steps(node, number)
        super().silence(node)

    def committed(self, records: Iterable[r.Record]) -> None:
        self.gate.committed(list(records))

    def stalled(self, late_ns: int) -> None:
        self.columns.stalled(late_ns, self.controller.clock_ns())

    def appended(self, took_ns: int) -> None:
        self.columns.appended(took_ns, self.controller.clock_ns())

    def waiting(self, events: int, limit: int) -> None:
        self.columns.waiting(events, limit)

    def last_beat_ns(self, size: int) -> np.ndarray:
        self.pulse()
        return self.columns.last_beat_ns(size)

    def trusted_since_ns(self) -> int:
        return self.columns.trusted_since_ns()

    def excused_ns(self, since_ns: np.ndarray) -> np.ndarray:
        return self.columns.excused_ns(since_ns)

    def vitals(self) -> Vitals:
        return self.columns.vitals()

    def step_time_ns(self, job_uid: str) -> int:
        self.pulse()
        return self.columns.step_time_ns(job_uid)

    def progress(self, job_uid: str) -> tuple[int, int]:
        self.pulse()
        return self.columns.progress(job_uid)

    def node_progress_ns(self, job_uid: str, node: int) -> int:
        self.pulse()
        return self.columns.node_progress_ns(job_uid, node)


class ToldWorld(World):
    """Controllers of this world read columns."""

    def began(self, controller: Controller) -> None:
        """The process makes its columns before it listens."""
        controller.soft = controller.engine.soft = ToldSoft(self, controller)
        super().began(controller)


@settings(
    max_examples=EXAMPLES or 4,
    deadline=None,
    database=None,
    derandomize=not EXAMPLES,
    phases=(Phase.generate, Phase.shrink) if EXAMPLES else (Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(st.integers(1, 5), st.lists(acts, min_size=6, max_size=14))
def test_columns_and_closed_forms_give_the_same_records(ranks: int, history: list[Act]) -> None:
    closed, told = (kind(NODES, accelerators=2, racks=2, policy=POLICY) for kind in (World, ToldWorld))
    for what, pick, other, then_s in [("submit", ranks - 1, 0, 4.0), *history, ("wait", 0, 0, CALM_S)]:
        for world in (closed, told):
            act(world, what, pick, other)
            world.run(then_s)
        assert told.lines == closed.lines, first_difference(closed.lines, told.lines)
    assert told.state().digest() == closed.state().digest()
