"""Cambricon's probe on recorded machines: cnmon and CNDev say the same, and incidents are faults."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agents.node.probes import cambricon
from agents.node.probes.machine import Memory
from agents.node.probes.reading import Health, Metric, Reading, Severity
from controlplane.catalogues import built_in
from controlplane.core.vocabulary import HandlingLevel
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine

QUERY = ("cnmon", "info")
BINDING = "gpustack_runtime.detector.pycndev"


@pytest.fixture
def node() -> RecordedMachine:
    return recorded_machine("cambricon", "mlu370x8")


def read(machine: RecordedMachine, memory: Memory | None = None) -> Reading:
    return cambricon.read(machine, {} if memory is None else memory)


def test_eight_healthy_cards(node: RecordedMachine) -> None:
    reading = read(node)
    assert {mlu.health for mlu in reading.devices} == {Health.HEALTHY}
    assert (reading.faults, reading.unread, reading.versions) == ((), (), {"driver": "5.10.22"})
    third = reading.devices[2]
    assert (third.serial, third.pci_address) == ("MLU-77013006-2457-0000-0000-000000000002", "0000:47:00.0")
    assert third.metrics["memory_used_bytes"] == Metric(17320 * 2**20)


@pytest.mark.parametrize(
    ("before", "after", "codes", "health"),
    [
        ("Device                     : Good", "Device                     : In problem", ["VENDOR-UNHEALTHY"], Health.FAILED),
        ("Driver                     : Running", "Driver                     : Boot error", ["CNDEV-DRIVER"], Health.FAILED),
        ("Driver                     : Running", "Driver                     : Reset", [], Health.UNKNOWN),
        ("Device                     : Good", "Device                     : Mauve", [], Health.UNKNOWN),
        ("Device                     : Good", "Device                     : N/A", [], Health.UNKNOWN),
    ],
)  # fmt: skip
def test_states(node: RecordedMachine, before: str, after: str, codes: list[str], health: Health) -> None:
    reading = read(node.edited(QUERY, lambda text: text.replace(before, after, 1)))
    assert [fault.code for fault in reading.faults] == codes
    assert reading.devices[0].health is health
    assert {mlu.health for mlu in reading.devices[1:]} == {Health.HEALTHY}


def test_a_tool_that_tells_no_health_makes_nobody_healthy(node: RecordedMachine) -> None:
    """cnmon 4 has no Health State."""
    lines = ("        Device                     : Good\n", "        Driver                     : Running\n")
    old = node.edited(QUERY, lambda text: text.replace(lines[0], "").replace(lines[1], ""))
    assert {mlu.health for mlu in read(old).devices} == {Health.UNKNOWN}


def test_a_card_that_is_gone_is_lost(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    fourth = node.commands[QUERY].stdout.split("Card ")[4]  # type: ignore[union-attr]
    shorter = node.edited(QUERY, lambda text: text.replace(f"Card {fourth}", ""))
    assert read(shorter, dict(memory)).devices[3].health is Health.UNKNOWN, "the bus still shows it"
    gone = read(shorter.without_pci("0000:4b:00.0"), memory)
    assert (gone.devices[3].health, [fault.code for fault in gone.faults]) == (Health.FAILED, ["DEVICE-LOST"])


def test_without_the_tool_the_bus_still_shows_the_cards(node: RecordedMachine) -> None:
    assert [mlu.health for mlu in read(node.without_tool("cnmon")).devices] == [Health.UNKNOWN] * 8
    assert read(RecordedMachine("empty", "constructed", {})) == Reading("cambricon")


class CnDevError(Exception):
    """The binding's error."""


BUSES = ["39", "3d", "47", "4b", "a1", "a5", "b1", "b5"]


def health(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"health": 1, "driverState": 4, "incident_count": 0, "incidents": [], **changes})


def incident(code: int, result: int) -> SimpleNamespace:
    return SimpleNamespace(health=result, error=SimpleNamespace(code=code, msg="row remapping failed"))


def binding(**changes: Any) -> SimpleNamespace:
    """What gpustack-runtime's pycndev says of the recorded machine; names as in its public source."""
    calls = {
        "cndevInit": lambda: None,
        "cndevGetDeviceCount": lambda: 8,
        "cndevGetDeviceHandleByIndex": lambda index: index,
        "cndevGetPCIeBusId": lambda card: f"0000:{BUSES[card]}:00.0",
        "cndevGetUUID": lambda card: f"MLU-77013006-2457-0000-0000-00000000000{card}",
        "cndevGetCardNameByDevId": lambda card: "MLU370-X8",
        "cndevGetTemperatureInfo": lambda card: SimpleNamespace(chip=58, memory=53),
        "cndevGetDevicePowerInfo": lambda card: SimpleNamespace(usage=106, cap=250),
        "cndevGetDeviceUtilizationInfo": lambda card: SimpleNamespace(averageCoreUtilization=66),
        "cndevGetMemoryUsageV2": lambda card: SimpleNamespace(physicalMemoryUsed=17320, physicalMemoryTotal=23374),
        "cndevGetCardHealthStateV2": lambda card: health(),
    }
    return SimpleNamespace(CNDevError=CnDevError, **{**calls, **changes})


def test_the_binding_says_what_the_tool_says(node: RecordedMachine) -> None:
    reading = read(node.with_module(BINDING, binding()))
    assert reading.devices == read(node).devices
    assert (reading.faults, reading.unread) == ((), ())
    bad = binding(cndevGetCardHealthStateV2=lambda card: health(health=0) if card == 0 else health())
    by_tool = read(node.edited(QUERY, lambda text: text.replace(": Good", ": In problem", 1)))
    assert read(node.with_module(BINDING, bad)).faults == by_tool.faults


def test_incidents_are_faults_with_the_severity_of_their_result(node: RecordedMachine) -> None:
    told = [incident(21, 10), incident(34, 20), incident(99, 20)]
    with_two = binding(cndevGetCardHealthStateV2=lambda card: health(incidents=told, incident_count=2))
    reading = read(node.with_module(BINDING, with_two))
    first = [(fault.code, fault.severity) for fault in reading.faults if fault.entity == "accelerator/0"]
    assert first == [("CNDEV-INCIDENT-21", Severity.MINOR), ("CNDEV-INCIDENT-34", Severity.CRITICAL)]
    levels = [built_in().rule("cambricon", code, severity).level for code, severity in first]
    assert levels == [HandlingLevel.OBSERVE, HandlingLevel.ISOLATE]


def test_a_call_that_fails_is_named(node: RecordedMachine) -> None:
    def refuse(*_: object) -> None:
        raise CnDevError("timeout")

    broken = read(node.with_module(BINDING, binding(cndevGetCardHealthStateV2=refuse)))
    assert {mlu.health for mlu in broken.devices} == {Health.UNKNOWN}
    assert "cndevGetCardHealthStateV2: timeout" in broken.unread[0].reason
    blind = read(node.with_module(BINDING, binding(cndevGetUUID=refuse)))
    assert {mlu.health for mlu in blind.devices} == {Health.UNKNOWN}
    assert len(blind.devices) == 8, "the bus shows them"
