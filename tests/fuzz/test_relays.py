"""Relays under fire from both sides: what a relay may tell a controller, and what agents may tell a relay.

The controller knows a relay's nodes by slots and columns; a node's mistake must cost that node only, a relay's own that relay.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from phalanx.v1 import agent_pb2, relay_pb2

from tests.fixtures.controller_peers import FakeAgent
from tests.fixtures.controller_process import until
from tests.fixtures.relays import RelayProcess
from tests.fuzz.generator import SECONDS, SEED, Generator, show
from tests.fuzz.target import BROKEN, Target, fault_of

CONTROLLER_SESSION = "/phalanx.v1.RelayService/Session"
AGENT_SESSION = "/phalanx.v1.AgentService/Session"
AGENT = agent_pb2.AgentMessage.DESCRIPTOR
CALL_LIMIT_S = 15.0
NODES = 200
SLOTS = (0, 1, 2, 3, 255)


class Talk:
    """What one relay says: mostly what a relay could say, with hostile content."""

    def __init__(self, generator: Generator, target: Target) -> None:
        self.generator = generator
        self.rng = generator.rng
        self.target = target
        self.honest = {agent.node for agent in target.agents}

    def messages(self) -> list[bytes]:
        name = f"relay-{self.rng.randrange(NODES)}"
        hello = relay_pb2.RelayMessage(hello=relay_pb2.RelayHello(relay=name, boot_id="1", agent_version="fake"))
        kinds = (self._opening, self._message, self._message, self._message, self._beats, self._end)
        body = [self.rng.choice(kinds)().SerializeToString() for _ in range(self.rng.randrange(2, 20))]
        raw = self.generator.wire(relay_pb2.RelayMessage.DESCRIPTOR)
        if self.rng.random() < 0.3 and not any(node.encode() in raw for node in self.honest):
            body.insert(self.rng.randrange(len(body)), raw)
        return [hello.SerializeToString(), self._opening(SLOTS[0]).SerializeToString(), *body]

    def _slot(self) -> int:
        return self.rng.choice(SLOTS) if self.rng.random() < 0.95 else self.rng.randrange(2**32)

    def _opening(self, slot: int | None = None) -> relay_pb2.RelayMessage:
        hello = agent_pb2.AgentHello(
            node=f"node-{self.rng.randrange(7, NODES)}", boot_id="1", agent_version="fake", address="127.0.0.1",
            snapshot=agent_pb2.Report(sequence=1, full=True),
        )  # fmt: skip
        if slot is None and self.rng.random() < 0.3:
            found = self.generator.message(agent_pb2.AgentHello.DESCRIPTOR)
            assert isinstance(found, agent_pb2.AgentHello)
            if found.node not in self.honest:  # without TLS whoever says hello as a node is that node
                hello = found
        opening = relay_pb2.RelayedOpening(slot=self._slot() if slot is None else slot, hello=hello)
        return relay_pb2.RelayMessage(opening=opening)

    def _message(self) -> relay_pb2.RelayMessage:
        relayed = relay_pb2.RelayedMessage(slot=self._slot(), message=self.generator.wire(AGENT))
        return relay_pb2.RelayMessage(message=relayed)

    def _beats(self) -> relay_pb2.RelayMessage:
        count = self.rng.choice((0, 1, 5, 300))
        slots = [self._slot() for _ in range(count)]
        ages = [self.rng.choice((0, 7, 2**32 - 1)) for _ in range(count if self.rng.random() < 0.9 else 3)]
        found = self.generator.message(relay_pb2.RelayedSteps.DESCRIPTOR)
        assert isinstance(found, relay_pb2.RelayedSteps)
        rows = self.rng.randrange(4)
        steps = relay_pb2.RelayedSteps(
            job_uid=self.target.uid, generation=self.rng.choice((0, 1, 2**64 - 1)), slots=slots[:rows],
            ranks=[self.rng.choice((0, 1, 2**32 - 1))] * rows, steps=[2**64 - 1] * rows, ages_ms=[2**64 - 1] * rows,
            losses=[float("nan")] * rows, step_times_s=[float("inf")] * rows,
        )  # fmt: skip
        beats = relay_pb2.RelayedBeats(
            slots=slots, ages_ms=ages, steps=self.rng.choice(([], [found], [steps])),
            sent_ns=self.rng.choice((0, 1, 2**64 - 1, time.time_ns())),
        )  # fmt: skip
        return relay_pb2.RelayMessage(beats=beats)

    def _end(self) -> relay_pb2.RelayMessage:
        return relay_pb2.RelayMessage(end=relay_pb2.RelayedEnd(slot=self._slot(), message="gone"))


def say(address: str, path: str, sent: list[bytes]) -> grpc.RpcError | None:
    """Send all and close; the error with which the other side ended it, if it did."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        method: Any = channel.stream_stream(path, request_serializer=bytes, response_deserializer=bytes)
        try:
            for _ in method(iter(sent), timeout=CALL_LIMIT_S):
                pass
        except grpc.RpcError as error:
            return error
    return None


