"""Never DEAD too early: what a node's own ranks prove outweighs an agent and a raylet that are gone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.core.health.suspicion import Ground, Sight, SuspicionPolicy, judge
from controlplane.core.vocabulary import NodeLiveness
from tests.support.world import World, spec

POLICY = SuspicionPolicy()
moments = st.lists(st.sampled_from([0.0, 0.2, 0.6, 0.9, 1.5, 4.0]), min_size=2, max_size=2)


@settings(max_examples=15, deadline=None)
@given(st.booleans(), st.booleans(), moments, st.sampled_from([0.3, 0.8, 1.2, 5.0, 12.0]))
def test_a_node_whose_ranks_make_steps_is_never_dead(
    last: bool, raylet_first: bool, gaps: list[float], lasts: float
) -> None:
    """Agent and raylet crash in either order and stay away for any time, while the ranks go on."""
    world = World(nodes=4, accelerators=2)
    world.submit(spec("moe", ranks=4))
    world.run_until(lambda: world.job("moe").state.name == "RUNNING")
    node = world.state().fleet.name(world.job("moe").nodes()[-1 if last else 0])
    crashes = [lambda: world.lose_agent(node), lambda: world.set_raylet(node, up=False)]
    for gap, crash in zip(gaps, reversed(crashes) if raylet_first else crashes, strict=True):
        world.run(gap)
        crash()
    before = world.soft.progress(world.job("moe").uid)[0]
    for _ in range(round(lasts / 0.1)):
        world.run(0.1)
        assert world.state().fleet.liveness[world.state().fleet.index[node]] != NodeLiveness.DEAD
    assert world.soft.progress(world.job("moe").uid)[0] > before
    assert world.job("moe").generation == 1


@settings(max_examples=15, deadline=None)
@given(st.booleans(), st.sampled_from([0.0, 0.1, 0.3, 1.0]))
def test_a_node_that_is_gone_is_dead_before_its_lease_is_over(last: bool, later: float) -> None:
    """Agent, raylet and ranks end together: peers, cell and stream say so, and the job does not wait for the lease."""
    world = World(nodes=4, accelerators=2)
    world.submit(spec("moe", ranks=4))
    world.run_until(lambda: world.job("moe").state.name == "RUNNING")
    world.run(later)
    node = world.state().fleet.name(world.job("moe").nodes()[-1 if last else 0])
    world.destroy(node)
    world.run(1.2)
    assert world.state().fleet.liveness[world.state().fleet.index[node]] == NodeLiveness.DEAD
    world.run_until(lambda: world.job("moe").generation > 1)


@given(st.lists(st.tuples(st.sampled_from(NodeLiveness), st.tuples(*[st.booleans()] * 6), st.floats(0, 3.0))))
def test_within_the_lease_only_all_three_witnesses_together_make_a_node_dead(
    rows: list[tuple[NodeLiveness, tuple[bool, ...], float]],
) -> None:
    """Whatever else is seen: no DEAD by one or two of them, and none against steps."""
    live = np.array([row[0] for row in rows], dtype=np.uint8)
    seen = np.array([row[1] for row in rows], dtype=np.bool_).reshape(-1, 6)
    session, member, stopped, stepping, halted, ended = seen.T
    none = np.zeros(len(live), dtype=np.bool_)
    sight = Sight(
        live, session, np.array([row[2] for row in rows]), member, stopped, stepping, ~session & ended, halted,
        stopped, none, ~none, none, np.full(len(live), np.inf), np.zeros((len(live), 4), dtype=np.int32),
    )  # fmt: skip
    belief = judge(sight, POLICY)
    verdict, ground = belief.liveness, belief.ground
    fresh = (verdict == NodeLiveness.DEAD) & (live != NodeLiveness.DEAD)
    agree = sight.reset & ~member & halted & ~stepping & (sight.silence_s > POLICY.brief_s)
    assert (fresh == (agree & (live != NodeLiveness.DEAD))).all()
    assert (ground[fresh] == Ground.THREE_WITNESSES).all()
