"""Ascend's probe on recorded machines: what it sees, what it makes of it, and that both ways to read say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from agents.node.probes import ascend
from agents.node.probes.machine import Memory, Output
from agents.node.probes.reading import Assertion, Health, Metric, Reading, Severity
from controlplane.catalogues import built_in
from controlplane.core.health.catalogue import Frequency
from controlplane.core.vocabulary import HandlingLevel
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine

TABLE = ("npu-smi", "info")


def detail(kind: str, card: int = 0, chip: int = 0) -> tuple[str, ...]:
    return ("npu-smi", "info", "-i", str(card), "-c", str(chip), "-t", kind)


@pytest.fixture
def node() -> RecordedMachine:
    return recorded_machine("ascend", "documented")


@pytest.fixture
def superpod() -> RecordedMachine:
    return recorded_machine("ascend", "a3")


def read(machine: RecordedMachine, memory: Memory | None = None) -> Reading:
    return ascend.read(machine, {} if memory is None else memory)


def later(machine: RecordedMachine, seconds: int = 60) -> RecordedMachine:
    return replace(machine, clock_ns=machine.clock_ns + seconds * 1_000_000_000)


class Slow:
    """A recorded machine whose tools take a second each."""

    def __init__(self, machine: RecordedMachine) -> None:
        self._machine, self.took_s = machine, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def run(self, command: Sequence[str], timeout_s: float = 10.0) -> Output:
        self.took_s += 1
        return self._machine.run(command, timeout_s)

    def now_ns(self) -> int:
        return self._machine.clock_ns + self.took_s * 1_000_000_000


def codes(reading: Reading) -> list[tuple[str, str, Severity]]:
    return [(fault.entity, fault.code, fault.severity) for fault in reading.faults]


def test_the_documented_machine(node: RecordedMachine) -> None:
    reading = read(node)
    (npu,) = reading.devices
    assert (npu.serial, npu.pci_address) == ("42C711D4-20B03704-4A10C8D4-14CC040A-D2102003", "0000:61:00.0")
    assert npu.health is Health.HEALTHY
    assert npu.metrics["power_watts"] == Metric(73.1)
    assert npu.metrics["memory_total_bytes"] == Metric(32768 * 2**20), "HBM and not DDR"
    assert npu.metrics["link_up"] == Metric(1.0)
    assert (reading.faults, reading.unread) == ((), ())
    assert reading.versions == {"npu-smi": "23.0.5", "driver": "23.0.5", "firmware": "7.1.0.7.220"}


def test_sixteen_dies_in_the_order_of_their_ids_and_not_of_the_bus(superpod: RecordedMachine) -> None:
    reading = read(superpod)
    assert [npu.index for npu in reading.devices] == list(range(16))
    assert reading.devices[1].pci_address == "0000:9f:00.0"
    assert reading.devices[1].metrics["power_watts"] == Metric(None, supported=False), "one sensor for both dies"
    assert {npu.health for npu in reading.devices} == {Health.HEALTHY}


@pytest.mark.parametrize(
    ("state", "told", "expected"),
    [
        ("Warning", "80E01809", [("80E01809", Severity.MINOR)]),
        ("Alarm", "80E01801 80C98008", [("80E01801", Severity.MAJOR), ("80C98008", Severity.MAJOR)]),
        ("Critical", "80E0020B", [("80E0020B", Severity.CRITICAL)]),
        ("OK", "81078603", [("81078603", Severity.HINT)]),
        ("Alarm", "NA", [("VENDOR-UNHEALTHY", Severity.MAJOR)]),
        ("Warning", "NA", [("VENDOR-WARNING", Severity.MINOR)]),
    ],
)
def test_codes_have_at_most_the_severity_of_the_state(
    node: RecordedMachine, state: str, told: str, expected: list[tuple[str, Severity]]
) -> None:
    sick = node.edited(
        detail("health"), lambda text: text.replace(": OK", f": {state}").replace(": NA", f": {told}", 1)
    )
    assert codes(read(sick)) == [("accelerator/0", code, severity) for code, severity in expected]


def test_a_state_that_nobody_knows_is_not_healthy(node: RecordedMachine) -> None:
    (npu,) = read(node.edited(TABLE, lambda text: text.replace("| OK ", "| Mauve "))).devices
    assert npu.health is Health.UNKNOWN


def test_a_port_that_is_down(superpod: RecordedMachine) -> None:
    down = superpod.printing(("hccn_tool", "-i", "5", "-link", "-g"), "link status: DOWN\n")
    reading = read(down)
    assert codes(reading) == [("accelerator/5", "81078603", Severity.MINOR)]
    assert reading.devices[5].metrics["link_up"] == Metric(0.0)


def test_a_chip_that_the_table_no_longer_names_is_lost(superpod: RecordedMachine) -> None:
    memory: Memory = {}
    read(superpod, memory)

    def without_the_fourth(text: str) -> str:
        lines = text.splitlines(keepends=True)
        at = next(number for number, line in enumerate(lines) if "0000:9B:00.0" in line)
        return "".join(lines[: at - 2] + lines[at + 1 :])

    lost = superpod.edited(TABLE, without_the_fourth).without_pci("0000:9b:00.0")
    reading = read(lost, memory)
    assert [npu.index for npu in reading.devices] == list(range(16)), "nobody moves"
    assert reading.devices[3].health is Health.FAILED
    assert codes(reading) == [("accelerator/3", "DEVICE-LOST", Severity.CRITICAL)]


def test_without_the_tool_the_bus_still_shows_the_chips(superpod: RecordedMachine) -> None:
    reading = read(superpod.without_tool("npu-smi"))
    assert len(reading.devices) == 16, "the management controller's display is no chip"
    assert {npu.health for npu in reading.devices} == {Health.UNKNOWN}
    assert "not installed" in reading.unread[0].reason


def test_a_detail_that_hangs_makes_one_chip_unknown(superpod: RecordedMachine) -> None:
    hangs = replace(superpod, commands={**superpod.commands, detail("health", 3, 1): "gave no answer within 10 s"})
    reading = read(hangs)
    assert [npu.index for npu in reading.devices if npu.health is Health.UNKNOWN] == [7]
    assert [entry.accelerators for entry in reading.unread] == [(7,)]


def test_uncorrectable_errors_that_grow_are_one_event(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    line = "HBM Double Bit Aggregate Total Err Cnt   : "
    grown = node.edited(detail("ecc"), lambda text: text.replace(f"{line}0", f"{line}2"))
    assert read(grown, memory).faults == (), "its turn has not come again"
    grown = later(grown)
    (event,) = read(grown, memory).faults
    assert (event.code, event.assertion, event.sequence) == ("ECC-UNCORRECTED", Assertion.ONCE, 2)
    assert read(later(grown), memory).faults == ()


def test_a_slow_tool_is_asked_in_turns_and_every_chip_has_its_turn(superpod: RecordedMachine) -> None:
    """npu-smi takes a second for each answer: a reading asks for six seconds, and goes on where it stopped."""
    slow, memory = Slow(superpod), {}
    first = ascend.read(slow, memory)
    assert slow.took_s <= 7, "well within the deadline of the process"
    assert {npu.health for npu in first.devices} == {Health.HEALTHY, Health.UNKNOWN}
    for _ in range(30):
        reading = ascend.read(slow, memory)
    assert {npu.health for npu in reading.devices} == {Health.HEALTHY}
    assert all("ecc_corrected_total" in npu.metrics and "link_up" in npu.metrics for npu in reading.devices)
    before = slow.took_s
    ascend.read(slow, memory)
    assert slow.took_s - before <= 8


def test_a_machine_without_ascend_is_empty() -> None:
    assert read(RecordedMachine("empty", "constructed", {})) == Reading("ascend")


class Unsupported(Exception):
    value = -8255


def binding(**changes: Any) -> SimpleNamespace:
    """What gpustack-runtime's pydcmi says of the documented machine; names as in its public source."""
    ecc = SimpleNamespace(
        total_single_bit_error_cnt=0, total_double_bit_error_cnt=0, single_bit_isolated_pages_cnt=0,
        double_bit_isolated_pages_cnt=0,
    )  # fmt: skip
    calls = {
        "dcmi_init": lambda: None,
        "dcmi_get_card_list": lambda: (1, [0]),
        "dcmi_get_device_num_in_card": lambda card: 1,
        "dcmi_get_device_bdf": lambda card, chip: "0000:61:00.0",
        "dcmi_get_device_chip_info_v2": lambda card, chip: SimpleNamespace(chip_name="xxx"),
        "dcmi_get_device_die_v2": lambda card, chip, kind: "42c711d4 20b03704 4a10c8d4 14cc040a d2102003",
        "dcmi_get_device_temperature": lambda card, chip: 37,
        "dcmi_get_device_power_info": lambda card, chip: 731,
        "dcmi_get_device_utilization_rate": lambda card, chip, kind: 0,
        "dcmi_get_device_hbm_info": lambda card, chip: SimpleNamespace(memory_usage=0, memory_size=32768),
        "dcmi_get_device_ecc_info": lambda card, chip, kind: ecc,
        "dcmi_get_device_health": lambda card, chip: 0,
        "dcmi_get_device_errorcode_v2": lambda card, chip: [],
    }
    return SimpleNamespace(DCMIError=Unsupported, **{**calls, **changes})


