"""Devices against the PCI bus and against before; numbers with units."""

from __future__ import annotations

import pytest

from agents.node.probes.inventory import inventory, on_the_bus, pci_address
from agents.node.probes.machine import Memory, PciDevice
from agents.node.probes.quantity import NOT_THERE, GarbledError, quantity
from agents.node.probes.reading import Device, Health, Metric
from tests.fixtures.recorded_machine import RecordedMachine


def device(index: int, serial: str = "") -> Device:
    return Device(index, serial or f"S{index}", f"0000:0{index}:00.0", "M", Health.HEALTHY)


def row(index: int) -> PciDevice:
    return PciDevice(f"0000:0{index}:00.0", "10de", "2330", "0302")


TWO, BUS = (device(0), device(1)), (row(0), row(1))


def test_everything_as_before() -> None:
    memory: Memory = {}
    for _ in range(2):
        found = inventory(TWO, BUS, memory, complete=True)
        assert (found.devices, found.faults, found.unread) == (TWO, (), ())


def test_without_a_tool_the_bus_names_the_devices() -> None:
    found = inventory((), BUS, {}, complete=False)
    assert [(d.index, d.serial, d.health) for d in found.devices] == [
        (0, "pci-0000:00:00.0", Health.UNKNOWN),
        (1, "pci-0000:01:00.0", Health.UNKNOWN),
    ]
    assert [entry.accelerators for entry in found.unread] == [(0,), (1,)]


def test_a_list_that_ends_early_makes_known_devices_unknown_and_keeps_their_names() -> None:
    memory: Memory = {}
    inventory(TWO, BUS, memory, complete=True)
    found = inventory(TWO[:1], BUS, memory, complete=False)
    assert [(d.serial, d.health) for d in found.devices] == [("S0", Health.HEALTHY), ("S1", Health.UNKNOWN)]
    assert found.faults == ()


@pytest.mark.parametrize(("bus", "complete"), [(BUS, True), (BUS[:1], True), (BUS[:1], False)])
def test_a_device_that_a_whole_list_or_the_bus_no_longer_has_is_lost(
    bus: tuple[PciDevice, ...], complete: bool
) -> None:
    memory: Memory = {}
    inventory(TWO, BUS, memory, complete=True)
    for _ in range(2):  # for as long as it stays away
        found = inventory(TWO[:1], bus, memory, complete=complete)
        assert [(d.serial, d.health) for d in found.devices] == [("S0", Health.HEALTHY), ("S1", Health.FAILED)]
        assert [(fault.entity, fault.code) for fault in found.faults] == [("accelerator/1", "DEVICE-LOST")]
    assert inventory(TWO, BUS, memory, complete=True).faults == ()


def test_a_bus_that_never_showed_anything_convicts_nobody() -> None:
    memory: Memory = {}
    inventory(TWO, (), memory, complete=True)
    found = inventory((), (), memory, complete=False)
    assert {d.health for d in found.devices} == {Health.UNKNOWN}
    assert found.faults == ()


def test_an_exchanged_device_is_not_lost() -> None:
    memory: Memory = {}
    inventory(TWO, BUS, memory, complete=True)
    for _ in range(2):
        found = inventory((device(0), device(1, "NEW")), BUS, memory, complete=True)
        assert [d.serial for d in found.devices] == ["S0", "NEW"]
        assert found.faults == ()


def test_only_accelerators_of_the_vendor_count() -> None:
    bridge = PciDevice("0000:09:00.0", "10de", "22a3", "0680")
    other = PciDevice("0000:0a:00.0", "1a03", "2000", "0300")
    machine = RecordedMachine("m", "constructed", {}, devices=(*BUS, bridge, other))
    assert on_the_bus(machine, frozenset({"10de"})) == BUS


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("00000000:C1:00.0", "0000:c1:00.0"),
        ("c1:00.0", "0000:c1:00.0"),
        ("0009:01:00.1", "0009:01:00.1"),
        ("GPU-1", None),
    ],
)
def test_addresses_have_one_form(text: str, address: str | None) -> None:
    assert pci_address(text) == address


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("700.00 W", "", 700.0),
        ("63500", "mW", 63.5),
        ("1980 MHz", "", 1.98e9),
        ("81559 MiB", "", 81559 * 2**20),
        ("98 %", "", 0.98),
        ("16x", "", 16.0),
        ("-5", "C", -5.0),
        ("41.0°C", "", 41.0),
    ],
)
def test_quantities_are_in_base_units(text: str, unit: str, value: float) -> None:
    assert quantity(text, unit).value == pytest.approx(value)


def test_what_a_device_does_not_have_is_not_a_number() -> None:
    assert [quantity(word) for word in ("N/A", "[Not Supported]", "-1", "", "-")] == [NOT_THERE] * 5
    assert Metric(None, supported=False) == NOT_THERE


@pytest.mark.parametrize("text", ["4x0 W", "12 parsecs", "W", "ERR!", "0x12", "12,5 W", "1 2"])
def test_what_is_garbled_is_said_to_be(text: str) -> None:
    with pytest.raises(GarbledError, match="no number"):
        quantity(text)
