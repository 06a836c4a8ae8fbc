"""Every RPC of a real controller under random, truncated and mutated messages, streams out of order, and raw bytes.

Prints its seed; `PHALANX_FUZZ_SEED` repeats a run, `PHALANX_FUZZ_SECONDS` (per test) makes it longer: `make soak-fuzz`.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from typing import Any

import grpc
from phalanx.v1 import agent_pb2, cell_pb2, code_pb2, job_pb2, relay_pb2

from tests.fixtures.controller_process import spec_message
from tests.fuzz.generator import SECONDS, SEED, Generator, methods, show
from tests.fuzz.target import Target, fault_of

CALL_LIMIT_S = 15.0
WATCH_S = 0.2
RETRIES = 3


def same(data: Any) -> Any:
    return data


def valid_of(method: Any) -> Any:
    """A request that the method would take, where a random one would never get past the first check."""
    match method.name:
        case "SubmitJob":
            return job_pb2.SubmitJobRequest(request_id="valid", spec=spec_message("other"), dry_run=True)
        case _:
            return None


def test_unary_calls(target: Target, generator: Generator) -> None:
    """Refused requests are refused cleanly and store nothing."""
    calls = [(path, method) for path, method in methods(target.services()) if not streams(method)]
    channel = target.controller.new_channel()
    counts: dict[str, int] = {}
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for path, method in calls:
            data = generator.wire(method.input_type, valid_of(method))
            call = channel.unary_unary(path, request_serializer=same, response_deserializer=same)
            code = refused_cleanly(target, call, path, data)
            counts[code] = counts.get(code, 0) + 1
    show(f"answers: {dict(sorted(counts.items()))}")
    target.unbroken()
    assert len(counts) > 2, "the requests do not get past the first check"


def refused_cleanly(target: Target, call: Any, path: str, data: bytes) -> str:
    before = target.controller.site().revision
    try:
        call(data, timeout=CALL_LIMIT_S)
    except grpc.RpcError as error:
        clean(error, path, data)
        if target.controller.site().revision != before:
            # Something that was accepted earlier may still be at work: what this one stores, it stores every time.
            assert_stores_nothing(target, lambda: attempt(call, data), f"{path} {data.hex()[:2000]}")
        return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


def clean(error: grpc.RpcError, path: str, *sent: bytes) -> None:
    """Fail unless the error is one that a client can act on."""
    fault = fault_of(error)
    assert not fault, f"{path}: {fault}\nsent: {' | '.join(part.hex()[:1_000] for part in sent)}"


def attempt(call: Any, data: bytes) -> None:
    try:
        call(data, timeout=CALL_LIMIT_S)
    except grpc.RpcError:
        return


def assert_stores_nothing(target: Target, act: Callable[[], None], what: str) -> None:
    for _ in range(RETRIES):
        before = target.settled()
        act()
        if target.controller.site().revision == before:
            return
    raise AssertionError(f"refused, and yet something was stored: {what}")


def streams(method: Any) -> bool:
    return bool(method.client_streaming or method.server_streaming)


def test_watches(target: Target, generator: Generator) -> None:
    """Streams from the server: each is refused cleanly or runs until we leave."""
    calls = [
        (path, method)
        for path, method in methods(target.services())
        if method.server_streaming and not method.client_streaming
    ]
    channel = target.controller.new_channel()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for path, method in calls:
            data = generator.wire(method.input_type)
            call = channel.unary_stream(path, request_serializer=same, response_deserializer=same)
            try:
                for _ in call(data, timeout=WATCH_S):
                    pass
            except grpc.RpcError as error:
                clean(error, path, data)
    target.unbroken()


def openings(target: Target, generator: Generator) -> dict[str, Any]:
    """First messages that open a stream, so that the later ones are looked at. Many names: one alone may not dial so often."""
    node = f"node-{generator.rng.randrange(7, 200)}"
    number = generator.rng.randrange(7, 200)
    hello = agent_pb2.AgentHello(
        node=node, boot_id=generator.rng.choice("12"), agent_version="fake", address="127.0.0.1", highest_epoch=0,
        snapshot=agent_pb2.Report(sequence=1, full=True),
    )  # fmt: skip
    cell = cell_pb2.CellHello(
        cell=f"cell-{number}", boot_id="1", incarnation="ray", store_address="127.0.0.1:1",
        snapshot=cell_pb2.CellReport(sequence=1, full=True),
    )  # fmt: skip
    relay = relay_pb2.RelayHello(relay=f"relay-{number}", boot_id="1", agent_version="fake")
    return {
        "AgentService/Session": agent_pb2.AgentMessage(hello=hello),
        "RelayService/Session": relay_pb2.RelayMessage(hello=relay),
        "CellService/Session": cell_pb2.CellMessage(hello=cell),
        "CodeService/UploadCode": code_pb2.UploadCodeRequest(digest="sha256:" + "a" * 64, bytes=1000, data=b"a"),
    }


def test_streams_in_any_order(target: Target, generator: Generator) -> None:
    """Sessions and uploads: an opening or none, then anything, then an end in order or a reset."""
    calls = [(path, method) for path, method in methods(target.services()) if method.client_streaming]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        path, method = generator.rng.choice(calls)
        opening = openings(target, generator).get(path.removeprefix("/phalanx.v1."))
        sent = [generator.wire(method.input_type) for _ in range(generator.rng.randrange(1, 12))]
        if opening is not None and generator.rng.random() < 0.8:
            sent.insert(0, opening.SerializeToString())
        error = converse(target, path, method, sent, reset=generator.rng.random() < 0.2)
        if error is not None:
            clean(error, path, *sent)
    target.unbroken()


def converse(target: Target, path: str, method: Any, sent: list[bytes], *, reset: bool) -> grpc.RpcError | None:
    """Send all, then close or reset; the error with which the other side ended it, if it did."""
    with grpc.insecure_channel(target.controller.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        if not method.server_streaming:
            unary = channel.stream_unary(path, request_serializer=same, response_deserializer=same)
            try:
                unary(iter(sent), timeout=CALL_LIMIT_S)
            except grpc.RpcError as error:
                return error
            return None
        call = channel.stream_stream(path, request_serializer=same, response_deserializer=same)(
            iter(sent), timeout=CALL_LIMIT_S
        )
        try:
            for _ in call:
                if reset:
                    call.cancel()
                    return None
        except grpc.RpcError as error:
            return error if error.code() is not grpc.StatusCode.CANCELLED else None  # type: ignore[attr-defined]
    return None


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def test_raw_bytes_on_the_port(target: Target) -> None:
    """Not even HTTP: the port answers others afterwards, and holds nothing of the strangers."""
    show(f"PHALANX_FUZZ_SEED={SEED}")
    rng = random.Random(SEED)
    host, _, port = target.controller.address.rpartition(":")
    end = time.monotonic() + SECONDS / 5
    while time.monotonic() < end:
        first = rng.choice((b"", PREFACE, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00"))
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            try:
                connection.sendall(first + rng.randbytes(rng.choice((0, 1, 9, 1_000, 40_000))))
                connection.settimeout(0.05)
                connection.recv(1_000)
            except OSError:
                continue
    target.unbroken()
