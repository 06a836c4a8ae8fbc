"""Ticks where something is due decide what ticks ten times a second decide: the same records at the same times.

`PHALANX_PROPERTY_EXAMPLES` sets the number of histories (default: what CI can afford); with it, they are random.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from controlplane.core.due import due_ns
from controlplane.core.units import seconds
from tests.support.happenings import CALM_S, EXAMPLES, NODES, POLICY, TIMEOUTS, Act, act, acts, first_difference
from tests.support.world import World, spec

GRID_S = 0.1


class DueWorld(World):
    """Ticks on the same grid, but only where something has happened, the last tick included, or is due."""

    def __init__(self) -> None:
        self.ticks = 0
        super().__init__(NODES, accelerators=2, racks=2, policy=POLICY)

    def run(self, duration_s: float, tick_s: float = GRID_S) -> None:
        """Let time pass; whoever calls has done something before."""
        end_ns = self.now_ns + seconds(duration_s)
        happened, due = True, None
        while self.now_ns < end_ns:
            to_ns = self.now_ns + seconds(tick_s)
            planned = self.kernel.next_ns
            happened |= planned is not None and planned <= to_ns
            self.kernel.run_until(to_ns)
            if happened or (due is not None and due <= self.now_ns):
                before = self.state()
                self.tick()
                self.ticks += 1
                happened = self.state() is not before
                stepping = self.gangs.stepping()
                due = due_ns(self.state(), self.soft, self.leader.clock_ns(), POLICY, stepping=stepping)


@settings(
    max_examples=EXAMPLES or 5,
    deadline=None,
    database=None,
    derandomize=not EXAMPLES,
    phases=(Phase.generate, Phase.shrink) if EXAMPLES else (Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(st.integers(1, 5), st.lists(acts, min_size=6, max_size=14))
def test_due_ticks_decide_what_dense_ticks_decide(ranks: int, history: list[Act]) -> None:
    dense, due = World(NODES, accelerators=2, racks=2, policy=POLICY), DueWorld()
    for what, pick, other, then_s in [("submit", ranks - 1, 0, 4.0), *history, ("wait", 0, 0, CALM_S)]:
        for world in (dense, due):
            act(world, what, pick, other)
            world.run(then_s)
        assert due.lines == dense.lines, first_difference(dense.lines, due.lines)
    assert due.state().digest() == dense.state().digest()


def test_a_quiet_site_needs_no_ticks() -> None:
    world = DueWorld()
    world.submit(spec("moe", 4, timeouts=TIMEOUTS))
    world.run(10.0)
    before = world.ticks
    world.run(3_600.0)
    assert world.ticks - before <= 9
    due = due_ns(world.state(), world.soft, world.now_ns, POLICY, stepping=world.gangs.stepping())
    assert due is None or due > world.now_ns + seconds(60.0)
