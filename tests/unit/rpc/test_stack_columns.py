"""Where a node says that its ranks stand: only what it may say, and never more than fits."""

from __future__ import annotations

import numpy as np
from phalanx.v1 import agent_pb2

from controlplane.core.health.standstill import UNREAD, judge
from controlplane.core.jobs import Job
from controlplane.core.spec import JobSpec, Workload
from controlplane.core.vocabulary import JobState
from controlplane.rpc.stacks import MOST_GROUPS, MOST_PLACE, MOST_RANKS, stacks_of


def job(nodes: list[int]) -> Job:
    spec = JobSpec("moe", Workload("m"), ranks=len(nodes))
    return Job("moe", "moe-1", 1, spec, JobState.RUNNING, 0, rank_node=np.array(nodes, dtype=np.int32))


def test_rows_become_columns() -> None:
    report = agent_pb2.StackReport(places=["a.py:f", "b.py:g"])
    row = report.ranks.add(rank=3, place=2, stopped=True, moved=True)
    row.collectives.add(group="world", members=255, issued=7, operation="all_reduce", waits=True)
    report.ranks.add(rank=2, place=1, inside=True, trouble="no leave")
    stacks = stacks_of(report, job([0, 0, 1, 1]), 1)
    assert (stacks.rank.tolist(), stacks.place.tolist()) == ([2, 3], [0, 1])
    assert (stacks.inside.tolist(), stacks.stopped.tolist(), stacks.moved.tolist()) == ([1, 0], [0, 1], [0, 1])
    assert (stacks.groups, stacks.operations) == (("world:000000ff",), ("all_reduce",))
    assert (stacks.calls.rank.tolist(), stacks.calls.issued.tolist(), stacks.calls.waits.tolist()) == ([3], [7], [True])
    assert stacks.troubles == ("no leave",)


def test_a_node_speaks_for_its_own_ranks_once_each_and_nothing_breaks() -> None:
    report = agent_pb2.StackReport(places=["x\n" * MOST_PLACE] * 1_000)
    for rank in (0, 2, 2, 9, (1 << 32) - 1, *range(3, 1_000)):
        row = report.ranks.add(rank=rank, place=(1 << 32) - 1)
        for _ in range(40):
            row.collectives.add(group="a:b\0", members=1, issued=(1 << 64) - 1, operation="?" * 1_000)
    stacks = stacks_of(report, job([0, 0, 1, 1]), 1)
    assert stacks.rank.tolist() == [2, 3]
    assert stacks.place.tolist() == [UNREAD, UNREAD]
    assert len(stacks.calls.rank) == 2 * MOST_GROUPS
    assert max(len(place) for place in stacks.places) <= MOST_PLACE
    assert "\n" not in stacks.places[0]
    assert stacks.groups == ("a.b?:00000001",)
    assert judge(stacks, np.arange(4), str).odd.tolist() == []
    empty = stacks_of(agent_pb2.StackReport(), job([0]), 0)
    assert len(empty.rank) == len(empty.calls.waits) == 0
    many = agent_pb2.StackReport(ranks=[agent_pb2.RankStack(rank=rank) for rank in range(5_000)])
    assert len(stacks_of(many, job([1] * 5_000), 1).rank) == MOST_RANKS
