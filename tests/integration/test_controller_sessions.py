"""Sessions of agents: who speaks for a node, what is acknowledged when, what is refused and counted."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from phalanx.v1 import agent_pb2, agent_pb2_grpc, event_pb2, fleet_pb2, job_pb2, types_pb2

from controlplane.core.vocabulary import NodeLiveness
from tests.fixtures.controller_peers import FakeAgent, FakeCell, Stream
from tests.fixtures.controller_process import Controller, refusal, until

ALIVE, SUSPECT, DEAD = types_pb2.NODE_LIVENESS_ALIVE, types_pb2.NODE_LIVENESS_SUSPECT, types_pb2.NODE_LIVENESS_DEAD
UNKNOWN = types_pb2.NODE_LIVENESS_UNKNOWN


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    controller = Controller(tmp_path_factory.mktemp("controller"), lease_ms=6_000, write_ms=1_000).start()
    yield controller
    controller.close()


def refused(stream: Stream) -> tuple[grpc.StatusCode, str]:
    until(stream.ended.is_set, "the session ends")
    assert stream.error is not None
    return refusal(stream.error)


def verdicts(controller: Controller, node: str) -> list[int]:
    """All that was ever concluded of a node, in order: the present verdict may be another one already."""
    asked = event_pb2.ListEventsRequest(node=node, limit=1_000)
    told = [
        event for event in controller.events.ListEvents(asked, timeout=30).events if event.type == "LivenessChanged"
    ]
    return [json.loads(event.body_json)["liveness"] for event in told]


def until_liveness(controller: Controller, node: str, liveness: types_pb2.NodeLiveness.ValueType) -> None:
    until(lambda: controller.node(node).liveness == liveness, f"{node} is {types_pb2.NodeLiveness.Name(liveness)}")


def test_an_older_boot_is_refused_and_the_true_session_stays(controller: Controller) -> None:
    true = FakeAgent(controller, "boots", boot_id="2").connect()
    older = FakeAgent(controller, "boots", boot_id="1")
    assert refused(older.dial()) == (grpc.StatusCode.FAILED_PRECONDITION, "OLDER_BOOT")
    assert not true.stream.ended.is_set()
    assert controller.node("boots").boot_id == "2"
    assert controller.site().refused["OLDER_BOOT"] == 1
    true.stream.close()


def test_a_second_session_of_a_boot_takes_over(controller: Controller) -> None:
    first = FakeAgent(controller, "twice").connect()
    second = FakeAgent(controller, "twice").connect()
    assert refused(first.stream) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_REPLACED")
    sequence = second.report()
    until(lambda: second.acked >= sequence, "the second one is served")
    assert controller.node("twice").session_open
    second.stream.close()


def test_a_node_that_has_obeyed_a_later_controller_refuses_this_one(controller: Controller) -> None:
    agent = FakeAgent(controller, "later")
    agent.highest_epoch = 99
    assert refused(agent.dial()) == (grpc.StatusCode.FAILED_PRECONDITION, "STALE_CONTROLLER")
    controller.until_logged("epoch_behind_agent")
    with pytest.raises(grpc.RpcError):
        controller.node("later")


def test_a_reset_makes_a_node_suspect_and_a_hello_alive(controller: Controller) -> None:
    agent = FakeAgent(controller, "reset").connect()
    FakeCell(controller, [agent]).connect()
    until(lambda: controller.node("reset").cell_member, "it is a member")
    agent.stream.reset()
    until(lambda: int(NodeLiveness.SUSPECT) in verdicts(controller, "reset"), "it is SUSPECT")
    agent.connect()
    until_liveness(controller, "reset", ALIVE)
    agent.stream.close()
    until(lambda: not controller.node("reset").session_open, "a clean end is told too")


def test_silence_is_suspect_and_only_the_cell_makes_it_dead(controller: Controller) -> None:
    others = [FakeAgent(controller, f"beating-{i}").connect() for i in range(8)]
    agent = FakeAgent(controller, "silent").connect()
    cell = FakeCell(controller, [agent], boot_id="2").connect()
    agent.silence()
    # UNKNOWN where the agents of the tests before fell silent at the same moment: then the controller suspects itself.
    until(lambda: controller.node("silent").liveness in (SUSPECT, UNKNOWN), "its silence is seen")
    assert controller.node("silent").session_open
    cell.tell(silent=False)
    until_liveness(controller, "silent", DEAD)
    assert refused(agent.stream) == (grpc.StatusCode.FAILED_PRECONDITION, "DECLARED_DEAD")
    agent.connect()
    until_liveness(controller, "silent", ALIVE)
    for one in (agent, *others):
        one.stream.close()


def test_a_cell_may_name_a_node_before_its_agent_comes(controller: Controller) -> None:
    agent = FakeAgent(controller, "early")
    FakeCell(controller, [agent], boot_id="3").connect()
    agent.connect()
    until(lambda: controller.node("early").cell_member, "membership is not lost")
    agent.stream.close()


def test_what_makes_no_sense_is_refused_and_counted(controller: Controller) -> None:
    agent = FakeAgent(controller, "odd")
    stub = agent_pb2_grpc.AgentServiceStub(controller.channel)

    def session(*messages: agent_pb2.AgentMessage) -> tuple[grpc.StatusCode, str]:
        stream = Stream(stub.Session, messages[0], lambda _: None).open()
        for message in messages[1:]:
            stream.send(message)
        return refused(stream)

    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert session(agent_pb2.AgentMessage(beat=agent_pb2.Beat())) == (invalid, "NO_HELLO")
    assert session(agent.hello(boot_id="")) == (invalid, "INVALID_FIELD")
    hello = agent.hello()
    hello.hello.snapshot.accelerators[0].state = types_pb2.ACCELERATOR_STATE_UNSPECIFIED
    assert session(hello) == (invalid, "INVALID_FIELD")
    row = agent_pb2.HostStatus(host_id="j-1", state=types_pb2.RANK_STATE_EXITED)
    report = agent_pb2.AgentMessage(report=agent_pb2.Report(sequence=9, hosts=[row]))
    assert session(agent.hello(), report) == (invalid, "INVALID_FIELD")
    assert session(agent.hello(), agent.hello()) == (invalid, "SECOND_HELLO")
    counted = controller.site().refused
    assert counted["NO_HELLO"] == 1
    assert counted["INVALID_FIELD"] >= 3


def test_oversized_and_malformed_messages_are_refused_and_counted(controller: Controller) -> None:
    large = agent_pb2.AgentMessage(effect_result=agent_pb2.EffectResult(message="x" * (9 << 20)))
    raw = controller.channel.unary_unary("/phalanx.v1.JobService/CancelJob")
    session = controller.channel.stream_stream("/phalanx.v1.AgentService/Session")
    with pytest.raises(grpc.RpcError) as oversized:
        list(session(iter([large.SerializeToString()])))
    assert refusal(oversized.value) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_TOO_LARGE")
    with pytest.raises(grpc.RpcError) as malformed:
        raw(b"\xff\xff\xff", timeout=30)
    assert refusal(malformed.value) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    cancel = job_pb2.CancelJobRequest(request_id="x", name="y" * 100_000)
    with pytest.raises(grpc.RpcError) as unary:
        controller.jobs.CancelJob(cancel, timeout=30)
    assert refusal(unary.value) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_TOO_LARGE")
    with pytest.raises(grpc.RpcError) as transport:
        raw(b"\x00" * (17 << 20), timeout=30)
    assert transport.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    counted = controller.site().refused
    assert (counted["MESSAGE_TOO_LARGE"], counted["MALFORMED_MESSAGE"]) == (2, 1)
    assert 'phalanx_refused_messages_total{reason="MALFORMED_MESSAGE"} 1.0' in controller.metrics()


def test_rows_that_the_state_cannot_hold_do_not_reach_the_brain(controller: Controller) -> None:
    agent = FakeAgent(controller, "hostile").connect()
    huge = 2**64 - 1
    row = agent_pb2.HostStatus(
        host_id="nobody-1", job_uid="nobody", state=types_pb2.RANK_STATE_RUNNING, rank=2**31 - 1, generation=huge,
        age_ms=huge, pid=-(2**31), times=agent_pb2.GenerationTimes(joining_age_ms=huge),
    )  # fmt: skip
    shard = agent_pb2.ShardWritten(
        job_uid="nobody", generation=huge, step=huge, rank=2**32 - 1, save_stall_s=float("nan")
    )
    agent.auto = False
    agent.stream.send(agent_pb2.AgentMessage(report=agent_pb2.Report(sequence=1_000, hosts=[row], shards=[shard])))
    progress = agent_pb2.StepProgress(job_uid="nobody", rank=2**32 - 1, generation=huge, step=huge, age_ms=huge)
    agent.stream.send(agent_pb2.AgentMessage(beat=agent_pb2.Beat(progress=[progress])))
    until(lambda: agent.acked == 1_000, "the report is acknowledged")
    until(lambda: any(e.HasField("fence_hosts") for e in agent.effects), "a stray is fenced")
    assert controller.site().refused["OLD_GENERATION"] >= 1
    agent.stream.close()


def test_cordons_belong_to_their_owners(controller: Controller) -> None:
    agent = FakeAgent(controller, "cordoned").connect()
    fleet = controller.fleet
    request = fleet_pb2.CordonNodeRequest(request_id="c1", name="cordoned", owner="lab", reason="looks bad")
    fleet.CordonNode(request, timeout=30)
    assert [(c.owner, c.reason) for c in controller.node("cordoned").cordons] == [("lab", "looks bad")]
    with pytest.raises(grpc.RpcError) as error:
        fleet.UncordonNode(fleet_pb2.UncordonNodeRequest(request_id="c2", name="cordoned"), timeout=30)
    assert refusal(error.value) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_SUCH_CORDON")
    fault = fleet_pb2.InjectAcceleratorFaultRequest(
        request_id="c3", node="cordoned", accelerator=1, code="XID-79", message="gone"
    )
    fleet.InjectAcceleratorFault(fault, timeout=30)
    order = until(lambda: next((e for e in agent.effects if e.HasField("inject_fault")), None), "the agent is told")
    assert (order.inject_fault.accelerator, order.inject_fault.code, order.epoch) == (1, "XID-79", 1)
    agent.stream.close()


def test_a_slow_reader_is_cut_and_holds_nobody_up(controller: Controller) -> None:
    agent = FakeAgent(controller, "slow").connect()
    FakeCell(controller, [agent], boot_id="4").connect()
    until(lambda: controller.node("slow").cell_member, "it is a member: silence alone kills no member")
    agent.stream.reading.clear()
    for number in range(300):
        fault = fleet_pb2.InjectAcceleratorFaultRequest(
            request_id=f"slow-{number}", node="slow", accelerator=0, code="X", message="m" * 1_000
        )
        controller.fleet.InjectAcceleratorFault(fault, timeout=30)
    until(lambda: not controller.node("slow").session_open, "the session is cut")
    ended = until(
        lambda: [line for line in map(json.loads, controller.log_lines("session_ended")) if line.get("node") == "slow"],
        "the log says why",
    )
    assert "has read nothing for 1 s" in ended[-1]["reason"]
    agent.stream.reading.set()
    assert refused(agent.stream) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_READER")
    agent.connect()
    until(lambda: len({e.effect_id for e in agent.effects}) == 300, "all of it arrives with the next session")
    agent.stream.close()


def test_many_sessions_leave_nothing_behind(controller: Controller) -> None:
    agents = [FakeAgent(controller, f"many-{number}") for number in range(40)]
    threads = [threading.Thread(target=agent.connect) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def open_ones() -> int:
        return sum(node.name.startswith("many-") and node.session_open for node in nodes(controller))

    assert open_ones() == 40
    for agent in agents[:20]:
        agent.stream.reset()
    for agent in agents[20:]:
        agent.stream.close()
    until(lambda: not open_ones(), "all sessions have ended")
    assert not controller.log_lines("background_task_broke")
    assert not controller.log_lines("request_broke")


def nodes(controller: Controller) -> list[fleet_pb2.Node]:
    return list(controller.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=30).nodes)


def test_a_stop_is_an_end_in_order(tmp_path: Path) -> None:
    controller = Controller(tmp_path).start()
    agent = FakeAgent(controller, "n").connect()
    controller.send(signal.SIGTERM)
    assert controller.wait() == 0
    until(agent.stream.ended.is_set, "the session ends")
    assert controller.log_lines("controller_stopped")
    controller.close()
