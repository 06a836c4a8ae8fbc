"""Hygon's probe on recorded machines."""

from __future__ import annotations

import json

import pytest

from agents.node.probes import hygon
from agents.node.probes.documents import document, mended
from agents.node.probes.machine import Memory
from agents.node.probes.quantity import GarbledError
from agents.node.probes.reading import Assertion, Metric, Reading
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine

DEVICE = "/sys/bus/pci/devices/0000:07:00.0"


@pytest.fixture
def node() -> RecordedMachine:
    return recorded_machine("hygon", "bw")


def read(machine: RecordedMachine, memory: Memory | None = None) -> Reading:
    return hygon.read(machine, {} if memory is None else memory)


def codes(reading: Reading) -> list[tuple[str, str]]:
    return [(fault.entity, fault.code) for fault in reading.faults]


def health(reading: Reading) -> list[str]:
    return [device.health.value for device in reading.devices]


def test_json_without_commas_is_mended_and_read(node: RecordedMachine) -> None:
    with pytest.raises(GarbledError):
        document(next(iter(node.commands.values())).stdout)  # type: ignore[union-attr]
    reading = read(node)
    assert health(reading) == ["healthy"] * 2
    assert (reading.faults, reading.unread) == ((), ())
    first = reading.devices[0]
    assert (first.serial, first.pci_address, first.model) == ("0x7100f95cee823041", "0000:07:00.0", "BW")
    assert first.metrics["temperature_celsius"] == Metric(57.0)
    assert first.metrics["power_watts"] == Metric(91.0)
    assert first.metrics["clock_hertz"] == Metric(1.35e9)
    assert first.metrics["memory_total_bytes"] == Metric(65520 * 2**20)
    assert first.metrics["ecc_corrected_total"] == Metric(3.0)
    assert reading.versions == {"driver": "6.2.23"}


def test_the_older_form_is_read_too() -> None:
    reading = read(recorded_machine("hygon", "k100"))
    assert health(reading) == ["healthy"]
    assert reading.unread == ()
    metrics = reading.devices[0].metrics
    assert metrics["utilization_ratio"].value == pytest.approx(0.07)
    assert metrics["memory_used_bytes"] == Metric(2.0 * 2**20)
    assert metrics["memory_temperature_celsius"] == Metric(None, supported=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "1""b": 2}', {"a": "1", "b": "2"}),
        ('{"a": 41.0C "b": 80W}', {"a": "41.0C", "b": "80W"}),
        ('{"a": {"": "", "": ""} "b": {}}', {"a": {"": ""}, "b": {}}),
        ('{"a": ["1" "2"]}', {"a": ["1", "2"]}),
        ('{"a": "x \\"y\\" z"}', {"a": 'x "y" z'}),
    ],
)
def test_mending(text: str, value: object) -> None:
    assert json.loads(mended(text)) == value


def test_mending_closes_nothing() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(mended('{"card0": {"a": "1"'))


def test_errors_count_once_when_their_counter_grows(node: RecordedMachine) -> None:
    memory: Memory = {}
    assert read(node, memory).faults == ()
    worse = node.with_file(f"{DEVICE}/ras/umc_err_count", "ue: 2\nce: 3\n")
    (fault,) = read(worse, memory).faults
    assert (fault.entity, fault.code, fault.assertion, fault.sequence) == (
        "accelerator/0", "ECC-UNCORRECTED", Assertion.ONCE, 2,
    )  # fmt: skip


def test_counters_of_no_known_form_are_told(node: RecordedMachine) -> None:
    reading = read(node.with_file(f"{DEVICE}/ras/umc_err_count", "uncorrected=0\n"))
    assert [entry.accelerators for entry in reading.unread] == [(0,)]


def test_lanes(node: RecordedMachine) -> None:
    reading = read(node.with_file(f"{DEVICE}/current_link_width", "8\n"))
    assert codes(reading) == [("accelerator/0", "PCIE-WIDTH")]
    assert health(reading) == ["degraded", "healthy"]


def test_a_card_in_a_narrow_slot_is_no_fault(node: RecordedMachine) -> None:
    narrow = node.with_file(f"{DEVICE}/current_link_width", "8\n").with_file(f"{DEVICE}/../max_link_width", "8\n")
    reading = read(narrow)
    assert (health(reading), reading.faults) == (["healthy"] * 2, ())


def test_a_tool_that_hangs_or_is_missing(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    for broken in (node.hanging("hy-smi"), node.without_tool("hy-smi")):
        reading = read(broken, memory)
        assert health(reading) == ["unknown"] * 2
        assert reading.unread
        assert reading.faults == ()


def test_a_machine_with_a_hygon_processor_and_without_dcus(node: RecordedMachine) -> None:
    """The processor's bridges have the same PCI vendor."""
    assert read(node.without_pci("0000:07:00.0", "0000:0a:00.0").without_tool("hy-smi")) == Reading("hygon")


def test_a_dcu_that_the_list_no_longer_has_is_lost(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    (command,) = node.commands
    one = node.edited(command, lambda text: text[: text.index(', "card1"')] + "}")
    reading = read(one, memory)
    assert codes(reading) == [("accelerator/1", "DEVICE-LOST")]
    assert health(reading) == ["healthy", "failed"]


def test_the_kernel_log(node: RecordedMachine) -> None:
    (fault,) = read(node.with_kernel("hydcu 0000:0a:00.0: hydcu: GPU reset(1) succeeded!")).faults
    assert (fault.entity, fault.code) == ("accelerator/1", "GPU-RESET")


def test_without_a_temperature_nobody_is_healthy(node: RecordedMachine) -> None:
    (command,) = node.commands
    cold = node.edited(command, lambda text: text.replace("Temperature (Sensor", "Heat (Sensor"))
    assert health(read(cold)) == ["unknown"] * 2
