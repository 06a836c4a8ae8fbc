"""A training loses a node and there is no other: it goes on with fewer replicas, and all are back when the node is."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.e2e.site import RunningSite, poll

pytestmark = pytest.mark.e2e


def test_replicas_leave_with_their_node_and_come_back(site: RunningSite) -> None:
    """The two replicas of a destroyed node leave; the others do their share of every batch until the node is there again."""
    site.submit("elastic", every=10, spares=False, least=2)
    job = site.running("elastic", step=22)
    idle = sorted(site.nodes().keys() - {rank.node for rank in job.ranks})
    site.phalanx("cordon", *idle, "--reason", "no place for others")
    try:
        before = site.running("elastic")
        node = next(rank.node for rank in before.ranks if rank.rank == 3)
        site.phalanx("inject", "destroy-node", node)
        small = site.recovered("elastic", before)
        assert small.recoveries[-1].rung == "SHRINK"
        assert small.recoveries[-1].steps_lost <= 1
        assert [rank.rank for rank in small.ranks if rank.node] == [0, 1]
        poll(lambda: site.job("elastic").step > small.step + 5, "two replicas make steps")
        site.phalanx("inject", "restart-node", node)
        whole = site.recovered("elastic", small)
        assert whole.recoveries[-1].rung == "GROW"
        assert [rank.rank for rank in whole.ranks if rank.node] == [0, 1, 2, 3]
        poll(lambda: site.job("elastic").step > whole.step + 5, "four replicas make steps")
    finally:
        site.phalanx("uncordon", *idle)
    job = site.finished("elastic")

    written = (Path(job.checkpoint_folder) / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in written.splitlines()]
    assert [count for count, _ in itertools.groupby(row["participants"] for row in rows)] == [4, 2, 4]
    last = {row["step"]: row["loss"] for row in rows}
    assert sorted(last) == list(range(1, max(last) + 1)), "no step was left out"
    first, final = (sum(part) / len(part) for part in (list(last.values())[:10], list(last.values())[-10:]))
    assert final < first, "it learned on"
