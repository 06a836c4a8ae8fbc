"""A controller, a rank that dies, and a real OpenTelemetry collector: one trace for the recovery, told by the API too."""

from __future__ import annotations

from pathlib import Path

from phalanx.v1 import types_pb2

from cli.traces import trace_of_message
from controlplane.core.vocabulary import Phase
from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, until
from tests.fixtures.otlp_collector import Collector
from tests.fixtures.ports import free_port


def recover_once(controller: Controller) -> None:
    agents = [FakeAgent(controller, f"node-{number}").connect() for number in (1, 2)]
    FakeCell(controller, agents).connect()
    controller.submit("t-1", name="moe")
    controller.until_state(types_pb2.JOB_STATE_RUNNING, "moe")
    rank = controller.job("moe").ranks[1]
    agent = next(agent for agent in agents if agent.node == rank.node)
    agent.end_host(rank.host_id, signal=9, sender=types_pb2.ExitInfo.SENDER_UNKNOWN)
    until(lambda: any(r.complete for r in controller.job("moe").recoveries), "the rank is back")


def test_a_recovery_is_one_trace_at_the_collector(tmp_path: Path) -> None:
    collector = Collector()
    controller = Controller(tmp_path, otlp=collector.endpoint).start()
    try:
        recover_once(controller)
        job = controller.job("moe")
        expected = trace_of_message(job, job.recoveries[0])
        until(lambda: len(collector.spans()) >= len(expected.spans), "the spans arrive")
        got = {span.name: span for span in collector.spans()}
        assert {span.trace_id.hex() for span in got.values()} == {expected.trace_id}
        assert {name: span.span_id.hex() for name, span in got.items()} == {s.name: s.span_id for s in expected.spans}
        assert got.keys() == {"recovery", *(phase.value for phase in Phase)}
        until(lambda: 'phalanx_trace_spans_total{outcome="sent"} 8.0' in controller.metrics(), "they are counted")
    finally:
        controller.close()
        collector.stop()


def test_a_collector_that_is_away_changes_nothing(tmp_path: Path) -> None:
    controller = Controller(tmp_path, otlp=f"127.0.0.1:{free_port()}").start()
    try:
        recover_once(controller)
        lost = 'phalanx_trace_spans_total{outcome="lost"} 8.0'
        until(lambda: lost in controller.metrics(), "they are given up and counted")
        controller.until_logged("traces_not_sent")
    finally:
        controller.close()
    assert controller.wait() == 0
