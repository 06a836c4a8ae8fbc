"""NVIDIA's probe on recorded machines: what it sees, what it makes of it, and that both ways to read say the same."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from agents.node.probes import nvidia
from agents.node.probes.machine import Memory
from agents.node.probes.reading import Assertion, Metric, Reading
from controlplane.catalogues import built_in
from controlplane.core.vocabulary import HandlingLevel
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine

QUERY = ("nvidia-smi", "-q", "-x")
LINKS = ("nvidia-smi", "nvlink", "-s")


@pytest.fixture
def node() -> RecordedMachine:
    return recorded_machine("nvidia", "h100x8")


def read(machine: RecordedMachine, memory: Memory | None = None) -> Reading:
    return nvidia.read(machine, {} if memory is None else memory)


def codes(reading: Reading) -> list[tuple[str, str]]:
    return [(fault.entity, fault.code) for fault in reading.faults]


def health(reading: Reading) -> list[str]:
    return [device.health.value for device in reading.devices]


def test_eight_healthy_gpus(node: RecordedMachine) -> None:
    reading = read(node)
    assert health(reading) == ["healthy"] * 8
    assert (reading.faults, reading.unread) == ((), ())
    third = reading.devices[2]
    assert (third.index, third.serial, third.pci_address) == (
        2,
        "GPU-00000002-1111-2222-3333-444444444444",
        "0000:3a:00.0",
    )
    assert third.metrics["power_watts"] == Metric(642.5)
    assert third.metrics["memory_total_bytes"] == Metric(81559 * 2**20)
    assert third.metrics["retired_pages"] == Metric(1.0)
    assert third.metrics["link_up"] == Metric(18.0)
    assert reading.versions == {"driver": "575.57.08", "cuda": "12.9", "vbios": "96.00.89.00.01"}


def test_published_outputs_of_three_generations() -> None:
    a100, t4, ada = (read(recorded_machine("nvidia", name)) for name in ("a100", "t4", "ada"))
    assert health(a100) == health(ada) == ["healthy"]
    assert a100.devices[0].metrics["utilization_ratio"] == Metric(None, supported=False), "MIG has no utilisation"
    assert ada.devices[0].metrics["ecc_uncorrected_total"] == Metric(None, supported=False)
    assert t4.devices[0].metrics["retired_pages"] == Metric(0.0)
    assert health(t4) == ["degraded"]
    assert codes(t4) == [("accelerator/0", "PCIE-WIDTH")]
    assert a100.unread == t4.unread == ada.unread == ()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("<gpu_recovery_action>None", "<gpu_recovery_action>Reset", ("RECOVERY-RESET", "critical", "failed")),
        ("<gpu_recovery_action>None", "<gpu_recovery_action>Reboot", ("RECOVERY-REBOOT", "critical", "failed")),
        ("<gpu_recovery_action>None", "<gpu_recovery_action>Drain P2P", ("RECOVERY-DRAIN-P2P", "major", "degraded")),
        (
            "<gpu_recovery_action>None",
            "<gpu_recovery_action>Drain and Reset",
            ("RECOVERY-DRAIN-RESET", "major", "degraded"),
        ),
        ("<remapped_row_failure>No", "<remapped_row_failure>Yes", ("ROW-REMAP-FAILED", "critical", "failed")),
        ("<remapped_row_pending>No", "<remapped_row_pending>Yes", ("PAGES-PENDING", "hint", "healthy")),
        ("<sram_threshold_exceeded>No", "<sram_threshold_exceeded>Yes", ("SRAM-THRESHOLD", "critical", "failed")),
        ("<current_link_width>16x", "<current_link_width>4x", ("PCIE-WIDTH", "minor", "degraded")),
        ("hw_thermal_slowdown>Not Active", "hw_thermal_slowdown>Active", ("THERMAL", "major", "degraded")),
        ("sw_thermal_slowdown>Not Active", "sw_thermal_slowdown>Active", ("THERMAL", "minor", "degraded")),
        ("power_brake_slowdown>Not Active", "power_brake_slowdown>Active", ("POWER-BRAKE", "major", "degraded")),
        ("<state>Completed", "<state>In Progress", ("FABRIC-NOT-READY", "major", "degraded")),
        ("<status>Success", "<status>Unknown Error", ("FABRIC-ERROR", "major", "degraded")),
        ("<summary>Healthy", "<summary>Limited Capacity", ("FABRIC-ERROR", "major", "degraded")),
        ("<gpu_temp>52 C", "<gpu_temp>GPU is lost", ("DEVICE-LOST", "critical", "failed")),
        ("<gpu_temp>52 C", "<gpu_temp>GPU requires reset", ("RECOVERY-RESET", "critical", "failed")),
    ],
)
def test_states_of_the_driver(node: RecordedMachine, before: str, after: str, expected: tuple[str, str, str]) -> None:
    """Of the first GPU; the other seven are as they were."""
    reading = read(node.edited(QUERY, lambda text: text.replace(before, after, 1)))
    code, severity, state = expected
    assert codes(reading) == [("accelerator/0", code)]
    assert reading.faults[0].severity == severity
    assert health(reading) == [state, *["healthy"] * 7]


def test_what_the_driver_says_and_nobody_knows_is_a_doubt(node: RecordedMachine) -> None:
    reading = read(node.edited(QUERY, lambda text: text.replace("action>None", "action>Replace Board", 1)))
    assert health(reading)[0] == "unknown"
    assert [entry.accelerators for entry in reading.unread] == [(0,)]
    assert "replace board" in reading.unread[0].reason


def test_errors_count_once_when_their_counter_grows(node: RecordedMachine) -> None:
    memory: Memory = {}
    counter = "<dram_uncorrectable>0<"
    assert read(node, memory).faults == ()
    worse = node.edited(QUERY, lambda text: text.replace(counter, "<dram_uncorrectable>2<", 1))
    (fault,) = read(worse, memory).faults
    assert (fault.entity, fault.code, fault.assertion, fault.sequence) == (
        "accelerator/0", "ECC-UNCORRECTED", Assertion.ONCE, 2,
    )  # fmt: skip
    assert read(worse.again(), memory).faults == ()


def test_a_link_that_is_down_is_seen_against_its_sisters(node: RecordedMachine) -> None:
    down = node.edited(LINKS, lambda text: text.replace("Link 7: 26.562 GB/s", "Link 7: <inactive>", 1))
    reading = read(down)
    assert codes(reading) == [("accelerator/0", "LINK-DOWN")]
    assert reading.devices[0].metrics["link_up"] == Metric(17.0)


def test_a_gpu_whose_links_are_all_inactive_is_seen_against_its_sisters(node: RecordedMachine) -> None:
    """As https://github.com/leptonai/gpud issue 1085 and others publish it: one line instead of eighteen."""
    line = "\t NVML: Unable to retrieve NVLink information as all links are inActive\n"
    dark = node.edited(LINKS, lambda text: re.sub(r"(\t Link \d+: 26.562 GB/s\n){18}", line, text, count=1))
    reading = read(dark)
    assert codes(reading) == [("accelerator/0", "LINK-DOWN")]
    assert reading.faults[0].message == "0 links are up, 18 should be"


