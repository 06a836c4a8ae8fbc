"""A gang that is large enough for its reports to be folded, over real streams: it runs, loses a rank, and runs again."""

from __future__ import annotations

from pathlib import Path

from phalanx.v1 import types_pb2

from controlplane.rpc.alike import FOLDED_RANKS
from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, until

NODES = 8
WIDTH = FOLDED_RANKS // NODES
RUNNING = types_pb2.JOB_STATE_RUNNING


def test_a_gang_of_a_thousand_runs_by_few_records_and_recovers(tmp_path: Path) -> None:
    controller = Controller(tmp_path).start()
    try:
        agents = [FakeAgent(controller, f"wide-{number}", accelerators=WIDTH).connect() for number in range(NODES)]
        FakeCell(controller, agents).connect()
        controller.submit("large-1", ranks=FOLDED_RANKS)
        job = controller.until_state(RUNNING)
        assert {rank.state for rank in job.ranks} == {types_pb2.RANK_STATE_RUNNING}
        recorded = controller.recorded(0)
        begun = recorded.index("GenerationStarted")
        assert "HostsReached" in recorded[begun:]
        assert "HostsObserved" not in recorded[begun:], "no row of a rank that said what all say"
        for agent in agents:
            until(lambda one=agent: one.acked == one.reported, "every report is acknowledged")  # type: ignore[misc]

        holder = next(agent for agent in agents if agent.node == job.ranks[5].node)
        holder.end_host(job.ranks[5].host_id, signal=9)
        until(lambda: controller.job().generation == 2, "the rank is replaced")
        job = controller.until_state(RUNNING)
        assert {rank.state for rank in job.ranks} == {types_pb2.RANK_STATE_RUNNING}
        assert len(job.recoveries) == 1
        for agent in agents:
            agent.stream.close()
    finally:
        controller.close()
