"""The host's probe: processors, memory, disks, ports, kernel log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.node.probes import host
from agents.node.probes.host.processors import cpus
from agents.node.probes.machine import Memory
from agents.node.probes.reading import Assertion, Reading
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine

CPU, EDAC, NET, IB = "/sys/devices/system/cpu", "/sys/devices/system/edac/mc", "/sys/class/net", "/sys/class/infiniband"
SMART = ("smartctl", "--json", "-H", "-A", "/dev/nvme0n1")


@pytest.fixture
def server() -> RecordedMachine:
    return recorded_machine("host", "server")


def read(machine: RecordedMachine, memory: Memory | None = None) -> Reading:
    return host.read(machine, {} if memory is None else memory)


def codes(reading: Reading) -> list[tuple[str, str]]:
    return [(fault.entity, fault.code) for fault in reading.faults]


def test_a_server_at_work(server: RecordedMachine) -> None:
    reading = read(server)
    assert reading == Reading("host", versions={"cpus": "128 of 128", "memory_controllers": "2", "ports": "2"})


def test_published_ports_of_an_h100_node() -> None:
    reading = read(recorded_machine("host", "h100_ports"))
    assert (reading.faults, reading.unread) == ((), ())
    assert reading.versions["ports"] == "5"


# --- processors


def test_a_processor_that_stops_to_run(server: RecordedMachine) -> None:
    memory: Memory = {}
    read(server, memory)
    fewer = server.with_file(f"{CPU}/online", "0-63,65-127\n")
    for _ in range(2):
        assert codes(read(fewer, memory)) == [("node", "CPU-OFFLINE")]
    assert read(server, memory).faults == ()


def test_processors_that_somebody_switched_off_are_no_fault(server: RecordedMachine) -> None:
    reading = read(server.with_file(f"{CPU}/online", "0-63\n"))
    assert reading.faults == ()
    assert reading.versions["cpus"] == "64 of 128"


@pytest.mark.parametrize(
    ("text", "found"),
    [("0-3,8", {0, 1, 2, 3, 8}), ("0", {0}), ("", set()), ("0-x", set()), ("-3", set()), ("0-99999999", set())],
)
def test_lists_of_processors(text: str, found: set[int]) -> None:
    assert cpus(text) == found


# --- memory


def test_memory_errors_count_when_they_grow(server: RecordedMachine) -> None:
    memory: Memory = {}
    assert read(server, memory).faults == ()
    broken = server.with_file(f"{EDAC}/mc1/ue_count", "2\n")
    (fault,) = read(broken, memory).faults
    assert (fault.code, fault.assertion, fault.sequence) == ("MEMORY-UE", Assertion.ONCE, 2)
    assert read(broken, memory).faults == ()


def test_single_corrected_errors_are_nothing_and_thousands_are_an_event(server: RecordedMachine) -> None:
    memory: Memory = {}
    for count, expected in (("12", 0), ("500", 0), ("1011", 0), ("1012", 1), ("1500", 0), ("3", 0), ("1003", 1)):
        reading = read(server.with_file(f"{EDAC}/mc0/ce_count", f"{count}\n"), memory)
        assert len(reading.faults) == expected, count


# --- disks


def test_a_file_system_that_became_read_only(server: RecordedMachine) -> None:
    mounts = server.files["/proc/mounts"]
    memory: Memory = {}
    read(server, memory)
    data = server.with_file("/proc/mounts", mounts.replace("xfs rw", "xfs ro"))
    assert codes(read(data, memory)) == [("node", "DISK-READ-ONLY")]
    assert read(data).faults == (), "mounted so from the start"
    root = server.with_file("/proc/mounts", mounts.replace("ext4 rw,", "ext4 ro,emergency_ro,"))
    assert codes(read(root)) == [("node", "DISK-READ-ONLY")], "the kernel says why"


def test_a_controller_that_is_dead(server: RecordedMachine) -> None:
    assert codes(read(server.with_file("/sys/class/nvme/nvme1/state", "dead\n"))) == [("node", "DISK-DEAD")]
    assert read(server.with_file("/sys/class/nvme/nvme1/state", "resetting\n")).faults == ()


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        ('"passed": true', '"passed": false', "DISK-SMART"),
        ('"critical_warning": 0', '"critical_warning": 4', "DISK-SMART"),
        ('"percentage_used": 3', '"percentage_used": 104', "DISK-WORN"),
    ],
)
def test_what_a_disk_says_of_itself(server: RecordedMachine, before: str, after: str, code: str) -> None:
    """It is kept until the disk is asked again, ten minutes later."""
    memory: Memory = {}
    failing = server.edited(SMART, lambda text: text.replace(before, after))
    for _ in range(2):
        assert codes(read(failing, memory)) == [("node", code)]
    assert codes(read(server, memory)) == [("node", code)]
    assert read(replace(server, clock_ns=server.clock_ns + 600 * 10**9), memory).faults == ()


def test_a_disk_that_tells_nothing_is_unread(server: RecordedMachine) -> None:
    for broken in (
        server.hanging("smartctl"),
        server.printing(SMART, "{}", code=2),
        server.printing(SMART, "Permission denied"),
    ):
        assert [entry.source for entry in read(broken).unread] == [" ".join(SMART)]


# --- ports


def test_a_port_that_was_up_and_is_down(server: RecordedMachine) -> None:
    down = server.with_file(f"{NET}/eth0/carrier", "0\n")
    assert codes(read(down)) == [("port/0", "LINK-DOWN")], "it was down once since the start, so it was up"
    never = server.with_file(f"{NET}/eth1/carrier", "0\n")
    assert read(never).faults == (), "a port that was never wired"


def test_a_port_that_somebody_switched_off_is_no_fault(server: RecordedMachine) -> None:
    memory: Memory = {}
    read(server, memory)
    off = server.with_file(f"{NET}/eth0/flags", "0x1002\n").without_file(f"{NET}/eth0/carrier")
    assert read(off, memory) == replace(read(server), faults=(), unread=())


def test_a_port_that_flaps(server: RecordedMachine) -> None:
    memory: Memory = {}
    read(server, memory)
    (fault,) = read(server.with_file(f"{NET}/eth0/carrier_down_count", "3\n"), memory).faults
    assert (fault.entity, fault.code, fault.assertion, fault.sequence) == ("port/0", "LINK-FLAP", Assertion.ONCE, 3)


def test_a_port_with_errors(server: RecordedMachine) -> None:
    memory: Memory = {}
    read(server, memory)
    few = server.with_file(f"{NET}/eth0/statistics/rx_crc_errors", "99\n")
    assert read(few, memory).faults == ()
    many = server.with_file(f"{NET}/eth0/statistics/rx_crc_errors", "240\n")
    assert codes(read(many, memory)) == [("port/0", "PORT-ERRORS")]


def test_a_port_that_is_gone_keeps_its_position_and_others_theirs(server: RecordedMachine) -> None:
    memory: Memory = {}
    read(server, memory)
    gone = server
    for path in [path for path in server.files if path.startswith(f"{NET}/eth0/")]:
        gone = gone.without_file(path)
    assert codes(read(gone, memory)) == [("port/0", "PORT-LOST")]
    again = read(
        gone.with_file(f"{NET}/eth1/carrier_down_count", "9\n").with_file(f"{NET}/eth1/carrier", "0\n"), memory
    )
    assert ("port/1", "LINK-DOWN") in codes(again)


@pytest.mark.parametrize(
    ("state", "physical", "expected"),
    [
        ("1: DOWN", "2: Polling", [("port/0", "LINK-DOWN")]),
        ("2: INIT", "5: LinkUp", [("port/0", "LINK-DOWN")]),
        ("1: DOWN", "3: Disabled", []),
    ],
)
def test_infiniband_ports(state: str, physical: str, expected: list[tuple[str, str]]) -> None:
    machine, memory = recorded_machine("host", "h100_ports"), {}
    read(machine, memory)
    folder = f"{IB}/mlx5_0/ports/1"
    changed = machine.with_file(f"{folder}/state", f"{state}\n").with_file(f"{folder}/phys_state", f"{physical}\n")
    assert codes(read(changed, memory)) == expected


# --- what cannot be read, and the kernel log


@pytest.mark.parametrize(
    "path", [f"{CPU}/online", "/proc/mounts", f"{EDAC}/mc0/ue_count", "/sys/class/nvme/nvme0/state"]
)
def test_what_cannot_be_read_is_said(server: RecordedMachine, path: str) -> None:
    """A file that is there and holds nothing of use; one that is gone where its neighbours are there."""
    garbled = server.with_file(path, "\x00garbage\n")
    named = [entry.source for entry in read(garbled).unread] or codes(read(garbled))
    assert named or path == "/proc/mounts"
    if path in (f"{CPU}/online", "/proc/mounts"):
        assert path in [entry.source for entry in read(server.without_file(path)).unread]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("INFO: task jfsmount:136986 blocked for more than 120 seconds.", "TASK-HUNG"),
        ("watchdog: BUG: soft lockup - CPU#18 stuck for 27s! [python3:2254956]", "CPU-LOCKUP"),
        ("Memory cgroup out of memory: Killed process 123, UID 48, (httpd).", "OOM-JOB"),
        ("Out of memory: Killed process 26648 (python) total-vm:1kB", "OOM-HOST"),
        ("mce: [Hardware Error]: CPU 4: Machine Check Exception: 5 Bank 3: be00000000800400", "MCE-UNCORRECTED"),
        ("Memory failure: 0x4c4d2: recovery action for dirty LRU page: Recovered", "MEMORY-PAGE-OFFLINE"),
        ("Memory failure: 0x4c4d2: recovery action for slab page: Ignored", "MEMORY-FAILURE"),
        ("pcieport 0000:40:01.1: PCIe Bus Error: severity=Uncorrected (Fatal), type=Transaction Layer", "PCIE-FATAL"),
        (
            "pcieport 0000:40:01.1: PCIe Bus Error: severity=Uncorrected (Non-Fatal), type=Transaction Layer",
            "PCIE-NONFATAL",
        ),
        ("pcieport 0000:40:01.1: pciehp: Slot(4): Link Down", "PCIE-CARD-GONE"),
        ("md/raid0md0: Disk failure on nvme0n1p1 detected, failing array.", "DISK-FAILED"),
        ("nvme nvme4: Disabling device after reset failure: -19", "DISK-FAILED"),
        ("nvme nvme4: I/O tag 22 (2016) opcode 0x2 (Admin Cmd) QID 0 timeout, reset controller", "DISK-TIMEOUT"),
        ("Buffer I/O error on dev dm-0, logical block 1308098575, lost async page write", "DISK-ERROR"),
        ("BUG: unable to handle page fault for address: ffffb0d4", "KERNEL-OOPS"),
        ("CPU3: Core temperature is above threshold, cpu clock is throttled (total events = 1)", "CPU-THERMAL"),
    ],
)
def test_the_kernel_log(server: RecordedMachine, line: str, code: str) -> None:
    """Lines as gpud's matchers publish them, and as the kernel's sources print them."""
    assert codes(read(server.with_kernel("eth0: link becomes ready", line))) == [("node", code)]


@pytest.mark.parametrize(
    "line",
    [
        "pcieport 0000:40:01.1: PCIe Bus Error: severity=Corrected, type=Data Link Layer",
        "mce: [Hardware Error]: Machine check events logged",
        "EXT4-fs (md0): mounted filesystem with ordered data mode",
    ],
)
def test_what_the_kernel_also_logs(server: RecordedMachine, line: str) -> None:
    assert read(server.with_kernel(line)).faults == ()


def test_a_kernel_log_that_cannot_be_read_is_a_blind_spot(server: RecordedMachine) -> None:
    assert [entry.source for entry in read(server.with_unreadable_kernel()).unread] == ["kernel log"]