def test_the_binding_says_what_the_tool_says(node: RecordedMachine) -> None:
    by_tool, by_binding = read(node), read(node.with_module("gpustack_runtime.detector.pydcmi", binding()))
    assert by_binding.devices == by_tool.devices
    assert by_binding.unread == ()
    sick = binding(
        dcmi_get_device_health=lambda card, chip: 2, dcmi_get_device_errorcode_v2=lambda card, chip: [0x80E01801]
    )
    assert codes(read(node.with_module("gpustack_runtime.detector.pydcmi", sick))) == codes(
        read(
            node.edited(detail("health"), lambda text: text.replace(": OK", ": Alarm").replace(": NA", ": 80E01801", 1))
        )
    )


def test_a_call_that_fails_is_named_and_one_that_is_not_supported_is_no_doubt(node: RecordedMachine) -> None:
    def refuse(value: int) -> Any:
        def call(*_: int) -> None:
            error = Unsupported("no")
            error.value = value
            raise error

        return call

    without = node.with_module("gpustack_runtime.detector.pydcmi", binding(dcmi_get_device_power_info=refuse(-8255)))
    (npu,) = read(without).devices
    assert (npu.health, npu.metrics["power_watts"]) == (Health.HEALTHY, Metric(None, supported=False))
    broken = node.with_module("gpustack_runtime.detector.pydcmi", binding(dcmi_get_device_health=refuse(-8005)))
    reading = read(broken)
    assert reading.devices[0].health is Health.UNKNOWN
    assert "dcmi_get_device_health" in reading.unread[0].reason


def test_levels_and_rules_are_the_published_ones() -> None:
    table = built_in()
    day_ms, release_ms = 86_400_000, 172_800_000
    port = table.rule("ascend", "81078603", "hint")
    assert (port.level, port.debounce_ms) == (HandlingLevel.CORDON, 20_000)
    assert port.frequency == Frequency(5, day_ms, release_ms, HandlingLevel.ISOLATE)
    memory = table.rule("ascend", "80E01801", "major")
    assert (memory.level, memory.frequency) == (
        HandlingLevel.RESTART_PROCESS,
        Frequency(2, day_ms, release_ms, HandlingLevel.ISOLATE),
    )
    levels = {
        code: table.rule("ascend", code, "").level.name for code in ("80818C00", "80E18402", "80FA4E00", "80C98008")
    }
    assert levels == {"80818C00": "ISOLATE", "80E18402": "ISOLATE", "80FA4E00": "RESET_NOW", "80C98008": "RETRY_STEP"}
    assert len(table.related("ascend", "81078603")) == 4