def test_boards_that_are_bridged_in_pairs_are_no_fault(node: RecordedMachine) -> None:
    """Six have links to each other, two have none, from the start."""
    line = "\t NVML: Unable to retrieve NVLink information as all links are inActive\n"
    pairs = node.edited(LINKS, lambda text: re.sub(r"(\t Link \d+: 26.562 GB/s\n){18}", line, text, count=2))
    assert read(pairs).faults == ()


def test_a_list_of_links_that_ends_early_convicts_nobody(node: RecordedMachine) -> None:
    short = node.edited(LINKS, lambda text: "".join(text.splitlines(keepends=True)[:30]))
    reading = read(short)
    assert health(reading) == ["healthy", "unknown", *["healthy"] * 6]
    assert reading.faults == ()
    assert [entry.accelerators for entry in reading.unread] == [(index,) for index in range(1, 8)]


def test_links_that_are_down_everywhere_are_seen_against_before(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    dead = node.edited(LINKS, lambda text: re.sub(r"Link (\d+): [\d.]+ GB/s", r"Link \1: <inactive>", text))
    assert codes(read(dead, memory)) == [(f"accelerator/{index}", "LINK-DOWN") for index in range(8)]
    assert read(dead.again()).faults == (), "boards whose links were never up are not wired"


def test_links_that_cannot_be_read_make_nobody_healthy(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    strange = node.printing(LINKS, "NVML: Driver/library version mismatch\n", code=255)
    reading = read(strange, memory)
    assert health(reading) == ["unknown"] * 8
    assert "version mismatch" in reading.unread[0].reason


def test_a_tool_that_hangs(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    reading = read(node.hanging("nvidia-smi"), memory)
    assert health(reading) == ["unknown"] * 8
    assert [device.serial for device in reading.devices] == [device.serial for device in read(node).devices]
    assert "gave no answer" in reading.unread[0].reason
    assert reading.faults == ()


def test_a_machine_without_the_driver(node: RecordedMachine) -> None:
    reading = read(node.without_tool("nvidia-smi"))
    assert health(reading) == ["unknown"] * 8
    assert reading.devices[7].pci_address == "0000:db:00.0"
    assert "not installed" in reading.unread[0].reason


def test_a_machine_without_gpus(node: RecordedMachine) -> None:
    assert read(node.without_pci().without_tool("nvidia-smi")) == Reading("nvidia")
    nothing = node.without_pci().printing(QUERY, "No devices were found\n", code=6)
    assert read(nothing) == Reading("nvidia")


def test_a_gpu_that_the_list_no_longer_has_is_lost_and_the_others_keep_their_place(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    seven = node.edited(QUERY, lambda text: re.sub(r"\t<gpu id=\"00000000:3A.*?</gpu>\n", "", text, flags=re.S))
    seven = seven.edited(QUERY, lambda text: text.replace("<attached_gpus>8", "<attached_gpus>7"))
    reading = read(seven, memory)
    assert codes(reading) == [("accelerator/2", "DEVICE-LOST")]
    assert health(reading) == ["healthy", "healthy", "failed", *["healthy"] * 5]
    assert [device.index for device in reading.devices] == list(range(8))


def test_a_tool_that_refuses_because_of_one_gpu_is_asked_for_each(node: RecordedMachine) -> None:
    """What nvidia-smi prints when a GPU has fallen off the bus: it lists none."""
    output = node.commands[QUERY]
    assert not isinstance(output, str)
    head = output.stdout[: output.stdout.index("\t<gpu id")]
    elements = re.findall(r"\t<gpu id=.*?</gpu>\n", output.stdout, flags=re.S)
    refusal = "Unable to determine the device handle for GPU0000:18:00.0: Unknown Error\n"
    broken = node.printing(QUERY, refusal, code=255)
    for row, element in zip([d for d in node.devices if d.kind == "0302"], elements, strict=True):
        single = (*QUERY, "-i", row.address)
        bad = row.address == "0000:18:00.0"
        broken = broken.printing(
            single, refusal if bad else f"{head}{element}</nvidia_smi_log>\n", code=255 if bad else 0
        )
    reading = read(
        broken.with_kernel(
            "NVRM: Xid (PCI:0000:18:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
        )
    )
    assert health(reading) == ["unknown", *["healthy"] * 7]
    assert codes(reading) == [("accelerator/0", "XID-79")]
    assert "Unable to determine" in reading.unread[0].reason


@pytest.mark.parametrize(
    ("line", "entity", "code", "severity"),
    [
        ("NVRM: Xid (PCI:0000:18:00): 79, pid=1, GPU has fallen off the bus.", "accelerator/0", "XID-79", ""),
        ("NVRM: Xid (0000:2a:00): 14, Channel 00000001", "accelerator/1", "XID-14", ""),
        ("NVRM: GPU 0000:3a:00.0: GPU has fallen off the bus.", "accelerator/2", "XID-79", ""),
        ("NVRM: Xid (PCI:0000:ff:00): 31, pid=123", "node", "XID-31", ""),
        (
            "NVRM: Xid (PCI:0000:2a:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 00 (0x025001c6 0x00000000)",
            "accelerator/1", "XID-149", "",
        ),
        (
            "NVRM: Xid (PCI:0000:2a:00): 145, RLW_CTRL Nonfatal XC0 i0 Link 00 (0x00000003 0x80000000)",
            "accelerator/1", "XID-145-NONFATAL", "minor",
        ),
        (
            "NVRM: Xid (PCI:0000:2a:00): 154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)",
            "accelerator/1", "XID-154-DRAIN-RESET", "",
        ),
        (
            "nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)",
            "node", "SXID-12028", "minor",
        ),
        ("nvidia-nvswitch0: SXid (PCI:0000:00:00.0): 20034, Fatal, Link 30 LTSSM Fault Up", "node", "SXID-20034", "critical"),
    ],
)  # fmt: skip
def test_the_kernel_log(node: RecordedMachine, line: str, entity: str, code: str, severity: str) -> None:
    """Lines as NVIDIA's guide and https://github.com/leptonai/gpud (xid and sxid tests) publish them."""
    (fault,) = read(node.with_kernel("usb 1-1: new device", line)).faults
    assert (fault.entity, fault.code, fault.severity.value) == (entity, code, severity)
    assert (fault.assertion, fault.sequence, fault.raised_ns) == (Assertion.ONCE, 2, node.clock_ns)


def test_one_event_in_many_lines_counts_once(node: RecordedMachine) -> None:
    lines = [f"NVRM: Xid (PCI:0000:18:00): 13, pid=7, Graphics SM Warp Exception on (GPC {n})" for n in range(12)]
    memory: Memory = {}
    busy = node.with_kernel(*lines)
    (fault,) = read(busy, memory).faults
    assert fault.sequence == 12
    assert fault.message.endswith("(12 lines)")
    assert read(busy, memory).faults == (), "told once"


def test_a_kernel_log_that_cannot_be_read_is_a_blind_spot(node: RecordedMachine) -> None:
    reading = read(node.with_unreadable_kernel())
    assert [(entry.source, entry.events_only) for entry in reading.unread] == [("kernel log", True)]
    assert health(reading) == ["healthy"] * 8


def test_levels_of_the_table() -> None:
    table = built_in()
    for code, level in {
        "XID-13": HandlingLevel.RESTART_PROCESS,
        "XID-48": HandlingLevel.RESET_NOW,
        "XID-79": HandlingLevel.REBOOT_NODE,
        "XID-94": HandlingLevel.RESTART_PROCESS,
        "XID-95": HandlingLevel.RESET_NOW,
        "XID-149-NONFATAL": HandlingLevel.OBSERVE,
        "XID-154-REBOOT": HandlingLevel.REBOOT_NODE,
        "ROW-REMAP-FAILED": HandlingLevel.RETURN_TO_VENDOR,
        "XID-9": HandlingLevel.ISOLATE,  # unused by NVIDIA: in no table
    }.items():
        assert table.rule("nvidia", code, "").level is level, code


# --- the binding


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


class FakeNvml:
    """`pynvml` with the facts of h100x8: names, constants and shapes of nvidia-ml-py."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_AGGREGATE_ECC = 1
    NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1
    NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS, NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR = 0, 1
    NVML_NVLINK_MAX_LINKS = 18
    NVML_FI_DEV_MEMORY_TEMP, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = 82, 230
    NVML_ERROR_INVALID_ARGUMENT, NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_NO_PERMISSION, NVML_ERROR_NOT_FOUND = 2, 3, 4, 6
    NVML_ERROR_FUNCTION_NOT_FOUND, NVML_ERROR_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED = 13, 15, 16
    NVML_ERROR_NO_DATA, NVML_ERROR_DEPRECATED = 21, 26
    nvmlMemory_v2 = 0x2000028

    def __init__(self, **broken: int) -> None:
        """`broken`: error by the name of a call, for the first GPU."""
        self._broken = broken

    def __getattr__(self, name: str) -> Any:
        answer = self._answers().get(name)
        if answer is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            if name in self._broken and (not arguments or arguments[0] == 0):
                raise NVMLError(self._broken[name])
            return answer(*arguments)

        return call

    def _answers(self) -> dict[str, Any]:
        buses = ("18", "2A", "3A", "5D", "9A", "AB", "BA", "DB")
        fields = {82: lambda i: 60 + i, 230: lambda _: 0}
        return {
            "nvmlInit": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: "575.57.08",
            "nvmlDeviceGetCount": lambda: 8,
            "nvmlDeviceGetHandleByIndex": lambda i: i,
            "nvmlDeviceGetUUID": lambda i: f"GPU-0000000{i}-1111-2222-3333-444444444444",
            "nvmlDeviceGetName": lambda _: b"NVIDIA H100 80GB HBM3",
            "nvmlDeviceGetPciInfo": lambda i: SimpleNamespace(busId=f"00000000:{buses[i]}:00.0".encode()),
            "nvmlDeviceGetTemperature": lambda i, _: 52 + i,
            "nvmlDeviceGetPowerUsage": lambda i: 640_500 + 1_000 * i,
            "nvmlDeviceGetEnforcedPowerLimit": lambda _: 700_000,
            "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=98, memory=41),
            "nvmlDeviceGetMemoryInfo": lambda i, _: SimpleNamespace(total=81559 << 20, used=(70000 + i) << 20),
            "nvmlDeviceGetClockInfo": lambda _, __: 1755,
            "nvmlDeviceGetCurrPcieLinkWidth": lambda _: 16,
            "nvmlDeviceGetMaxPcieLinkWidth": lambda _: 16,
            "nvmlDeviceGetPcieReplayCounter": lambda _: 0,
            "nvmlDeviceGetTotalEccErrors": lambda i, kind, _: 3 if (i, kind) == (2, 0) else 0,
            "nvmlDeviceGetComputeRunningProcesses": lambda i: [SimpleNamespace(pid=41000 + i)],
            "nvmlDeviceGetGraphicsRunningProcesses": lambda _: [],
            "nvmlDeviceGetRemappedRows": lambda i: (0, int(i == 2), 0, 0),
            "nvmlDeviceGetCurrentClocksEventReasons": lambda _: 0x4,
            "nvmlDeviceGetNvLinkState": lambda _, __: 1,
            "nvmlDeviceGetFieldValues": lambda i, ids: [
                SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=fields[ids[0]](i)))
            ],
        }


def test_the_binding_says_what_the_tool_says(node: RecordedMachine) -> None:
    by_tool, by_binding = read(node), read(node.without_tool("nvidia-smi").with_module("pynvml", FakeNvml()))
    assert replace(by_binding, versions={}) == replace(by_tool, versions={})
    assert by_binding.versions == {"driver": "575.57.08"}


def test_the_binding_tells_a_lost_gpu(node: RecordedMachine) -> None:
    lost = FakeNvml(nvmlDeviceGetTemperature=15)
    reading = read(node.with_module("pynvml", lost))
    assert codes(reading) == [("accelerator/0", "DEVICE-LOST")]
    assert health(reading) == ["failed", *["healthy"] * 7]


def test_a_gpu_without_a_handle_is_unknown(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    memory.pop("library")
    reading = read(node.with_module("pynvml", FakeNvml(nvmlDeviceGetHandleByIndex=999)), memory)
    assert health(reading) == ["unknown", *["healthy"] * 7]
    assert "error 999" in reading.unread[0].reason


def test_an_error_that_nobody_knows_is_a_doubt(node: RecordedMachine) -> None:
    reading = read(node.with_module("pynvml", FakeNvml(nvmlDeviceGetRemappedRows=999)))
    assert health(reading)[0] == "unknown"


def test_what_a_gpu_does_not_support_is_not_a_doubt(node: RecordedMachine) -> None:
    reading = read(node.with_module("pynvml", FakeNvml(nvmlDeviceGetUtilizationRates=3)))
    assert health(reading) == ["healthy"] * 8
    assert reading.devices[0].metrics["utilization_ratio"] == Metric(None, supported=False)


def test_xids_by_the_binding_where_the_kernel_log_may_not_be_read(node: RecordedMachine) -> None:
    """Several events of one Xid on one GPU are one fault; the library is asked until it has no more."""
    told = [(1, 48), (1, 48), (3, 79)]

    class WithEvents(FakeNvml):
        NVML_ERROR_TIMEOUT = 10
        nvmlEventTypeXidCriticalError = 8

        def nvmlEventSetCreate(self) -> list[int]:
            return []

        def nvmlDeviceRegisterEvents(self, handle: int, _: int, events: list[int]) -> None:
            events.append(handle)

        def nvmlEventSetWait_v2(self, events: list[int], _: int) -> Any:
            assert events == list(range(8))
            if not told:
                raise NVMLError(self.NVML_ERROR_TIMEOUT)
            device, number = told.pop(0)
            return SimpleNamespace(device=device, eventType=8, eventData=number)

    machine = node.with_unreadable_kernel().with_module("pynvml", WithEvents())
    memory: Memory = {}
    reading = read(machine, memory)
    assert codes(reading) == [("accelerator/1", "XID-48"), ("accelerator/3", "XID-79")]
    assert {(fault.assertion, fault.raised_ns) for fault in reading.faults} == {(Assertion.ONCE, node.clock_ns)}
    assert "only those Xids are seen" in reading.unread[0].reason
    assert read(machine, memory).faults == ()


def test_without_its_library_the_binding_is_left_alone(node: RecordedMachine) -> None:
    assert read(node.with_module("pynvml", FakeNvml(nvmlInit=12))) == read(node)
