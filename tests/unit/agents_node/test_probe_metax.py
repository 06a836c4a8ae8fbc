"""MetaX's probe on recorded machines: values, states, EID messages."""

from __future__ import annotations

import pytest

from agents.node.probes import metax
from agents.node.probes.machine import Memory
from agents.node.probes.reading import Assertion, Health, Metric, Reading, Severity
from controlplane.catalogues import built_in
from controlplane.core.vocabulary import HandlingLevel
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine

LIST = ("mx-smi", "-L")
TABLE = ("mx-smi",)
ECC = ("mx-smi", "--count-ecc")
ATU = (
    "METAX.B10200.ATU.ERROR EID (0000:34:00.0): 0x2101, atu 0x0 pde_base_addr 0x50016c0000",
    "METAX.B10200.ATU.ERROR EID (0000:34:00.0): 0x2101, xpid 1 vfid 0 vf 0 page va 224200000",
)


@pytest.fixture
def node() -> RecordedMachine:
    return recorded_machine("metax", "c550x8")


def read(machine: RecordedMachine, memory: Memory | None = None) -> Reading:
    return metax.read(machine, {} if memory is None else memory)


def test_the_published_table(node: RecordedMachine) -> None:
    reading = read(node)
    assert {gpu.health for gpu in reading.devices} == {Health.HEALTHY}
    assert (reading.faults, reading.unread) == ((), ())
    sixth = reading.devices[5]
    assert (sixth.pci_address, sixth.serial) == ("0000:ae:00.0", "GPU-e702f06b-bbd6-bc06-5196-90a5554a24b5")
    assert sixth.metrics["temperature_celsius"] == Metric(32.0)
    assert sixth.metrics["memory_used_bytes"] == Metric(858 * 2**20)


def test_a_power_that_a_board_does_not_limit_is_not_supported(node: RecordedMachine) -> None:
    older = node.edited(TABLE, lambda text: text.replace("53W / 450W", "53W / NA  "))
    assert read(older).devices[0].metrics["power_limit_watts"] == Metric(None, supported=False)


def test_a_gpu_that_is_not_available_has_failed(node: RecordedMachine) -> None:
    broken = node.edited(
        LIST,
        lambda text: text.replace(
            "0000:34:00.0   Available", "0000:34:00.0   Not Available(MetaX Sysfs File Unaccessible)"
        ),
    )
    reading = read(broken)
    assert [gpu.index for gpu in reading.devices if gpu.health is Health.FAILED] == [1]
    (fault,) = reading.faults
    assert (fault.entity, fault.code, fault.severity) == ("accelerator/1", "VENDOR-UNHEALTHY", Severity.CRITICAL)
    assert "Sysfs" in fault.message


def test_messages_of_the_kernel_log_are_one_event_with_its_number(node: RecordedMachine) -> None:
    (fault,) = read(node.with_kernel("usb 1-1: new device", *ATU)).faults
    assert (fault.entity, fault.code, fault.assertion) == ("accelerator/1", "EID-0X2101", Assertion.ONCE)
    assert (fault.severity, fault.sequence, fault.raised_ns) == (Severity.MAJOR, 3, node.clock_ns)
    assert built_in().rule("metax", fault.code, fault.severity).level is HandlingLevel.RESTART_PROCESS


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "MXCD.B8700.RAS.CRIT EID (0000:87:00.0): 0x1104, selftest failed",
            ("accelerator/4", "EID-0X1104", Severity.CRITICAL),
        ),
        ("METAX.WARN EID(0000:0f:00.0): 0x1103, boot from spare", ("accelerator/0", "EID-0X1103", Severity.MINOR)),
        ("MXGVM.B9900.X.ERROR EID (0000:99:00.0): 0xabcd, what", ("node", "EID-0XABCD", Severity.MAJOR)),
        ("METAX.B10200.ATU.ERROR: no EID here", None),
    ],
)
def test_forms_of_messages(node: RecordedMachine, line: str, expected: tuple[str, str, Severity] | None) -> None:
    faults = read(node.with_kernel(line)).faults
    assert [(fault.entity, fault.code, fault.severity) for fault in faults] == ([expected] if expected else [])


def test_without_the_kernel_log_eids_are_not_seen_and_it_says_so(node: RecordedMachine) -> None:
    (unread,) = read(node.with_unreadable_kernel()).unread
    assert (unread.source, unread.accelerators) == ("kernel log", ())


def test_a_gpu_that_is_gone_is_lost_and_one_that_is_not_listed_is_unknown(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    shorter = node.edited(LIST, lambda text: "".join(line for line in text.splitlines(True) if "GPU#2" not in line))
    unlisted = read(shorter, dict(memory))
    assert unlisted.devices[2].health is Health.UNKNOWN
    gone = read(shorter.without_pci("0000:48:00.0"), memory)
    assert gone.devices[2].health is Health.FAILED
    assert [fault.code for fault in gone.faults] == ["DEVICE-LOST"]


def test_uncorrectable_errors_that_grow_are_an_event(node: RecordedMachine) -> None:
    memory: Memory = {}
    read(node, memory)
    line = "DRAM Uncorrectable                        : "
    grown = node.edited(ECC, lambda text: text.replace(f"{line}0", f"{line}1", 1))
    assert [(fault.entity, fault.code) for fault in read(grown, memory).faults] == [
        ("accelerator/0", "ECC-UNCORRECTED")
    ]


def test_without_the_tool_the_bus_still_shows_the_gpus(node: RecordedMachine) -> None:
    reading = read(node.without_tool("mx-smi"))
    assert [gpu.health for gpu in reading.devices] == [Health.UNKNOWN] * 8
    assert read(RecordedMachine("empty", "constructed", {})) == Reading("metax")
