"""T-Head's probe on a machine put together from the manual, and by its binding."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from agents.node.probes import thead
from agents.node.probes.machine import Memory
from agents.node.probes.outline import outline
from agents.node.probes.reading import Assertion, Metric, Reading
from controlplane.catalogues import built_in
from controlplane.core.vocabulary import HandlingLevel
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine

QUERY = ("ppu-smi", "-q")
BINDING = "gpustack_runtime.detector.pyhgml"


@pytest.fixture
def node() -> RecordedMachine:
    return recorded_machine("thead", "zw810e")


def read(machine: RecordedMachine, memory: Memory | None = None) -> Reading:
    return thead.read(machine, {} if memory is None else memory)


def codes(reading: Reading) -> list[tuple[str, str]]:
    return [(fault.entity, fault.code) for fault in reading.faults]


def health(reading: Reading) -> list[str]:
    return [device.health.value for device in reading.devices]


def test_two_healthy_ppus(node: RecordedMachine) -> None:
    reading = read(node)
    assert health(reading) == ["healthy"] * 2
    assert (reading.faults, reading.unread) == ((), ())
    first = reading.devices[0]
    assert (first.serial, first.pci_address) == ("GPU-019e2226-4211-0200-0000-000000ab261d", "0000:a7:00.0")
    assert first.metrics["memory_total_bytes"] == Metric(98304.0 * 2**20)
    assert first.metrics["clock_hertz"] == Metric(1.7e9)
    assert reading.versions == {"driver": "2.1.1-rbd225", "sdk": "2.1.1"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("PPU Reset Correctable               : N/A", "PPU Reset Correctable : 384", ("XID-384", "failed")),
        ("Cold Reboot Correctable             : N/A", "Cold Reboot Correctable : 16257", ("XID-16257", "failed")),
        ("Pending                             : No", "Pending : Yes", ("PAGES-PENDING", "healthy")),
        (
            "Remapping Failure Occurred          : No",
            "Remapping Failure Occurred : Yes",
            ("ROW-REMAP-FAILED", "failed"),
        ),
        ("HW Thermal Slowdown             : Not Active", "HW Thermal Slowdown : Active", ("THERMAL", "degraded")),
        (
            "HW Power Brake Slowdown         : Not Active",
            "HW Power Brake Slowdown : Active",
            ("POWER-BRAKE", "degraded"),
        ),
        ("Current                     : 16x", "Current : 8x", ("PCIE-WIDTH", "degraded")),
    ],
)
def test_states(node: RecordedMachine, before: str, after: str, expected: tuple[str, str]) -> None:
    reading = read(node.edited(QUERY, lambda text: text.replace(before, after, 1)))
    code, state = expected
    assert codes(reading) == [("accelerator/0", code)]
    assert health(reading) == [state, "healthy"]


def test_errors_count_once_when_their_counter_grows(node: RecordedMachine) -> None:
    """Aggregate counters outlive a reboot: only growth is news."""
    memory: Memory = {}
    worse = node.edited(
        QUERY, lambda text: re.sub(r"(Aggregate(?:.*\n){4}.*DRAM Uncorrectable +: )0", r"\g<1>3", text, count=1)
    )
    assert read(worse).faults == ()
    read(node, memory)
    (fault,) = read(worse, memory).faults
    assert (fault.entity, fault.code, fault.assertion, fault.sequence) == (
        "accelerator/0", "ECC-UNCORRECTED", Assertion.ONCE, 3,
    )  # fmt: skip


def test_a_list_that_ends_early_lets_nobody_be_healthy_that_it_cut(node: RecordedMachine) -> None:
    cut = node.edited(QUERY, lambda text: text[: text.rindex("Remapping Failure")])
    assert health(read(cut)) == ["healthy", "unknown"]


def test_a_tool_that_hangs_or_is_missing(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    for broken in (node.hanging("ppu-smi"), node.without_tool("ppu-smi")):
        reading = read(broken, memory)
        assert health(reading) == ["unknown"] * 2
        assert reading.unread


def test_a_driver_that_is_not_loaded(node: RecordedMachine) -> None:
    """As T-Head's installation guide prints it."""
    text = "[ALINPU WARNING]: [../ppu_interface.cpp:654]Failed to open /dev/alixpu\ninit HGML error: driver is not loaded\n"
    reading = read(node.printing(QUERY, text, code=9))
    assert health(reading) == ["unknown"] * 2
    assert "driver is not loaded" in reading.unread[0].reason


def test_a_machine_without_ppus(node: RecordedMachine) -> None:
    assert read(node.without_pci().without_tool("ppu-smi")) == Reading("thead")


