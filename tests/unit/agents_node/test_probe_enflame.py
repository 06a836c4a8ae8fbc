"""Enflame's probe on recorded machines: values, and the states that its guide of alarms names."""

from __future__ import annotations

import pytest

from agents.node.probes import enflame
from agents.node.probes.machine import Memory
from agents.node.probes.reading import Health, Metric, Reading, Severity
from controlplane.catalogues import built_in
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine

QUERY = ("efsmi", "-q")


@pytest.fixture
def node() -> RecordedMachine:
    return recorded_machine("enflame", "s60x8")


def read(machine: RecordedMachine, memory: Memory | None = None) -> Reading:
    return enflame.read(machine, {} if memory is None else memory)


def test_the_published_output() -> None:
    reading = read(recorded_machine("enflame", "s60"))
    (gcu,) = reading.devices
    assert (gcu.serial, gcu.pci_address, gcu.model) == ("A0A1650510676", "0000:17:00.0", "S60")
    assert gcu.metrics["power_watts"] == Metric(96.0)
    assert gcu.metrics["memory_total_bytes"] == Metric(42976 * 2**20)
    assert [(fault.code, fault.severity) for fault in reading.faults] == [("PCIE-WIDTH", Severity.MINOR)], "X8 of X16"
    assert gcu.health is Health.DEGRADED


def test_eight_healthy_cards(node: RecordedMachine) -> None:
    reading = read(node)
    assert [gcu.index for gcu in reading.devices] == list(range(8))
    assert {gcu.health for gcu in reading.devices} == {Health.HEALTHY}
    assert (reading.faults, reading.unread, reading.versions) == ((), (), {"driver": "1.4.3.4"})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("Health                  : True", ": False", ("VENDOR-UNHEALTHY", "RETURN_TO_VENDOR", Health.FAILED)),
        ("Flags                   : False", ": True", ("RMA-FLAG", "RETURN_TO_VENDOR", Health.FAILED)),
        ("Status                  : Normal", ": Abnormal", ("POWER-CABLE", "CORDON", Health.DEGRADED)),
        ("GCU Temp                : 35 ℃", ": 97 ℃", ("THERMAL", "DEGRADED", Health.DEGRADED)),
    ],
)
def test_states_that_are_faults(
    node: RecordedMachine, before: str, after: str, expected: tuple[str, str, Health]
) -> None:
    name = before.partition(":")[0]
    reading = read(node.edited(QUERY, lambda text: text.replace(before, f"{name}{after}", 1)))
    ((entity, code),) = [(fault.entity, fault.code) for fault in reading.faults]
    assert entity == "accelerator/0"
    assert (code, built_in().rule("enflame", code, "").level.name, reading.devices[0].health) == expected


@pytest.mark.parametrize("word", ["Unknown", "", "2"])
def test_a_health_that_is_no_known_word_is_not_healthy(node: RecordedMachine, word: str) -> None:
    odd = node.edited(
        QUERY, lambda text: text.replace("Health                  : True", f"Health                  : {word}", 1)
    )
    assert read(odd).devices[0].health is not Health.HEALTHY


def test_what_a_card_does_not_have(node: RecordedMachine) -> None:
    old = node.edited(
        QUERY, lambda text: text.replace("Cur Power               : 96 W", "Cur Power               : -1", 1)
    )
    assert read(old).devices[0].metrics["power_watts"] == Metric(None, supported=False)


def test_a_card_that_is_gone_is_lost(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    third = node.commands[QUERY].stdout.split("DEV ID ")[3]  # type: ignore[union-attr]
    shorter = node.edited(QUERY, lambda text: text.replace(f"DEV ID {third}", ""))
    assert read(shorter, dict(memory)).devices[2].health is Health.UNKNOWN, "the bus still shows it"
    gone = read(shorter.without_pci("0000:31:00.0"), memory)
    assert (gone.devices[2].health, [fault.code for fault in gone.faults]) == (Health.FAILED, ["DEVICE-LOST"])


def test_without_the_tool_the_bus_still_shows_the_cards(node: RecordedMachine) -> None:
    assert [gcu.health for gcu in read(node.without_tool("efsmi")).devices] == [Health.UNKNOWN] * 8
    assert read(RecordedMachine("empty", "constructed", {})) == Reading("enflame")
