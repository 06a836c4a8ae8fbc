"""S9: whatever falls ill, and whenever, working nodes are disturbed within the action budget only, per domain and for the site."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.catalogues import built_in
from controlplane.core import events as ev
from controlplane.core.draft import Policy, QuarantinePolicy
from controlplane.core.health.budget import ActionBudget, limit
from controlplane.core.spec import SparePolicy
from controlplane.core.units import ms
from controlplane.core.vocabulary import Assertion, JobState
from tests.support.world import World, spec

BUDGET = ActionBudget(share=0.05, window_ms=20_000)
POLICY = Policy(
    catalogue=built_in(), actions=BUDGET, quarantine=QuarantinePolicy(trial_ms=5_000, retry_ms=2_000, checks_ms=10_000)
)
NODES = 8

events = st.tuples(
    st.integers(0, NODES - 1),
    st.sampled_from(["node", "accelerator/0", "accelerator/1", "port/0"]),
    st.sampled_from(["BOARD-7", "SIM-LEAK", "SIM-DRIVER", "SIM-DEAD", "SIM-ECC", "SIM-HUNG", "SIM-MEMORY", "SIM-APP"]),
    st.sampled_from(list(Assertion)),
    st.sampled_from([0.0, 0.3, 2.0, 11.0]),
    st.sampled_from(["", "fail", "unknown", "drain", "uncordon"]),
)


@settings(max_examples=8, deadline=None)
@given(st.lists(events, min_size=5, max_size=25))
def test_the_action_budget_is_never_exceeded(story: list[tuple[int, str, str, Assertion, float, str]]) -> None:
    """Invariants are checked after every turn by the world itself; here S9 is, and that what is refused shows up."""
    world = World(NODES, 2, 4, POLICY)
    for number in range(4):
        world.submit(spec(f"job-{number}", 2, spares=SparePolicy()))
    world.run_until(lambda: all(world.job(f"job-{number}").state is JobState.RUNNING for number in range(4)))
    for number, entity, code, assertion, then_s, beside in story:
        node = world.nodes[f"node-{number:02d}"]
        node.incurable, node.knows_checks = beside == "fail", beside != "unknown"
        if beside == "drain":
            world.turn(ev.DrainNode("", node.name, "ann", "firmware"))
        elif beside == "uncordon":
            world.turn(ev.UncordonNode("", node.name, "ann"))
            world.turn(ev.UncordonNode("", node.name, "health"))
        world.agents.raise_fault(node, ev.FaultRow(entity, code, "simulated", assertion=assertion))
        world.run(then_s)
        within_budget(world)
    world.run(30, 1)
    within_budget(world)


def within_budget(world: World) -> None:
    """In no window more acts than the site, and each rack, allows."""
    state = world.state()
    fleet = state.fleet
    for last in state.acts:
        recent = {act.node for act in state.acts if last.at_ns - ms(BUDGET.window_ms) < act.at_ns <= last.at_ns}
        assert len(recent) <= limit(fleet, BUDGET)
        for rack in range(len(fleet.racks)):
            inside = fleet.rack == rack
            assert sum(bool(inside[node]) for node in recent) <= limit(fleet, BUDGET, inside)
