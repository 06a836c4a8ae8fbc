"""Recoveries of a job as OTLP/JSON, the form that every trace viewer imports: for sites where no collector can be reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from controlplane.core.traces import SCOPE, Account, Attribute, Span, Trace, trace_of
from controlplane.core.units import NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    from phalanx.v1 import job_pb2

SPAN_KIND_INTERNAL = 1


def ended(job: job_pb2.Job) -> list[job_pb2.Recovery]:
    """Recoveries that have ended, or that a further fault overtook; one under way has no trace yet."""
    return [recovery for recovery in job.recoveries if recovery.complete or recovery.overtaken]


def trace_of_message(job: job_pb2.Job, recovery: job_pb2.Recovery) -> Trace:
    """The trace of a recovery; span for span what the controller sends to a collector."""
    started = datetime.fromisoformat(recovery.started_at)
    started_ms = round(started.timestamp() * 1000)
    account = Account(
        job=job.name,
        uid=job.uid,
        generation=recovery.generation,
        rung=recovery.rung,
        cause=recovery.cause,
        ledger=recovery.ledger,
        ranks=tuple(recovery.ranks),
        steps_lost=recovery.steps_lost,
        restore_step=recovery.restore_step,
        restore_source=recovery.restore_source,
        overtaken=recovery.overtaken,
        started_ns=started_ms * NS_PER_MS,
        phases_ns={phase: round(seconds * NS_PER_S) for phase, seconds in recovery.phases_s.items()},
    )
    return trace_of(account)


def otlp_document(traces: Iterable[Trace], version: str) -> dict[str, Any]:
    """A `TracesData` message of OTLP in its JSON mapping (identifiers in hex, 64-bit numbers as text)."""
    spans = [_span(trace, span) for trace in traces for span in trace.spans]
    resource = {"attributes": _attributes({"service.name": "phalanx-controller", "service.version": version})}
    scope = {"name": SCOPE, "version": version}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": spans}]}]}


def _span(trace: Trace, span: Span) -> dict[str, Any]:
    parent = {"parentSpanId": span.parent_id} if span.parent_id else {}
    return {
        "traceId": trace.trace_id,
        "spanId": span.span_id,
        **parent,
        "name": span.name,
        "kind": SPAN_KIND_INTERNAL,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.attributes),
    }


def _attributes(values: Mapping[str, Attribute]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Attribute) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case str():
            return {"stringValue": value}
        case tuple():
            return {"arrayValue": {"values": [_value(item) for item in value]}}
