"""Traces at a real collector, and without one."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from google.protobuf import json_format
from opentelemetry.proto.trace.v1 import trace_pb2

from cli.traces import otlp_document, trace_of_message
from controlplane.adapters.traces import otlp
from controlplane.adapters.traces.otlp import QUEUE_SPANS, OtlpTraces, is_loopback
from controlplane.core.traces import trace_of
from controlplane.rpc.views import job_message
from tests.fixtures.controller_process import until
from tests.fixtures.otlp_collector import Collector
from tests.fixtures.ports import free_port
from tests.support.fleets import fleet
from tests.unit.core.test_recovery_traces import RECOVERY, account, job_on


class Told:
    def __init__(self) -> None:
        self.sent = self.lost = 0

    def __call__(self, spans: int, taken: bool) -> None:
        if taken:
            self.sent += spans
        else:
            self.lost += spans


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[OtlpTraces, Told]]:
    """Exporters that wait little."""
    monkeypatch.setattr(otlp, "SEND_EVERY_MS", 20)
    monkeypatch.setattr(otlp, "EXPORT_LIMIT_S", 0.3)

    def make(endpoint: str) -> tuple[OtlpTraces, Told]:
        told = Told()
        return OtlpTraces(endpoint, version="0.2.0", told=told), told

    return make


def test_a_collector_gets_the_spans_with_their_identifiers_and_attributes(
    sender: Callable[[str], tuple[OtlpTraces, Told]],
) -> None:
    collector = Collector()
    traces, told = sender(collector.endpoint)
    expected = trace_of(account())
    traces.send(expected)
    until(lambda: told.sent == len(expected.spans), "the spans are sent")
    traces.close(2.0)
    collector.stop()
    got = {span.name: span for span in collector.spans()}
    assert [span.name for span in collector.spans()] == [span.name for span in expected.spans]
    for span in expected.spans:
        assert got[span.name].trace_id.hex() == expected.trace_id
        assert (got[span.name].span_id.hex(), got[span.name].parent_span_id.hex()) == (span.span_id, span.parent_id)
        assert (got[span.name].start_time_unix_nano, got[span.name].end_time_unix_nano) == (span.start_ns, span.end_ns)
    attributes = {item.key: item.value for item in got["recovery"].attributes}
    assert attributes["phalanx.rung"].string_value == "RESTART_RANK"
    assert attributes["phalanx.generation"].int_value == 4
    assert [item.int_value for item in attributes["phalanx.ranks"].array_value.values] == [3]
    resource = {
        item.key: item.value.string_value for item in collector.requests[0].resource_spans[0].resource.attributes
    }
    assert resource["service.name"] == "phalanx-controller"


def test_without_a_collector_nothing_waits_and_the_queue_is_bounded(
    sender: Callable[[str], tuple[OtlpTraces, Told]],
) -> None:
    port = free_port()
    traces, told = sender(f"127.0.0.1:{port}")
    trace = trace_of(account())
    for _ in range(QUEUE_SPANS):
        traces.send(trace)
    assert len(traces._processor._batch_processor._queue) <= QUEUE_SPANS
    until(lambda: told.lost > 0, "the first batch is given up")
    collector = Collector(port)
    until(lambda: told.sent > 0, "what comes later is sent when the collector is back")
    traces.close(2.0)
    collector.stop()


def test_closing_does_not_wait_for_a_collector_that_is_away(
    sender: Callable[[str], tuple[OtlpTraces, Told]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "EXPORT_LIMIT_S", 30.0)
    port = free_port()
    traces, _ = sender(f"127.0.0.1:{port}")
    traces.send(trace_of(account()))
    traces.close(0.05)
    worker = traces._processor._batch_processor._worker_thread
    assert worker.is_alive(), "it still tries, in a thread that ends with us"
    collector = Collector(port)
    worker.join(60)  # else its log lines appear in whatever test runs then
    collector.stop()
    assert not worker.is_alive()


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [("127.0.0.1:4317", True), ("localhost:4317", True), ("[::1]:4317", True), ("10.1.2.3:4317", False),
     ("collector.example:4317", False)],
)  # fmt: skip
def test_plaintext_stays_on_this_machine(endpoint: str, expected: bool) -> None:
    assert is_loopback(endpoint) is expected


def test_the_command_builds_the_same_trace_from_the_api() -> None:
    on = fleet(2)
    job = job_on(on)
    job.recoveries = (RECOVERY,)
    from controlplane.core.state import State
    from controlplane.engine.soft import Progress

    message = job_message(State(fleet=on, jobs={job.uid: job}), job, Progress(), RECOVERY.fault_ns, "/c", ranks=True)
    trace = trace_of_message(message, message.recoveries[0])
    assert trace == trace_of(account())
    document = json.dumps(otlp_document([trace], "0.2.0"))
    assert '"intValue": "4"' in document
    # The JSON mapping of OTLP writes identifiers in hex where protobuf's own has base64: the rest must parse as it is.
    plain = json.loads(document)
    for span in plain["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for key in ("traceId", "spanId", "parentSpanId"):
            span.pop(key, None)
    parsed = json_format.ParseDict(plain, trace_pb2.TracesData())
    assert [span.name for span in parsed.resource_spans[0].scope_spans[0].spans] == [s.name for s in trace.spans]
