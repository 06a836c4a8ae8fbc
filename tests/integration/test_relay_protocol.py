"""What a real controller takes from a relay, and what it refuses: names, certificates, slots, columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from phalanx.v1 import agent_pb2, event_pb2, relay_pb2, relay_pb2_grpc

from tests.fixtures.controller_peers import FakeAgent, Stream
from tests.fixtures.controller_process import refusal, until
from tests.fixtures.secure_site import SecureController

SPEAKS_FOR = ("n[1-8]",)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureController]:
    folder: Path = tmp_path_factory.mktemp("relay-protocol")
    one = SecureController(folder).start()
    yield one
    one.close()


class FakeRelay:
    """A relay that says what a test wants."""

    def __init__(self, controller: SecureController, name: str) -> None:
        self.controller = controller
        self.instructions: dict[int, list[agent_pb2.AgentInstruction]] = {}
        self.ends: dict[int, relay_pb2.RelayedEnd] = {}
        channel = controller.channel_as(controller.shown("relay", name, speaks_for=SPEAKS_FOR))
        hello = relay_pb2.RelayMessage(hello=relay_pb2.RelayHello(relay=name, boot_id="1", agent_version="0.2.0"))
        self.stream = Stream(relay_pb2_grpc.RelayServiceStub(channel).Session, hello, self._took).open()
        until(lambda: self.stream.received, "the relay is welcome")

    def _took(self, instruction: relay_pb2.RelayInstruction) -> None:
        for row in instruction.instructions.rows:
            for slot in row.slots:
                found = agent_pb2.AgentInstruction.FromString(row.instruction)
                self.instructions.setdefault(slot, []).append(found)
        if instruction.WhichOneof("body") == "end":
            self.ends[instruction.end.slot] = instruction.end

    def say(self, **body: Any) -> None:
        self.stream.send(relay_pb2.RelayMessage(**body))

    def open(self, slot: int, node: str, *, certificate_of: str = "") -> None:
        shown = self.controller.shown("node", certificate_of or node)
        hello = FakeAgent(self.controller, node).hello().hello
        hello.agent_version = "0.2.0"
        opening = relay_pb2.RelayedOpening(slot=slot, hello=hello, certificate_pem=shown.certificate)
        self.say(opening=opening)

    def welcome(self, slot: int, node: str) -> None:
        self.open(slot, node)
        until(lambda: self.instructions.get(slot), f"{node} is welcome")
        assert self.instructions[slot][0].HasField("welcome")

    def acknowledged(self, slot: int, sequence: int) -> bool:
        return any(row.report_ack.sequence == sequence for row in self.instructions[slot])

    def until_ended(self, slot: int) -> tuple[grpc.StatusCode, str]:
        until(lambda: slot in self.ends, f"slot {slot} ends")
        end = self.ends[slot]
        return next(status for status in grpc.StatusCode if status.value[0] == end.status), end.reason

    def refused(self) -> tuple[grpc.StatusCode, str]:
        until(self.stream.ended.is_set, "the relay's stream ends")
        assert self.stream.error is not None
        return refusal(self.stream.error)


def told_of(controller: SecureController, node: str) -> list[dict[str, Any]]:
    found = controller.events.ListEvents(event_pb2.ListEventsRequest(limit=1_000), timeout=30).events
    bodies = [json.loads(event.body_json) for event in found if event.type == "NodeSessionChanged"]
    return [body for body in bodies if body["node"] == node]


def test_a_relay_speaks_for_the_nodes_of_its_certificate_and_for_their_own_names(controller: SecureController) -> None:
    relay = FakeRelay(controller, "r1")
    relay.open(0, "n9")
    assert relay.until_ended(0) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_YOUR_NAME")
    relay.open(1, "n1", certificate_of="n2")
    assert relay.until_ended(1) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_YOUR_NAME")
    relay.welcome(2, "n1")
    assert not relay.stream.ended.is_set(), "a node that is refused costs the others nothing"
    assert told_of(controller, "n9") == []


def test_the_newest_of_two_relays_speaks_for_a_node(controller: SecureController) -> None:
    first, second = FakeRelay(controller, "r2"), FakeRelay(controller, "r3")
    first.welcome(0, "n3")
    second.welcome(5, "n3")
    assert first.until_ended(0)[1] == "SESSION_REPLACED"
    assert all(body["open"] for body in told_of(controller, "n3")), "the name was never without a session"


def test_a_nodes_mistake_ends_its_session_and_nobody_elses(controller: SecureController) -> None:
    relay = FakeRelay(controller, "r4")
    relay.welcome(0, "n4")
    relay.welcome(1, "n5")
    relay.say(message=relay_pb2.RelayedMessage(slot=0, message=b"\xff\xff garbage"))
    assert relay.until_ended(0)[1] == "MALFORMED_MESSAGE"
    report = agent_pb2.AgentMessage(report=agent_pb2.Report(sequence=7))
    relay.say(message=relay_pb2.RelayedMessage(slot=1, message=report.SerializeToString()))
    until(lambda: relay.acknowledged(1, 7), "the neighbour's report is acknowledged")


def test_an_agents_end_below_is_confirmed_and_recorded(controller: SecureController) -> None:
    relay = FakeRelay(controller, "r5")
    relay.welcome(0, "n6")
    relay.say(end=relay_pb2.RelayedEnd(slot=0, message="the agent's stream was reset"))
    assert relay.until_ended(0) == (grpc.StatusCode.OK, "")
    until(lambda: not told_of(controller, "n6")[-1]["open"], "the lost session is recorded")
    assert told_of(controller, "n6")[-1]["reason"] == "the agent's stream was reset"


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("b1", {"beats": relay_pb2.RelayedBeats(slots=[0, 1], ages_ms=[1])}, "BAD_COLUMNS"),
        ("b2", {"beats": relay_pb2.RelayedBeats(slots=[256], ages_ms=[1])}, "NO_SUCH_SLOT"),
        ("b3", {"beats": relay_pb2.RelayedBeats(steps=[relay_pb2.RelayedSteps(ranks=[1])])}, "BAD_COLUMNS"),
        ("b4", {"message": relay_pb2.RelayedMessage(slot=3)}, "NO_SUCH_SLOT"),
        ("b5", {"end": relay_pb2.RelayedEnd(slot=3)}, "NO_SUCH_SLOT"),
        ("b6", {"opening": relay_pb2.RelayedOpening(slot=256)}, "SLOT_TAKEN"),
    ],
)
def test_a_relays_own_mistake_ends_its_stream(
    controller: SecureController, name: str, body: dict[str, Any], reason: str
) -> None:
    relay = FakeRelay(controller, name)
    relay.say(**body)
    assert relay.refused() == (grpc.StatusCode.INVALID_ARGUMENT, reason)


def test_numbers_beyond_all_reason_are_cut(controller: SecureController) -> None:
    """Ages and steps of 64 bits reach no column that cannot hold them."""
    relay = FakeRelay(controller, "r6")
    relay.welcome(0, "n7")
    most = 2**64 - 1
    steps = relay_pb2.RelayedSteps(
        job_uid="x", generation=most, ranks=[2**32 - 1], slots=[0], steps=[most], ages_ms=[most], losses=[1.0],
        step_times_s=[1.0],
    )  # fmt: skip
    relay.say(beats=relay_pb2.RelayedBeats(slots=[0], ages_ms=[2**32 - 1], steps=[steps]))
    report = agent_pb2.AgentMessage(report=agent_pb2.Report(sequence=9))
    relay.say(message=relay_pb2.RelayedMessage(slot=0, message=report.SerializeToString()))
    until(lambda: relay.acknowledged(0, 9), "the relay goes on")


def test_an_agent_that_leaves_during_its_hello_leaves_no_session(controller: SecureController) -> None:
    relay = FakeRelay(controller, "r7")
    for slot in range(4):
        relay.open(slot, "n8")
        relay.say(end=relay_pb2.RelayedEnd(slot=slot, message="gone at once"))
        relay.until_ended(slot)

    def closed() -> bool:
        told = told_of(controller, "n8")
        return not told or not told[-1]["open"]

    relay.welcome(9, "n7")  # what came before has been decided
    until(closed, "the session of a stream that has ended is not left open")
