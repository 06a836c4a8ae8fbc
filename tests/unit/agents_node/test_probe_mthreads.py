"""Moore Threads' probe on a recorded machine, and by its binding."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from agents.node.probes import mthreads
from agents.node.probes.machine import Memory
from agents.node.probes.reading import Assertion, Metric, Reading
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine

QUERY = ("mthreads-gmi", "-q", "--json")
WIDTH = "/sys/bus/pci/devices/0000:03:00.0/current_link_width"


@pytest.fixture
def node() -> RecordedMachine:
    """The published machine; its second GPU says as much as the first."""
    return changed(recorded_machine("mthreads", "x10000"), complete)


def changed(machine: RecordedMachine, change: Callable[[Any], None]) -> RecordedMachine:
    def edit(text: str) -> str:
        value = json.loads(text)
        change(value)
        return json.dumps(value)

    return machine.edited(QUERY, edit)


def complete(value: Any) -> None:
    first, second = value["GPU"]
    value["GPU"][1] = {**first, **{key: second[key] for key in ("Index", "GPU UUID", "PCI")}}


def read(machine: RecordedMachine, memory: Memory | None = None) -> Reading:
    return mthreads.read(machine, {} if memory is None else memory)


def codes(reading: Reading) -> list[tuple[str, str]]:
    return [(fault.entity, fault.code) for fault in reading.faults]


def health(reading: Reading) -> list[str]:
    return [device.health.value for device in reading.devices]


def test_the_published_output() -> None:
    """Of the second GPU the tool has no temperature: nobody knows how it is."""
    reading = read(recorded_machine("mthreads", "x10000"))
    assert health(reading) == ["healthy", "unknown"]
    first, second = reading.devices
    assert (first.index, first.serial, first.pci_address, first.model) == (0, "fixture-gpu-0", "0000:03:00.0", "X10000")
    assert first.metrics["power_watts"] == Metric(367.49)
    assert first.metrics["power_limit_watts"] == Metric(950.0)
    assert first.metrics["utilization_ratio"] == Metric(0.42)
    assert first.metrics["memory_total_bytes"] == Metric(81920.0 * 2**20)
    assert first.metrics["pcie_width"] == Metric(16.0)
    assert second.metrics["power_watts"] == Metric(None, supported=False)
    assert [entry.accelerators for entry in reading.unread] == [(1,)]
    assert reading.versions == {"driver": "3.3.8-server"}


def test_two_healthy_gpus(node: RecordedMachine) -> None:
    reading = read(node)
    assert health(reading) == ["healthy"] * 2
    assert (reading.faults, reading.unread) == ((), ())


def test_a_limit_of_nothing_is_none(node: RecordedMachine) -> None:
    older = changed(node, lambda value: value["GPU"][0]["Power Readings"].update({"Current Power Limit": "0.00W"}))
    assert read(older).devices[0].metrics["power_limit_watts"] == Metric(None, supported=False)


def test_lanes(node: RecordedMachine) -> None:
    reading = read(node.with_file(WIDTH, "8\n"))
    assert codes(reading) == [("accelerator/0", "PCIE-WIDTH")]
    assert health(reading) == ["degraded", "healthy"]


def test_fewer_gpus_than_announced_make_nobody_lost(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    reading = read(changed(node, lambda value: value["GPU"].pop()), memory)
    assert health(reading) == ["healthy", "unknown"]
    assert reading.faults == ()
    assert "announces 2" in reading.unread[0].reason


def test_a_gpu_that_a_whole_list_no_longer_has_is_lost(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)

    def without(value: Any) -> None:
        value["GPU"].pop(0)
        value["Attached GPUs"] = "1"

    reading = read(changed(node, without), memory)
    assert codes(reading) == [("accelerator/0", "DEVICE-LOST")]
    assert health(reading) == ["failed", "healthy"]


def test_a_tool_that_hangs_or_is_missing(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    for broken in (node.hanging("mthreads-gmi"), node.without_tool("mthreads-gmi")):
        reading = read(broken, memory)
        assert health(reading) == ["unknown"] * 2
        assert reading.unread


def test_a_machine_without_gpus(node: RecordedMachine) -> None:
    assert read(node.without_pci().without_tool("mthreads-gmi")) == Reading("mthreads")


# --- the binding


class MTMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"MTML error {value}")
        self.value = value


class FakeMtml:
    """`pymtml` with the facts of the recorded machine: names and shapes of https://github.com/MooreThreads/mthreads-ml-py."""

    MTMLError = MTMLError
    MTML_ERROR_INVALID_ARGUMENT, MTML_ERROR_NOT_SUPPORTED, MTML_ERROR_NO_PERMISSION, MTML_ERROR_NOT_FOUND = 3, 4, 5, 7
    MTML_ERROR_FUNCTION_NOT_FOUND, MTML_ERROR_GPU_IS_LOST, MTML_ERROR_UNKNOWN = 667, 669, 999
    MTML_AGGREGATE_ECC, MTML_MEMORY_LOCATION_DRAM = 1, 1
    MTML_MEMORY_ERROR_TYPE_CORRECTED, MTML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1

    def __init__(self, **answers: Any) -> None:
        """`answers`: what calls say of the first GPU; a number for `errors` calls is an MTML error."""
        self._changed = answers
        self.open_devices = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("mtml"):
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            if name in self._changed and (not arguments or arguments[0] == 0):
                answer = self._changed[name]
                if isinstance(answer, MTMLError):
                    raise answer
                return answer(*arguments) if callable(answer) else answer
            return self._answer(name, *arguments)

        return call

    def _answer(self, name: str, *arguments: Any) -> Any:
        buses = ("00000000:03:00.0", "00000000:07:00.0")
        if name in ("mtmlMemoryGetEccErrorCounter", "mtmlMemoryGetRetiredPagesCount", "mtmlDeviceGetMtLinkSpec"):
            raise MTMLError(self.MTML_ERROR_NOT_SUPPORTED)
        if name == "mtmlMemoryGetRetiredPagesPendingStatus":
            raise MTMLError(self.MTML_ERROR_NOT_SUPPORTED)
        self.open_devices += {"mtmlLibraryInitDeviceByIndex": 1, "mtmlLibraryFreeDevice": -1}.get(name, 0)
        index = arguments[0] if arguments else None
        same = {
            "mtmlLibraryCountDevice": 2, "mtmlSystemGetDriverVersion": "3.3.8-server", "mtmlDeviceGetName": "X10000",
            "mtmlDeviceGetPowerUsage": 367490, "mtmlGpuGetTemperature": 34, "mtmlGpuGetUtilization": 42,
            "mtmlGpuGetClock": 1750, "mtmlMemoryGetUsed": 1024 << 20, "mtmlMemoryGetTotal": 81920 << 20,
        }  # fmt: skip
        if name in same:
            return same[name]
        if name == "mtmlDeviceGetUUID":
            return f"fixture-gpu-{0 if index == 0 else 3}"
        if name == "mtmlDeviceGetPciInfo":
            return SimpleNamespace(sbdf=buses[index or 0])
        return index


