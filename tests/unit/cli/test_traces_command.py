"""`phalanx traces`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fake_controller import FakeController
from phalanx.v1 import job_pb2


def recovery(generation: int, **changes: Any) -> job_pb2.Recovery:
    values: dict[str, Any] = {
        "generation": generation, "rung": "RESTART_RANK", "cause": "rank 1 was killed by signal 9", "ranks": [1],
        "phases_s": {"detect": 0.01, "decide": 0.002, "first_step": 1.5}, "started_at": "2026-11-22T08:00:00.250Z",
        "total_s": 1.512, "complete": True, "ledger": "infrastructure",
    }  # fmt: skip
    return job_pb2.Recovery(**(values | changes))


def test_recoveries_as_a_table_and_as_opentelemetry(phalanx: Callable[..., Any], controller: FakeController) -> None:
    running = recovery(4, complete=False, started_at="2026-11-22T09:00:00.000Z")
    overtaken = recovery(2, complete=False, overtaken=True, started_at="2026-11-22T07:00:00.000Z")
    controller.jobs["moe"] = job_pb2.Job(name="moe", uid="moe-1", recoveries=[overtaken, recovery(3), running])
    table = phalanx("traces", "moe").out.splitlines()
    assert len(table) == 3
    assert "FIRST_STEP" in table[0]
    assert "RESTART_RANK (overtaken)" in table[1]
    assert "1.51" in table[2]
    spans = json.loads(phalanx("traces", "moe", "-o", "json").out)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert [span["name"] for span in spans] == 2 * ["recovery", "detect", "decide", "first_step"]
    assert spans[4]["startTimeUnixNano"] == "1795334400250000000"
    assert spans[4]["endTimeUnixNano"] == "1795334401762000000"
    names = phalanx("traces", "moe", "-o", "name").out.split()
    assert names == [spans[0]["traceId"], spans[4]["traceId"]]


def test_a_job_without_recoveries_has_no_spans(phalanx: Callable[..., Any], controller: FakeController) -> None:
    controller.jobs["moe"] = job_pb2.Job(name="moe", uid="moe-1")
    document = json.loads(phalanx("traces", "moe", "-o", "json").out)
    assert document["resourceSpans"][0]["scopeSpans"][0]["spans"] == []
