"""AMD's probe on recorded machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest

from agents.node.probes import amd
from agents.node.probes.machine import Memory
from agents.node.probes.reading import Assertion, Metric, Reading
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine

LIST, METRIC, PAGES = (("amd-smi", name, "--json") for name in ("list", "metric", "bad-pages"))


@pytest.fixture
def node() -> RecordedMachine:
    return recorded_machine("amd", "mi300x")


def read(machine: RecordedMachine, memory: Memory | None = None) -> Reading:
    return amd.read(machine, {} if memory is None else memory)


def codes(reading: Reading) -> list[tuple[str, str]]:
    return [(fault.entity, fault.code) for fault in reading.faults]


def health(reading: Reading) -> list[str]:
    return [device.health.value for device in reading.devices]


def with_row(node: RecordedMachine, command: tuple[str, ...], change: Callable[[Any], None]) -> RecordedMachine:
    """The machine with its first GPU's row changed."""

    def edit(text: str) -> str:
        value = json.loads(text)
        change((value["gpu_data"] if isinstance(value, dict) else value)[0])
        return json.dumps(value)

    return node.edited(command, edit)


def test_four_healthy_gpus(node: RecordedMachine) -> None:
    reading = read(node)
    assert health(reading) == ["healthy"] * 4
    assert (reading.faults, reading.unread) == ((), ())
    fourth = reading.devices[3]
    assert (fourth.index, fourth.pci_address, fourth.model) == (3, "0000:65:00.0", "AMD Instinct MI300X")
    assert fourth.metrics["power_watts"] == Metric(693.0)
    assert fourth.metrics["memory_total_bytes"] == Metric(196592.0 * 2**20)
    assert fourth.metrics["clock_hertz"] == Metric(1.85e9)
    assert fourth.metrics["retired_pages"] == Metric(2.0)
    assert fourth.metrics["ecc_corrected_total"] == Metric(4.0)
    assert fourth.metrics["throttled"] == Metric(0.0), "a power limit is ordinary work"
    assert reading.versions == {"driver": "6.10.5"}


def test_arrays_without_a_name_are_read_too() -> None:
    older = read(recorded_machine("amd", "mi300x_rocm6"))
    assert health(older) == ["healthy"] * 2
    assert older.unread == ()


@pytest.mark.parametrize(
    ("command", "path", "value", "expected"),
    [
        (METRIC, ("throttle", "socket_thermal_violation_status"), "ACTIVE", ("THERMAL", "degraded")),
        (METRIC, ("throttle", "hbm_thermal_violation_status"), "ACTIVE", ("THERMAL", "degraded")),
        (METRIC, ("pcie", "width"), 8, ("PCIE-WIDTH", "degraded")),
        (METRIC, ("xgmi_err",), "AMDSMI_XGMI_STATUS_MULTIPLE_ERRORS", ("XGMI-ERROR", "degraded")),
        (PAGES, ("pending",), [{"page_address": "0x1", "status": "PENDING"}], ("PAGES-PENDING", "healthy")),
        (PAGES, ("un_res",), {"page_address": "0x1", "status": "UNRESERVABLE"}, ("PAGES-UNRESERVABLE", "failed")),
    ],
)
def test_states(
    node: RecordedMachine, command: tuple[str, ...], path: tuple[str, ...], value: object, expected: tuple[str, str]
) -> None:
    def change(row: Any) -> None:
        for key in path[:-1]:
            row = row[key]
        row[path[-1]] = value

    reading = read(with_row(node, command, change))
    code, state = expected
    assert codes(reading) == [("accelerator/0", code)]
    assert health(reading) == [state, *["healthy"] * 3]


def test_errors_count_once_when_their_counter_grows(node: RecordedMachine) -> None:
    memory: Memory = {}
    assert read(node, memory).faults == ()
    worse = with_row(node, METRIC, lambda row: row["ecc"].update(total_uncorrectable_count=1))
    (fault,) = read(worse, memory).faults
    assert (fault.entity, fault.code, fault.assertion) == ("accelerator/0", "ECC-UNCORRECTED", Assertion.ONCE)
    assert read(worse.again(), memory).faults == ()


def test_what_a_gpu_does_not_have(node: RecordedMachine) -> None:
    consumer = with_row(node, METRIC, lambda row: row.update(ecc={"total_uncorrectable_count": "N/A"}, xgmi_err="N/A"))
    reading = read(consumer)
    assert health(reading)[0] == "healthy"
    assert reading.devices[0].metrics["ecc_uncorrected_total"] == Metric(None, supported=False)


