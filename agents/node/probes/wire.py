"""A reading on its way from the probe's process to its agent: frames of four bytes of length and a `ProbeReading`."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from phalanx.v1 import agent_pb2, types_pb2

from agents.node.probes.reading import Assertion, Device, Fault, Health, Reading

MAX_FRAME_BYTES = 1 << 20
LENGTH = struct.Struct(">I")
NS_PER_MS = 1_000_000
MAX_TEXT = 1_000

_STATES: Mapping[Health, types_pb2.AcceleratorState.ValueType] = {
    Health.HEALTHY: types_pb2.ACCELERATOR_STATE_HEALTHY,
    Health.DEGRADED: types_pb2.ACCELERATOR_STATE_DEGRADED,
    Health.FAILED: types_pb2.ACCELERATOR_STATE_FAILED,
    Health.UNKNOWN: types_pb2.ACCELERATOR_STATE_UNKNOWN,
}
_ASSERTIONS: Mapping[Assertion, types_pb2.FaultAssertion.ValueType] = {
    Assertion.OCCURRED: types_pb2.FAULT_ASSERTION_OCCURRED,
    Assertion.RECOVERED: types_pb2.FAULT_ASSERTION_RECOVERED,
    Assertion.ONCE: types_pb2.FAULT_ASSERTION_ONCE,
}


class FrameTooLargeError(Exception):
    """A reading does not fit a frame; what a probe reads is bounded, so this is a defect of the probe."""


def message_of(reading: Reading, now_ns: int) -> agent_pb2.ProbeReading:
    """The reading as a message; times become ages before `now_ns` (Unix ns)."""
    return agent_pb2.ProbeReading(
        vendor=reading.vendor,
        accelerators=[_accelerator(reading.vendor, device) for device in reading.devices],
        faults=[_fault(reading.vendor, fault, now_ns) for fault in reading.faults],
        unreadable=[
            agent_pb2.UnreadableSource(
                name=source.source[:MAX_TEXT],
                reason=source.reason.removeprefix(f"{source.source}: ")[:MAX_TEXT],
                accelerators=source.accelerators,
                node_only=source.events_only,
            )
            for source in reading.unread
        ],
        telemetry=[_telemetry(device) for device in reading.devices],
        versions=reading.versions,
    )


def frame_of(message: agent_pb2.ProbeReading) -> bytes:
    """One frame. Raises FrameTooLargeError."""
    body = message.SerializeToString()
    if len(body) > MAX_FRAME_BYTES:
        raise FrameTooLargeError(f"a reading of {len(body)} bytes does not fit a frame of {MAX_FRAME_BYTES}")
    return LENGTH.pack(len(body)) + body


def _accelerator(vendor: str, device: Device) -> agent_pb2.AcceleratorStatus:
    return agent_pb2.AcceleratorStatus(
        index=device.index,
        serial=device.serial,
        pci_address=device.pci_address,
        vendor=vendor,
        model=device.model,
        state=_STATES[device.health],
    )


def _fault(vendor: str, fault: Fault, now_ns: int) -> agent_pb2.FaultStatus:
    """A source that numbers nothing and says when is numbered by that time: told again, it is no new occurrence."""
    return agent_pb2.FaultStatus(
        entity=fault.entity,
        vendor=vendor,
        code=fault.code,
        severity=fault.severity.value,
        assertion=_ASSERTIONS[fault.assertion],
        sequence=fault.sequence or fault.raised_ns // NS_PER_MS,
        raised_age_ms=max(1, (now_ns - fault.raised_ns) // NS_PER_MS) if fault.raised_ns else 0,
        message=fault.message[:MAX_TEXT],
    )


def _telemetry(device: Device) -> agent_pb2.DeviceTelemetry:
    metrics = device.metrics.items()
    return agent_pb2.DeviceTelemetry(
        accelerator=device.index,
        values={name: metric.value for name, metric in metrics if metric.supported and metric.value is not None},
        unsupported=sorted(name for name, metric in metrics if not metric.supported),
    )