def test_the_binding_says_what_the_tool_says(node: RecordedMachine) -> None:
    """All that the tool knows; the limit of power it knows alone."""

    def comparable(reading: Reading) -> Reading:
        devices = tuple(
            replace(
                d,
                metrics={
                    k: (round(m.value, 6) if m.value else m.value) for k, m in d.metrics.items() if "limit" not in k
                },
            )
            for d in reading.devices
        )
        return replace(reading, devices=devices)

    library = FakeMtml()
    by_binding = read(node.without_tool("mthreads-gmi").with_module("pymtml", library))
    assert comparable(by_binding) == comparable(read(node))
    assert library.open_devices == 0, "handles are given back"


def test_errors_pages_and_links_by_the_binding(node: RecordedMachine) -> None:
    counters = {1: 0}
    library = FakeMtml(
        mtmlMemoryGetEccErrorCounter=lambda _, kind, *__: counters[1] if kind == 1 else 5,
        mtmlMemoryGetRetiredPagesCount=SimpleNamespace(singleBitEcc=1, doubleBitEcc=2),
        mtmlMemoryGetRetiredPagesPendingStatus=1,
        mtmlDeviceGetMtLinkSpec=SimpleNamespace(linkNum=4),
        mtmlDeviceGetMtLinkState=lambda _, number: (1, 1, 2, 0)[number],
    )
    memory: Memory = {}
    machine = node.with_module("pymtml", library)
    first = read(machine, memory)
    assert codes(first) == [("accelerator/0", "PAGES-PENDING"), ("accelerator/0", "LINK-SLOW")]
    metrics = first.devices[0].metrics
    assert (metrics["retired_pages"].value, metrics["link_up"].value, metrics["link_total"].value) == (3, 3, 4)
    counters[1] = 1
    (fault,) = [fault for fault in read(machine, memory).faults if fault.assertion is Assertion.ONCE]
    assert (fault.code, fault.sequence) == ("ECC-UNCORRECTED", 1)


def test_a_lost_gpu_by_the_binding(node: RecordedMachine) -> None:
    reading = read(node.with_module("pymtml", FakeMtml(mtmlGpuGetTemperature=MTMLError(669))))
    assert codes(reading) == [("accelerator/0", "DEVICE-LOST")]
    assert health(reading) == ["failed", "healthy"]


def test_an_error_that_nobody_knows_is_a_doubt(node: RecordedMachine) -> None:
    reading = read(node.with_module("pymtml", FakeMtml(mtmlMemoryGetEccErrorCounter=MTMLError(999))))
    assert health(reading) == ["unknown", "healthy"]


def test_without_its_library_the_binding_is_left_alone(node: RecordedMachine) -> None:
    assert read(node.with_module("pymtml", FakeMtml(mtmlLibraryInit=MTMLError(1)))) == read(node)