def test_a_state_that_nobody_knows_is_a_doubt(node: RecordedMachine) -> None:
    reading = read(with_row(node, METRIC, lambda row: row.update(xgmi_err="AMDSMI_XGMI_STATUS_BROKEN")))
    assert health(reading) == ["unknown", *["healthy"] * 3]
    assert "broken" in reading.unread[0].reason


@pytest.mark.parametrize("command", [METRIC, PAGES])
def test_a_part_that_cannot_be_read_makes_nobody_healthy(node: RecordedMachine, command: tuple[str, ...]) -> None:
    reading = read(node.printing(command, "Traceback (most recent call last):\n", code=1))
    assert health(reading) == ["unknown"] * 4
    assert " ".join(command) in {entry.source for entry in reading.unread}


def test_warnings_before_the_document_are_passed_over(node: RecordedMachine) -> None:
    assert read(node.edited(METRIC, lambda text: f"WARNING: User is missing the following groups\n{text}")) == read(
        node
    )


def test_a_tool_that_hangs_or_is_missing(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    for broken in (node.hanging("amd-smi"), node.without_tool("amd-smi")):
        reading = read(broken, memory)
        assert health(reading) == ["unknown"] * 4
        assert reading.devices[0].serial == "a0ff74a1-0000-1000-80a0-0123456789a0"
        assert reading.unread


def test_a_machine_without_gpus(node: RecordedMachine) -> None:
    assert read(node.without_pci().without_tool("amd-smi")) == Reading("amd")


def test_a_gpu_that_the_list_no_longer_has_is_lost(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    three = node.edited(LIST, lambda text: json.dumps(json.loads(text)[1:]))
    reading = read(three, memory)
    assert codes(reading) == [("accelerator/0", "DEVICE-LOST")]
    assert health(reading) == ["failed", *["healthy"] * 3]


def test_boards_that_share_a_uuid_are_told_apart(node: RecordedMachine) -> None:
    def same(text: str) -> str:
        return json.dumps([{**row, "uuid": "00ff744c-0000-1000-8000-000000000000"} for row in json.loads(text)])

    serials = [device.serial for device in read(node.edited(LIST, same)).devices]
    assert len(set(serials)) == 4
    assert serials[0] == "00ff744c-0000-1000-8000-000000000000@0000:05:00.0"


@pytest.mark.parametrize(
    ("line", "entity", "code"),
    [
        ("amdgpu 0000:26:00.0: amdgpu: GPU reset(2) succeeded!", "accelerator/1", "GPU-RESET"),
        ("amdgpu 0000:26:00.0: amdgpu: GPU Recovery Failed: -19", "accelerator/1", "GPU-RESET-FAILED"),
        ("amdgpu 0000:26:00.0: amdgpu: GPU reset end with ret = -62", "accelerator/1", "GPU-RESET-FAILED"),
        ("amdgpu 0000:26:00.0: amdgpu: ring gfx timeout, signaled seq=1, emitted seq=3", "accelerator/1", "RING-TIMEOUT"),
        (
            "amdgpu 0000:46:00.0: amdgpu: socket: 0, die: 0, 1 new uncorrectable hardware errors detected in umc block",
            "accelerator/2", "RAS-UNCORRECTABLE",
        ),
        (
            "amdgpu 0000:46:00.0: amdgpu: Saved bad pages 256 reaches threshold value 256",
            "accelerator/2", "RAS-THRESHOLD",
        ),
        ("amdgpu 0000:fe:00.0: amdgpu: GPU reset(1) succeeded!", "node", "GPU-RESET"),
    ],
)  # fmt: skip
def test_the_kernel_log(node: RecordedMachine, line: str, entity: str, code: str) -> None:
    (fault,) = read(node.with_kernel(line)).faults
    assert (fault.entity, fault.code, fault.assertion, fault.sequence) == (entity, code, Assertion.ONCE, 1)


@pytest.mark.parametrize(
    "line",
    [
        "amdgpu 0000:26:00.0: amdgpu: GPU reset end with ret = 0",
        "amdgpu 0000:26:00.0: amdgpu: ring gfx timeout, but soft recovered",
        "amdgpu 0000:46:00.0: amdgpu: 0 uncorrectable hardware errors detected in umc block",
        "amdgpu 0000:46:00.0: amdgpu: 3 correctable hardware errors detected in umc block",
    ],
)
def test_what_the_driver_also_logs(node: RecordedMachine, line: str) -> None:
    assert read(node.with_kernel(line)).faults == ()


# --- the binding


class AmdSmiException(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"Error code:\n\t{code}")
        self.err_code = code


class FakeAmdSmi:
    """`amdsmi` with the facts of mi300x: names and shapes of https://github.com/ROCm/amdsmi, py-interface."""

    AmdSmiException = AmdSmiException
    amdsmi_wrapper = SimpleNamespace(AMDSMI_STATUS_NOT_SUPPORTED=2, AMDSMI_STATUS_NO_DATA=40)
    AmdSmiTemperatureType = SimpleNamespace(HOTSPOT="hotspot", EDGE="edge", VRAM="vram")
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT=0)
    AmdSmiClkType = SimpleNamespace(GFX=0)
    AmdSmiXgmiStatus = IntEnum("AmdSmiXgmiStatus", {"NO_ERRORS": 0, "ERROR": 1, "MULTIPLE_ERRORS": 2})
    AmdSmiMemoryPageStatus = IntEnum("AmdSmiMemoryPageStatus", {"RESERVED": 0, "PENDING": 1, "UNRESERVABLE": 2})

    def __init__(self, **broken: int) -> None:
        """`broken`: error by the name of a call, for the first GPU."""
        self._broken = broken

    def __getattr__(self, name: str) -> Any:
        if name not in self._answers():
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            if name in self._broken and (not arguments or arguments[0] == 0):
                raise AmdSmiException(self._broken[name])
            return self._answers()[name](*arguments)

        return call

    def _answers(self) -> dict[str, Any]:
        buses = ("05", "26", "46", "65")
        heat = {"hotspot": 60, "vram": 52}

        def temperature(i: int, kind: str, _: int) -> int:
            if kind not in heat:
                raise AmdSmiException(2)
            return heat[kind] + i

        calm = dict.fromkeys(("active_prochot_thrm", "active_socket_thrm", "active_vr_thrm", "active_hbm_thrm"), False)
        return {
            "amdsmi_init": lambda: None,
            "amdsmi_get_processor_handles": lambda: [0, 1, 2, 3],
            "amdsmi_get_gpu_device_bdf": lambda i: f"0000:{buses[i]}:00.0",
            "amdsmi_get_gpu_device_uuid": lambda i: f"a{i}ff74a1-0000-1000-80a0-0123456789a{i}",
            "amdsmi_get_gpu_asic_info": lambda _: {"market_name": "AMD Instinct MI300X"},
            "amdsmi_get_gpu_driver_info": lambda _: {"driver_version": "6.10.5"},
            "amdsmi_get_temp_metric": temperature,
            "amdsmi_get_power_info": lambda i: {"current_socket_power": 690 + i, "average_socket_power": "N/A"},
            "amdsmi_get_gpu_vram_usage": lambda i: {"vram_total": 196592, "vram_used": 180000 + i},
            "amdsmi_get_pcie_info": lambda _: {
                "pcie_static": {"max_pcie_width": 16},
                "pcie_metric": {"pcie_width": 16, "pcie_replay_count": 0},
            },
            "amdsmi_get_gpu_total_ecc_count": lambda i: {"correctable_count": 4 * (i == 3), "uncorrectable_count": 0},
            "amdsmi_get_gpu_activity": lambda _: {"gfx_activity": 97},
            "amdsmi_get_clock_info": lambda _, __: {"clk": 1850},
            "amdsmi_get_violation_status": lambda _: {**calm, "active_ppt_pwr": True},
            "amdsmi_gpu_xgmi_error_status": lambda _: 0,
            "amdsmi_get_gpu_bad_page_info": lambda i: [{"status": 0}] * 2 if i == 3 else [],
        }


def test_the_binding_says_what_the_tool_says(node: RecordedMachine) -> None:
    by_tool, by_binding = read(node), read(node.without_tool("amd-smi").with_module("amdsmi", FakeAmdSmi()))
    assert by_binding == by_tool


def test_an_error_of_the_binding_is_a_doubt(node: RecordedMachine) -> None:
    reading = read(node.with_module("amdsmi", FakeAmdSmi(amdsmi_get_gpu_total_ecc_count=1001)))
    assert health(reading) == ["unknown", *["healthy"] * 3]


def test_a_gpu_that_the_binding_cannot_name_is_unknown(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    memory.pop("library")
    reading = read(node.with_module("amdsmi", FakeAmdSmi(amdsmi_get_gpu_device_bdf=34)), memory)
    assert health(reading) == ["unknown", *["healthy"] * 3]


def test_without_its_library_the_binding_is_left_alone(node: RecordedMachine) -> None:
    without = read(node.with_module("amdsmi", FakeAmdSmi(amdsmi_init=37)))
    assert replace(without, versions={}) == replace(read(node), versions={})