def shown(sent: list[bytes]) -> str:
    return " | ".join(part.hex()[:1_000] for part in sent)


def test_a_controller_hears_anything_from_relays(target: Target, generator: Generator) -> None:
    talk = Talk(generator, target)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        sent = talk.messages()
        error = say(target.controller.address, CONTROLLER_SESSION, sent)
        fault = fault_of(error) if error is not None else ""
        assert not fault, f"{fault}\nsent: {shown(sent)}"
    target.unbroken()
    assert all(target.controller.node(agent.node).session_open for agent in target.agents), "honest nodes are heard"


@pytest.fixture(scope="module")
def relay(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    one = RelayProcess(target.controller, tmp_path_factory.mktemp("fuzz-relay") / "relay", "relay-real", ())
    yield one
    one.close()


def agent_talk(generator: Generator, node: str) -> list[bytes]:
    hello = agent_pb2.AgentHello(
        node=node, boot_id="1", agent_version="fake", address="127.0.0.1",
        snapshot=agent_pb2.Report(sequence=1, full=True),
    )  # fmt: skip
    sent = [generator.wire(AGENT) for _ in range(generator.rng.randrange(1, 12))]
    if generator.rng.random() < 0.8:
        sent.insert(0, agent_pb2.AgentMessage(hello=hello).SerializeToString())
    return sent


def test_a_relay_hears_anything_from_agents(target: Target, relay: RelayProcess) -> None:
    """It lives, its own session goes on, and an honest agent behind it is heard to the end."""
    show(f"PHALANX_FUZZ_SEED={SEED}")
    generator = Generator(SEED, target.words)
    honest = FakeAgent(target.controller, "node-honest")
    with grpc.insecure_channel(relay.address) as channel:
        beats = agent_pb2.AgentMessage(beat=agent_pb2.Beat(sequence=1)).SerializeToString()
        over = time.monotonic() + SECONDS

        def steady() -> Iterator[bytes]:
            yield honest.hello().SerializeToString()
            while time.monotonic() < over + 600:  # it is cancelled before
                yield beats
                time.sleep(0.2)

        method: Any = channel.stream_stream(AGENT_SESSION, request_serializer=bytes, response_deserializer=bytes)
        call = method(steady())
        next(call)
        rng, raw = random.Random(SEED), [b"", b"\xff", b"\x12" * 100_000]
        while time.monotonic() < over:
            sent = agent_talk(generator, f"node-{rng.randrange(300, 400)}")
            if rng.random() < 0.2:
                sent.insert(rng.randrange(len(sent)), rng.choice(raw))
            error = say(relay.address, AGENT_SESSION, sent)
            fault = fault_of(error) if error is not None else ""
            assert not fault, f"{fault}\nsent: {shown(sent)}"
        assert relay.process.poll() is None, relay.log.read_text()[-4_000:]
        until(lambda: target.controller.node("node-honest").session_open, "the honest agent has its session")
        assert call.is_active(), "and never lost it"
        call.cancel()
    assert len(relay.logged("session.welcomed")) == 1, "the relay's own session went on"
    broken = [line for line in relay.log.read_text().splitlines() if BROKEN.search(line)]
    assert not broken, broken[0][:4_000]
    target.unbroken()
