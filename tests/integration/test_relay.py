"""Node agents behind a relay: a real controller, real relays, four real agents. A relay's end moves sessions and kills nobody."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from phalanx.v1 import event_pb2, fleet_pb2, job_pb2, types_pb2

from controlplane.core.vocabulary import NodeLiveness
from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, until
from tests.fixtures.relays import RelayProcess
from tests.fixtures.secure_site import NodeAgent, SecureController

NODES = tuple(f"node-{number}" for number in range(4))
LEASE_MS = 6_000
"""A busy machine may stop agents or relays for some seconds."""
LONGER_S = 1.25 * LEASE_MS / 1_000


class RelayedSite:
    """A controller, a relay for four nodes, and their agents, which dial the relay first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.controller = SecureController(folder, lease_ms=LEASE_MS, beat_ms=100).start()
        self.relays = [RelayProcess(self.controller, folder / "relay", "relay-1", ("node-[0-3]",))]
        self.agents: list[NodeAgent] = []

    def add_agent(self, node: str, relays: str) -> NodeAgent:
        place = self.folder / node
        self.controller.join_file(place / "join.json", "node", node)
        agent = NodeAgent(self.controller, place, node, "--relay", relays)
        self.agents.append(agent)
        return agent

    def nodes(self) -> list[fleet_pb2.Node]:
        return list(self.controller.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=30).nodes)

    def all_open(self) -> bool:
        nodes = self.nodes()
        return len(nodes) == len(self.agents) and all(node.session_open for node in nodes)

    def sessions(self, kind: str) -> int:
        line = next(
            line for line in self.controller.metrics().splitlines() if f'phalanx_sessions{{kind="{kind}"' in line
        )
        return round(float(line.rsplit(" ", 1)[1]))

    def records(self, *types: str) -> list[dict[str, Any]]:
        found = self.controller.events.ListEvents(event_pb2.ListEventsRequest(limit=1_000), timeout=30).events
        return [json.loads(event.body_json) for event in found if event.type in types]

    def past_the_relay(self) -> set[str]:
        """Nodes that have opened a session over another connection than the relay's."""
        opened = [json.loads(line) for line in self.controller.log_lines("session_opened")]
        of_relay = {row["peer"] for row in opened if "relay" in row}
        return {row["node"] for row in opened if "node" in row and row["peer"] not in of_relay}

    def convictions(self) -> list[dict[str, Any]]:
        return [body for body in self.records("LivenessChanged") if body["liveness"] == int(NodeLiveness.DEAD)]

    def close(self) -> None:
        for part in (*self.agents, *self.relays, self.controller):
            part.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[RelayedSite]:
    one = RelayedSite(tmp_path)
    try:
        for node in NODES:
            one.add_agent(node, one.relays[0].address)
        until(one.all_open, "every node has a session")
        yield one
    finally:
        one.close()


def test_a_relay_that_dies_or_stands_still_moves_its_nodes_and_convicts_none(site: RelayedSite) -> None:
    relay = site.relays[0]
    assert site.sessions("relay") == 1
    opened = len(NODES) + 1
    until(lambda: len(site.controller.log_lines("session_opened")) >= opened, "the relay and its nodes")
    assert site.past_the_relay() == set(), "everything came over the relay's connection"
    time.sleep(LONGER_S)  # than a lease: beats come through
    assert not site.records("LivenessChanged")

    relay.kill()
    until(lambda: site.sessions("relay") == 0, "the controller knows that the relay is gone")
    until(lambda: site.sessions("node") == len(NODES), "the agents have dialled the controller")
    until(site.all_open, "every node has a session")
    time.sleep(LONGER_S)
    assert not site.convictions()
    assert not site.records("LivenessChanged"), "nobody was even suspected"


def test_a_relay_that_stands_still_ages_its_nodes_and_its_agents_leave_it(site: RelayedSite) -> None:
    relay = site.relays[0]
    relay.send(signal.SIGSTOP)
    until(lambda: site.past_the_relay() == set(NODES), "the agents are elsewhere")
    until(lambda: all(node.liveness == types_pb2.NODE_LIVENESS_ALIVE for node in site.nodes()), "all are ALIVE again")
    relay.send(signal.SIGCONT)
    time.sleep(LONGER_S)
    until(site.all_open, "every node has a session")
    assert not site.convictions()


class Via:
    """What a pretended agent needs of a controller, through a relay."""

    def __init__(self, controller: Controller, relay: RelayProcess) -> None:
        self.controller = controller
        self._relay = relay

    def new_channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self._relay.address, options=(("grpc.use_local_subchannel_pool", 1),))


def test_a_job_runs_recovers_and_is_read_through_a_relay(tmp_path: Path) -> None:
    """Effects down, reports, steps and outcomes up, and a log: all of it through the relay."""
    controller = Controller(tmp_path).start()
    relay = RelayProcess(controller, tmp_path / "relay", "relay-1", ())
    try:
        agents = [FakeAgent(Via(controller, relay), f"node-{number}").connect() for number in (1, 2)]  # type: ignore[arg-type]
        FakeCell(controller, agents).connect()
        controller.submit("1")
        job = controller.until_state(types_pb2.JOB_STATE_RUNNING)
        for agent in agents:
            agent.steps = dict.fromkeys(agent.hosts, 41)
        until(lambda: controller.job().step == 41, "the steps of the ranks")
        rank = job.ranks[1]
        agent = next(agent for agent in agents if agent.node == rank.node)
        answer = controller.jobs.ReadLogs(job_pb2.ReadLogsRequest(name="demo", rank=1), timeout=30)
        assert b"".join(chunk.data for chunk in answer)
        agent.end_host(rank.host_id, signal=9, sender=types_pb2.ExitInfo.SENDER_UNKNOWN)
        until(lambda: any(row.complete for row in controller.job().recoveries), "the rank is back")
    finally:
        relay.close()
        controller.close()