def test_a_ppu_that_a_whole_list_no_longer_has_is_lost(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    one = node.edited(QUERY, lambda text: text[: text.index("PPU 00000000:A8")].replace(": 2\n", ": 1\n"))
    reading = read(one, memory)
    assert codes(reading) == [("accelerator/1", "DEVICE-LOST")]
    assert health(reading) == ["healthy", "failed"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[alixpu] 0000:a8:00.0 Xid: 4997, PS1 2-bit uncorrected ECC error detected", ("accelerator/1", "XID-4997")),
        ("[alixpu] PPU0015 ppuid:3 XID 16257 device lost", ("node", "XID-16257")),
    ],
)
def test_the_kernel_log(node: RecordedMachine, line: str, expected: tuple[str, str]) -> None:
    """T-Head publishes the numbers and not the lines: these are constructed."""
    assert codes(read(node.with_kernel(line))) == [expected]


@pytest.mark.parametrize(
    "line", ["[alixpu] total 16 devices in ICN topo!", "[alixpu] xid 79", "NVRM: Xid (PCI:0000:a8:00): 4997, x"]
)
def test_other_lines_are_no_xids(node: RecordedMachine, line: str) -> None:
    assert read(node.with_kernel(line)).faults == ()


def test_levels_of_the_table() -> None:
    table = built_in()
    for code, level in {
        "XID-384": HandlingLevel.RESET_NOW,
        "XID-4480": HandlingLevel.REBOOT_NODE,
        "XID-16257": HandlingLevel.REBOOT_NODE,
        "XID-4997": HandlingLevel.RESTART_PROCESS,
        "XID-641": HandlingLevel.RESTART_PROCESS,
    }.items():
        assert table.rule("thead", code, "").level is level, code
    assert table.rule("thead", "XID-48", "").level is HandlingLevel.ISOLATE, "NVIDIA's numbers mean nothing here"


def test_an_outline_is_nested_by_indentation() -> None:
    top = outline("a : 1\nHead\n    b : 2\n    Deeper :\n        c : x : y\n  d : 4\nTail\n\n")
    assert top.get("a") == "1"
    assert top.get("Head", "Deeper", "c") == "x : y"
    assert top.get("Head", "d") == "4"
    assert top.part("Tail", "none") is None


def test_an_outline_of_endless_depth_ends() -> None:
    assert outline("\n".join(" " * depth + "deeper" for depth in range(5_000))).part("deeper") is not None


# --- the binding


class HGMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"HGML error {value}")
        self.value = value


class FakeHgml:
    """`pyhgml` with the facts of the recorded machine: names of https://github.com/gpustack/runtime, detector/pyhgml."""

    HGMLError = HGMLError
    HGML_TEMPERATURE_GPU, HGML_CLOCK_SM, HGML_AGGREGATE_ECC, HGML_ICNLINK_MAX_LINKS = 0, 1, 1, 18
    HGML_MEMORY_ERROR_TYPE_CORRECTED, HGML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1
    HGML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS, HGML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR = 0, 1
    HGML_ERROR_INVALID_ARGUMENT, HGML_ERROR_NOT_SUPPORTED, HGML_ERROR_GPU_IS_LOST = 2, 3, 15
    HGML_FI_DEV_MEMORY_TEMP = 82

    def __getattr__(self, name: str) -> Any:
        same = {
            "Init": None, "SystemGetDriverVersion": "2.1.1-rbd225", "DeviceGetCount": 2, "DeviceGetName": "PPU-ZW810E",
            "DeviceGetPowerUsage": 93_000, "DeviceGetEnforcedPowerLimit": 400_000, "DeviceGetClockInfo": 1700,
            "DeviceGetUtilizationRates": SimpleNamespace(gpu=38), "DeviceGetCurrPcieLinkWidth": 16,
            "DeviceGetMaxPcieLinkWidth": 16, "DeviceGetPcieReplayCounter": 0, "DeviceGetTotalEccErrors": 0,
            "DeviceGetRemappedRows": (0, 0, 0, 0), "DeviceGetCurrentClocksEventReasons": 0,
            "DeviceGetFieldValues": [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=42))],
        }  # fmt: skip
        each = {
            "DeviceGetHandleByIndex": lambda i: i,
            "DeviceGetUUID": lambda i: f"GPU-019e2226-4211-020{i}-0000-000000ab261d",
            "DeviceGetPciInfo": lambda i: SimpleNamespace(busId=f"00000000:A{7 + i}:00.0"),
            "DeviceGetTemperature": lambda i, _: 34 + i,
            "DeviceGetMemoryInfo": lambda i: SimpleNamespace(total=98304 << 20, used=(91349 << 20) * (i == 0)),
        }
        word = name.removeprefix("hgml")
        if word in each:
            return each[word]
        if word in same:
            return lambda *_: same[word]
        raise AttributeError(name)


def test_the_binding_says_what_the_tool_says(node: RecordedMachine) -> None:
    """But for what each knows alone: links and processes the library, versions of the SDK the tool."""

    def shared(reading: Reading) -> Reading:
        devices = tuple(
            replace(d, metrics={k: m for k, m in d.metrics.items() if not k.startswith(("link", "processes"))})
            for d in reading.devices
        )
        return replace(reading, devices=devices, versions={})

    by_binding = read(node.without_tool("ppu-smi").with_module(BINDING, FakeHgml()))
    assert shared(by_binding) == shared(read(node))
