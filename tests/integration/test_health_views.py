"""A controller process that releases canaries: caught, missed, measured, and shown with the rest of its health."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from phalanx.v1 import agent_pb2, fleet_pb2, types_pb2

from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, until

POLICY = """
[canaries]
every_ms = "200ms"
deadline_ms = "4s"
"""


class Bird(FakeAgent):
    """Its canaries fail when they are told to. `mute`: nobody hears of it."""

    mute = False

    def _do(self, effect: agent_pb2.AgentEffect) -> None:
        super()._do(effect)
        if effect.WhichOneof("body") == "raise_canary" and not self.mute:
            self.tell(
                agent_pb2.FaultStatus(
                    entity="node", code="CANARY", vendor="canary", severity="hint", sequence=effect.raise_canary.number,
                    assertion=types_pb2.FAULT_ASSERTION_ONCE, raised_age_ms=40,
                )
            )  # fmt: skip

    def tell(self, *faults: agent_pb2.FaultStatus, saves: Sequence[agent_pb2.SaveFinding] = ()) -> None:
        assert self.stream is not None
        report = agent_pb2.Report(sequence=next(self._sequence), faults=faults, save_findings=saves)
        self.stream.send(agent_pb2.AgentMessage(report=report))


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    controller = Controller(tmp_path, policy=policy).start()
    yield controller
    controller.close()


def health(controller: Controller) -> fleet_pb2.GetHealthResponse:
    return controller.fleet.GetHealth(fleet_pb2.GetHealthRequest(), timeout=30)


def test_canaries_faults_and_health_of_a_live_controller(controller: Controller) -> None:
    Bird(controller, "node-1").connect()
    until(lambda: health(controller).canaries.caught, "the canary is caught")
    deaf = Bird(controller, "node-2")
    deaf.mute = True
    deaf.connect()
    until(lambda: health(controller).canaries.missed_node == "node-2", "the other one is missed")
    found = health(controller)
    assert (found.canaries.every_s, found.canaries.deadline_s) == (0.2, 4.0)
    times = {row.kind: row for row in found.detection}
    assert times["canary"].count >= 1
    assert times["canary"].p50_s >= 0.05, "40 ms passed at the agent"
    assert found.detector.appends > 0
    assert found.detector.journal_state == "ok"
    assert found.budget.scopes[0].kind == "site"
    text = controller.metrics()
    assert re.search(r'phalanx_canaries_total{outcome="caught"} [1-9]', text)
    assert re.search(r'phalanx_detection_seconds_count{failure="canary"} [1-9]', text)

    answer = controller.fleet.ListFaults(fleet_pb2.ListFaultsRequest(since_s=600), timeout=30)
    assert not answer.standing
    told = {(fault.node, fault.vendor, fault.level, fault.assertion) for fault in answer.recent}
    assert told == {("node-1", "canary", "OBSERVE", "once")}
    assert not controller.node("node-1").cordons
    assert controller.node("node-1").service == types_pb2.NODE_SERVICE_IN_SERVICE


def test_a_fault_stands_is_explained_and_its_node_tells_its_way(controller: Controller) -> None:
    agent = Bird(controller, "node-1")
    agent.mute = True
    agent.connect()
    agent.tell(
        agent_pb2.FaultStatus(
            entity="accelerator/1", code="SIM-DEAD", vendor="simulated", severity="critical", message="no answer",
            assertion=types_pb2.FAULT_ASSERTION_OCCURRED, sequence=3, raised_age_ms=120,
        )
    )  # fmt: skip

    def standing() -> list[fleet_pb2.Fault]:
        request = fleet_pb2.ListFaultsRequest(nodes=["node-1"])
        return list(controller.fleet.ListFaults(request, timeout=30).standing)

    (fault,) = until(standing, "the fault stands")
    assert (fault.code, fault.level, fault.message) == ("SIM-DEAD", "RETURN_TO_VENDOR", "no answer")
    assert 0.1 <= fault.detection_s < 120
    request = fleet_pb2.ListFaultRulesRequest(vendor="simulated", code="SIM-DEAD")
    (rule,) = controller.fleet.ListFaultRules(request, timeout=30).rules
    assert rule.level == fault.level
    assert rule.origin in fault.reason
    node = until(lambda: (found := controller.node("node-1")).history and found, "its history")
    assert node.stay.level == "RETURN_TO_VENDOR"
    assert "was quarantined" in node.history[-1].message
    assert {row.kind for row in health(controller).detection} >= {"device"}


def test_a_job_whose_saves_fail_is_in_the_health_of_the_site(controller: Controller) -> None:
    birds = [Bird(controller, f"node-{number}") for number in (1, 2)]
    agents: list[FakeAgent] = [bird.connect() for bird in birds]
    FakeCell(controller, agents).connect()
    controller.submit("saving-1")
    job = controller.until_state(types_pb2.JOB_STATE_RUNNING)
    (rank,) = [one for one in job.ranks if one.rank == 1]
    assert not health(controller).failing_saves
    finding = agent_pb2.SaveFinding(
        job_uid=job.uid, generation=job.generation, step=40, rank=1, word=agent_pb2.SAVE_WORD_FAILED,
        reason="No space left on device",
    )  # fmt: skip
    next(bird for bird in birds if bird.node == rank.node).tell(saves=[finding])
    (found,) = until(lambda: health(controller).failing_saves, "the save that failed is told")
    assert (found.job, found.node, found.rank, found.step) == ("demo", rank.node, 1, 40)
    assert (found.word, found.reason) == (agent_pb2.SAVE_WORD_FAILED, "No space left on device")
    assert found.folder == job.checkpoint_folder
    assert 0 <= found.age_s < 60
    assert health(controller).failing_saves_total == 1
