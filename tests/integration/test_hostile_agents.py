"""Agents that send what no well-behaved agent sends, beside twenty that behave, all over TLS.

Each attack is bounded, counted and named; no session of the others ends and none of them is late with its lease.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from phalanx.v1 import agent_pb2, event_pb2, fleet_pb2

from agents.node.dial import RELAY_NAME
from controlplane.rpc.pace import BEAT_FACTOR, BURST, HELLO_BURST, HELLOS_PER_S, MAX_HELD, MESSAGES_PER_S
from tests.fixtures.controller_peers import FakeAgent
from tests.fixtures.controller_process import refusal, until
from tests.fixtures.good_agents import GoodAgents
from tests.fixtures.relays import RelayProcess
from tests.fixtures.secure_site import NodeAgent, SecureController

GOOD = [f"good-{number}" for number in range(20)]
BEAT_MS = 250
SESSION = "/phalanx.v1.AgentService/Session"
PUSH_LOG = "/phalanx.v1.AgentService/PushLog"
RATE_PER_S = MESSAGES_PER_S + BEAT_FACTOR * 1_000 / BEAT_MS
FLOOD_S = 1.5


class Site:
    """A controller, twenty good agents, and what was noted of bad ones."""

    def __init__(self, folder: Path) -> None:
        self.controller = SecureController(folder, beat_ms=BEAT_MS).start()
        self.good = GoodAgents(self.controller, folder / "good", GOOD)

    def call(self, name: str, path: str, messages: Iterator[bytes]) -> Any:
        """A stream of raw messages under the certificate of a node."""
        channel = self.controller.channel_as(self.controller.shown("node", name))
        method = channel.stream_stream(path, request_serializer=bytes, response_deserializer=bytes)
        return method(messages, timeout=60)

    def hello(self, name: str, **options: int) -> bytes:
        """A good hello."""
        message: bytes = FakeAgent(self.controller, name, **options).hello().SerializeToString()
        return message

    def offence(self, name: str, reason: str) -> fleet_pb2.Offence | None:
        rows = self.controller.fleet.ListOffenders(fleet_pb2.ListOffendersRequest(), timeout=30).offenders
        found = [one for row in rows if row.name == name and row.proven for one in row.offences if one.reason == reason]
        return found[0] if found else None

    def until_noted(self, name: str, reason: str) -> fleet_pb2.Offence:
        found = until(lambda: self.offence(name, reason), f"{name} is noted for {reason}")
        assert found is not None
        return found

    def records(self, *types: str) -> list[dict[str, Any]]:
        request = event_pb2.ListEventsRequest(limit=10_000)
        found = self.controller.events.ListEvents(request, timeout=30).events
        return [json.loads(event.body_json) for event in found if event.type in types]

    def metric(self, name: str) -> float:
        return next(float(line.split()[1]) for line in self.controller.metrics().splitlines() if line.startswith(name))

    def others_are_heard(self) -> None:
        """All good agents have the session with which they began, and were never late; none of them is named."""
        assert self.good.ended() == []
        rows = self.controller.fleet.ListOffenders(fleet_pb2.ListOffendersRequest(), timeout=30).offenders
        assert not {row.name.partition("/")[2] for row in rows} & {*GOOD}
        late = [node for body in self.records("LivenessChanged") for node in body["nodes"] if node in GOOD]
        assert late == []
        nodes = self.controller.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=30).nodes
        assert sum(node.session_open for node in nodes if node.name in GOOD) == len(GOOD)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    one = Site(tmp_path_factory.mktemp("hostile"))
    yield one
    one.good.close()
    one.controller.close()


@pytest.fixture(autouse=True)
def others(site: Site) -> Iterator[None]:
    """Whatever the attack was, the others did not notice."""
    yield
    site.others_are_heard()


class Flood:
    """A stream that sends as fast as it can, from a thread, until stopped."""

    def __init__(self, site: Site, name: str, next_message: Callable[[int], bytes]) -> None:
        self.sent = 0
        self.began_s = time.monotonic()
        self._stop = threading.Event()
        self._next = next_message
        self._first = site.hello(name)
        self.call = site.call(name, SESSION, self._messages())
        self.answers: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _messages(self) -> Iterator[bytes]:
        yield self._first
        while not self._stop.is_set():
            self.sent += 1
            yield self._next(self.sent)

    def _read(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            self.answers.extend(self.call)

    def allowed(self) -> float:
        """Messages that may have been read by now."""
        return 2 * BURST + RATE_PER_S * (time.monotonic() - self.began_s)

    def stop(self) -> None:
        self._stop.set()
        self.call.cancel()
        self._reader.join(60)


def test_a_flood_of_beats_is_read_no_faster_than_the_agents_rate(site: Site) -> None:
    read_before = site.metric("phalanx_beat_lag_seconds_count")  # the good agents' beats do not say when they left

    def beat(number: int) -> bytes:
        body = agent_pb2.Beat(sequence=number, sent_ns=time.time_ns())
        return agent_pb2.AgentMessage(beat=body).SerializeToString()

    flood = Flood(site, "flooder", beat)
    try:
        found = site.until_noted("node/flooder", "FLOOD")
        assert "messages a second" in found.message
        time.sleep(FLOOD_S)  # the flood goes on
        read = site.metric("phalanx_beat_lag_seconds_count") - read_before
        assert BURST <= read <= flood.allowed()
        assert flood.sent > read, "what was not read waits at the flooder's"
        assert site.controller.node("flooder").session_open, "it is heard, as everybody is"
    finally:
        flood.stop()


def test_a_flood_of_reports_fills_no_journal(site: Site) -> None:
    """Each report changes a device, so that each is a record."""
    revision = site.controller.site().revision

    def report(number: int) -> bytes:
        row = agent_pb2.AcceleratorStatus(index=number % 2, serial=f"talker-{number % 2}", state=1 + number % 2)  # type: ignore[arg-type]
        return agent_pb2.AgentMessage(report=agent_pb2.Report(sequence=number, accelerators=[row])).SerializeToString()

    flood = Flood(site, "talker", report)
    try:
        site.until_noted("node/talker", "FLOOD")
        time.sleep(FLOOD_S)
        assert site.controller.site().revision - revision <= 3 * flood.allowed()
        assert len(flood.answers) <= flood.allowed()
    finally:
        flood.stop()


def test_clocks_from_the_future_spoil_no_figure_and_renew_no_lease_beyond_now(site: Site) -> None:
    before = site.metric("phalanx_beat_lag_seconds_count"), site.metric("phalanx_beat_lag_seconds_sum")
    sent = [2**64 - 1, time.time_ns() + 10 * 365 * 86_400 * 10**9, 1, 2**63]
    beats = [agent_pb2.AgentMessage(beat=agent_pb2.Beat(sequence=1, sent_ns=at)).SerializeToString() for at in sent]
    hello = FakeAgent(site.controller, "prophet", boot_id=f"{2**62:020d}-later").hello().SerializeToString()
    call = site.call("prophet", SESSION, itertools.chain([hello], beats))
    assert list(call), "it is welcome; its session ends when it has said all"
    assert site.until_noted("node/prophet", "CLOCK_OFF").count == len(sent) + 1
    assert (site.metric("phalanx_beat_lag_seconds_count"), site.metric("phalanx_beat_lag_seconds_sum")) == before
    assert site.controller.node("prophet").last_beat_age_s >= 0


def test_10_000_devices_are_none(site: Site) -> None:
    call = site.call("greedy", SESSION, iter([site.hello("greedy", accelerators=10_000)]))
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert refusal(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert "10000 rows" in site.until_noted("node/greedy", "INVALID_FIELD").message
    nodes = site.controller.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=30).nodes
    assert "greedy" not in {node.name for node in nodes}


def test_millions_of_empty_rows_are_counted_and_not_read(site: Site) -> None:
    """Eight MiB hold four million empty rows: to parse them would hold up everybody for seconds, and take half a GiB."""
    for body in (b"\x22\x00", b"\x1a\x00"):  # empty accelerators, empty hosts
        snapshot = body * 3_000_000
        size = agent_pb2.AgentHello(node="vast", boot_id="1", address="x", snapshot=agent_pb2.Report(full=True))
        hello = size.SerializeToString() + b"\x4a" + _varint(len(snapshot)) + snapshot
        call = site.call("vast", SESSION, iter([b"\x0a" + _varint(len(hello)) + hello]))
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert refusal(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_TOO_LARGE")
    assert "fields" in site.until_noted("node/vast", "MESSAGE_TOO_LARGE").message


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def test_a_reconnect_loop_is_slowed_down(site: Site) -> None:
    began_s, tries = time.monotonic(), 0
    hello = site.hello("dialler")
    channel = site.controller.channel_as(site.controller.shown("node", "dialler"))
    method = channel.stream_stream(SESSION, request_serializer=bytes, response_deserializer=bytes)
    reasons: list[str] = []
    while len(reasons) < 2 * MAX_HELD:
        call = method(iter([hello]), timeout=60)
        tries += 1
        try:
            list(call)
        except grpc.RpcError as error:
            reasons.append(refusal(error)[1])
    took_s = time.monotonic() - began_s
    assert set(reasons) == {"RECONNECTS_TOO_OFTEN"}
    opened = [body for body in site.records("NodeSessionChanged") if body["node"] == "dialler" and body["open"]]
    assert len(opened) == tries - len(reasons) <= HELLO_BURST + HELLOS_PER_S * took_s + 1
    assert took_s >= len(reasons) * 0.9, "who loops waits for each of its refusals"
    assert site.until_noted("node/dialler", "RECONNECTS_TOO_OFTEN").count == len(reasons)


def test_streams_without_end_are_refused(site: Site) -> None:
    stop = threading.Event()

    def silent() -> Iterator[bytes]:
        stop.wait(60)
        yield from ()

    channel = site.controller.channel_as(site.controller.shown("node", "wide"))
    method = channel.stream_unary(PUSH_LOG, request_serializer=bytes, response_deserializer=bytes)
    calls = [method.future(silent(), timeout=60) for _ in range(70)]
    site.until_noted("node/wide", "TOO_MANY_STREAMS")
    until(lambda: sum(call.done() for call in calls) == 6, "the others stay open")
    stop.set()
    for call in calls:
        call.cancel()


@pytest.mark.parametrize(
    ("name", "message", "reason"),
    [
        ("huge", b"\x12" * (9 << 20), "MESSAGE_TOO_LARGE"),
        ("garbage", b"\xff\xfe garbage", "MALFORMED_MESSAGE"),
        ("mute", b"", "NO_HELLO"),
    ],
)
def test_a_huge_or_senseless_message_ends_its_session_only(site: Site, name: str, message: bytes, reason: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(site.call(name, SESSION, iter([message])))
    assert refusal(caught.value) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert site.until_noted(f"node/{name}", reason).count == 1


def test_calls_that_nobody_serves_are_refused_and_named(site: Site) -> None:
    channel = site.controller.channel_as(site.controller.shown("node", "searcher"))
    for method in ("/phalanx.v1.None/Such", "/other.Service/Method"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(b"", timeout=60)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert site.until_noted("node/searcher", "UNKNOWN_METHOD").count == 2


def test_a_clock_that_was_ahead_once_keeps_no_later_start_out(site: Site, tmp_path: Path) -> None:
    """The folder is new, so that the agent learns of its former start from the refusal only. It waits for nobody."""
    ahead = f"{(time.time_ns() + 10 * 365 * 86_400 * 10**9) // 1_000:020d}-ffffffff"
    hello = FakeAgent(site.controller, "traveller", boot_id=ahead).hello().SerializeToString()
    assert list(site.call("traveller", SESSION, iter([hello])))
    site.controller.join_file(tmp_path / "node" / "join.json", "node", "traveller")
    agent = NodeAgent(site.controller, tmp_path / "node", "traveller")
    try:
        site.controller.until_session("traveller")
        (taken,) = agent.logged("agent.boot_taken_later")
        assert taken["known_boot_id"] == ahead
        assert site.controller.node("traveller").boot_id == taken["boot_id"] > ahead
        with pytest.raises(grpc.RpcError) as caught:
            list(site.call("traveller", SESSION, iter([hello])))
        assert refusal(caught.value)[1] == "OLDER_BOOT", "the older process stays out"
    finally:
        agent.close()


def test_what_a_relay_refuses_is_named_by_the_controller(site: Site, tmp_path: Path) -> None:
    rows = b"\x22\x00" * 100_000
    hello = b"\x4a" + _varint(len(rows)) + rows
    empty_rows = b"\x0a" + _varint(len(hello)) + hello
    relay = RelayProcess(site.controller, tmp_path / "relay", "relay-1", ("behind-[1-4]",))
    try:
        for node, message, reason in (
            ("behind-1", site.hello("behind-2"), "NOT_YOUR_NAME"),
            ("behind-1", b"\xff\xfe garbage", "NO_HELLO"),
            ("behind-3", empty_rows, "MESSAGE_TOO_LARGE"),
            ("stranger", site.hello("behind-2"), "NOT_YOUR_NAME"),
        ):  # fmt: skip
            with pytest.raises(grpc.RpcError) as caught:
                list(_behind(site, relay, node, iter([message])))
            assert refusal(caught.value)[1] == reason
            if node != "stranger":
                assert "(at relay/relay-1)" in site.until_noted(f"node/{node}", reason).message

        def named() -> dict[str, bool]:
            request = fleet_pb2.ListOffendersRequest()
            return {row.name: row.proven for row in site.controller.fleet.ListOffenders(request, timeout=30).offenders}

        until(lambda: "node/stranger@relay-1" in named(), "what the relay says of a stranger is told")
        assert not named()["node/stranger@relay-1"], "a relay cannot blame a node that it does not speak for"
        assert not {"node/stranger", "node/behind-2", "relay/relay-1"} & named().keys()
    finally:
        relay.close()


def _behind(site: Site, relay: RelayProcess, name: str, messages: Iterator[bytes]) -> Any:
    shown = site.controller.shown("node", name)
    credentials = grpc.ssl_channel_credentials(shown.authority, shown.key, shown.certificate)
    options = (("grpc.ssl_target_name_override", RELAY_NAME), ("grpc.use_local_subchannel_pool", 1))
    method = grpc.secure_channel(relay.address, credentials, options=options).stream_stream(SESSION)
    return method(messages, timeout=60)


def test_who_takes_anothers_name_is_named_and_the_other_goes_on(site: Site) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(site.call("thief", SESSION, iter([site.hello(GOOD[0])])))
    assert refusal(caught.value) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_YOUR_NAME")
    assert GOOD[0] in site.until_noted("node/thief", "NOT_YOUR_NAME").message


def test_calls_that_are_not_an_agents_are_named_in_table_and_log(site: Site) -> None:
    channel = site.controller.channel_as(site.controller.shown("node", "curious"))
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/phalanx.v1.FleetService/ListNodes")(b"", timeout=30)
    assert refusal(caught.value) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_NEEDED")
    site.until_noted("node/curious", "ROLE_NEEDED")
    site.controller.until_logged("request_refused")
    lines = [json.loads(line) for line in site.controller.log_lines("request_refused")]
    assert "node/curious" in next(line for line in lines if line["reason"] == "ROLE_NEEDED")["caller"]
