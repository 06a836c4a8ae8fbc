"""Four real ranks of which one computes longer and one waits for data: both are told with what for, and nothing is done to them."""

from __future__ import annotations

import pytest
from phalanx.v1 import fleet_pb2, job_pb2, types_pb2

from tests.e2e.site import WORKLOADS, RunningSite, poll

pytestmark = pytest.mark.e2e


def test_who_is_slow_is_told_and_nobody_is_evicted(site: RunningSite) -> None:
    release = site.folder / "uneven.released"
    site.submit("uneven", "uneven_work", path=str(WORKLOADS), ranks=4, every=0, spares=False, release=str(release))

    def both() -> job_pb2.Job | None:
        job = site.running("uneven")
        return job if {one.rank for one in job.stragglers} >= {1, 2} else None

    job = poll(both, "ranks 1 and 2 are flagged", 60, 0.2)
    nodes = {rank.rank: rank.node for rank in job.ranks}
    assert {one.rank: (one.cause, one.node) for one in job.stragglers} == {
        1: ("compute", nodes[1]),
        2: ("data", nodes[2]),
    }
    assert all(one.factor > 1.25 for one in job.stragglers)
    assert job.step_parts.waiting_s > 0.01, "the others wait for them"
    described = site.phalanx("describe", "job", "uneven")
    assert "waiting for others" in described
    assert "slower than the ranks that do the same work" in described
    assert "ranks that are slower" in site.phalanx("health")
    health = site.client.fleet.GetHealth(fleet_pb2.GetHealthRequest(), timeout=30)
    assert {(one.job, one.rank) for one in health.slow_ranks} == {("uneven", 1), ("uneven", 2)}
    messages = [event.message for event in site.events("uneven")]
    assert any("rank 1" in text and "its peers' compute" in text for text in messages)
    assert any("rank 2" in text and "for data" in text for text in messages)

    release.touch()
    job = site.finished("uneven")
    assert job.generation == 1
    assert not job.recoveries
    assert all(node.service == types_pb2.NODE_SERVICE_IN_SERVICE and not node.cordons for node in site.nodes().values())
    log = site.phalanx("logs", "uneven", "--rank", "3")
    assert log.count("is refused") == 1, "loudly, and once"
    assert int(job.result["steps"]) > 100
