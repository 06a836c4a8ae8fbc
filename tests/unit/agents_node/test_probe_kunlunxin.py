"""Kunlunxin's probe on recorded machines, and Intel's tool of the same name beside it."""

from __future__ import annotations

import pytest

from agents.node.probes import kunlunxin
from agents.node.probes.machine import Memory
from agents.node.probes.reading import Assertion, Health, Metric, Reading
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine

TABLE = ("xpu-smi",)
INTEL = """
+----------------------------------------------+----------------------------+------------------------+
|            Intel XPU-SMI v2.0    Driver: 96E1802BAF7F7118043A89B    Level Zero: 1.32.0             |
+----------------------------------------------+----------------------------+------------------------+
"""


@pytest.fixture
def node() -> RecordedMachine:
    return recorded_machine("kunlunxin", "p800x8")


def read(machine: RecordedMachine, memory: Memory | None = None) -> Reading:
    return kunlunxin.read(machine, {} if memory is None else memory)


def test_the_published_table(node: RecordedMachine) -> None:
    reading = read(node)
    assert {xpu.health for xpu in reading.devices} == {Health.HEALTHY}
    assert (reading.faults, reading.unread, reading.versions) == ((), (), {"driver": "515.58"})
    fifth = reading.devices[4]
    assert (fifth.serial, fifth.pci_address, fifth.model) == ("02K0MA0258D00074", "0000:9a:00.0", "P800 OAM")
    assert fifth.metrics["power_limit_watts"] == Metric(400.0)
    assert fifth.metrics["memory_total_bytes"] == Metric(98304 * 2**20), "device memory and not L3"


def test_intels_tool_is_not_read(node: RecordedMachine) -> None:
    reading = read(node.printing(TABLE, INTEL))
    assert {xpu.health for xpu in reading.devices} == {Health.UNKNOWN}
    assert "Intel" in reading.unread[0].reason
    assert read(node.printing(TABLE, INTEL).without_pci()) == Reading("kunlunxin"), (
        "an Intel machine has no Kunlunxin XPU"
    )


def test_uncorrectable_errors_that_grow_are_an_event(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    grown = node.edited(
        TABLE,
        lambda text: text.replace(
            "00000000:63:00.0 N/A |                    0", "00000000:63:00.0 N/A |                    3"
        ),
    )
    (event,) = read(grown, memory).faults
    assert (event.entity, event.code, event.assertion) == ("accelerator/2", "ECC-UNCORRECTED", Assertion.ONCE)


def test_serial_numbers_are_asked_for_once(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    reading = read(node.printing(("xpu-smi", "-q"), "nothing"), memory)
    assert reading.devices[0].serial == "02K0MA0258D00070"
    nameless = read(node.printing(("xpu-smi", "-q"), "nothing"))
    assert nameless.devices[0].health is Health.UNKNOWN, "a device without a name is not trusted"


def test_a_device_that_is_gone_is_lost(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)

    def without_the_last(text: str) -> str:
        lines = text.splitlines(keepends=True)
        at = next(number for number, line in enumerate(lines) if "00000000:AB:00.0" in line)
        return "".join(lines[:at] + lines[at + 4 :])

    gone = read(node.edited(TABLE, without_the_last).without_pci("0000:ab:00.0"), memory)
    assert (gone.devices[7].health, [fault.code for fault in gone.faults]) == (Health.FAILED, ["DEVICE-LOST"])


def test_without_the_tool_the_bus_still_shows_the_devices(node: RecordedMachine) -> None:
    assert [xpu.health for xpu in read(node.without_tool("xpu-smi")).devices] == [Health.UNKNOWN] * 8
