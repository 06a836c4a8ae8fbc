"""The machine that probes run on: whatever a tool does, it ends in time, and so does everything that it started."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from agents.node.probes.machine import PciDevice, Unreadable
from agents.node.probes.real_machine import MAX_FILE_BYTES, RealMachine

NOWHERE = "/nonexistent/kmsg"


@pytest.fixture
def machine() -> RealMachine:
    return RealMachine(kmsg=NOWHERE)


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_tool_is_asked_in_the_c_locale_and_has_no_input(machine: RealMachine) -> None:
    out = machine.run(python("import os, sys; print(os.environ['LC_ALL'], len(sys.stdin.read())); sys.exit(3)"))
    assert (out.code, out.stdout, out.stderr) == (3, "C 0\n", "")


def test_what_a_tool_prints_is_text_even_when_it_is_not(machine: RealMachine) -> None:
    out = machine.run(python("import sys; sys.stdout.buffer.write(b'temp\\xff 40'); sys.stderr.write('warned')"))
    assert (out.stdout, out.stderr) == ("temp\ufffd 40", "warned")


def test_a_missing_tool_is_named(machine: RealMachine) -> None:
    assert not machine.has_tool("no-such-smi")
    with pytest.raises(Unreadable, match="no-such-smi is not installed"):
        machine.run(["no-such-smi"])


def test_a_tool_that_hangs_is_killed_with_what_it_started(machine: RealMachine, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    text = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
part = pathlib.Path({str(note)!r} + '.part')
part.write_text(str(child.pid))
part.rename({str(note)!r})
time.sleep(600)
"""
    for timeout_s in (1.0, 5.0, 25.0):  # a machine that is busy needs longer to start it at all
        with pytest.raises(Unreadable, match=f"gave no answer within {timeout_s:g} s and was killed"):
            machine.run(python(text), timeout_s=timeout_s)
        if note.exists():
            break
    assert gone(int(note.read_text()))


def test_a_child_that_keeps_the_pipes_is_not_waited_for(machine: RealMachine, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    text = f"""
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({str(note)!r}).write_text(str(child.pid))
print("done", flush=True)
"""
    assert machine.run(python(text), timeout_s=60).stdout == "done\n"
    assert gone(int(note.read_text()))


def gone(pid: int) -> bool:
    """Whether a killed process is gone, or about to be: init reaps it."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        os.sched_yield()
        time.sleep(0.01)
    return False


def test_a_tool_that_never_stops_printing_is_cut_off(machine: RealMachine) -> None:
    with pytest.raises(Unreadable, match="printed more than 4194304 bytes"):
        machine.run(python("while True: print('x' * 65536)"), timeout_s=60)


def test_files_are_small_and_there(machine: RealMachine, tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_text("40\n")
    large.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    assert machine.text(str(small)) == "40\n"
    assert machine.names(str(tmp_path)) == ("large", "small")
    assert machine.names(str(tmp_path / "none")) == ()
    with pytest.raises(Unreadable, match="is larger than"):
        machine.text(str(large))
    with pytest.raises(Unreadable, match="No such file"):
        machine.text(str(tmp_path / "none"))


def test_the_bus_is_read_from_sysfs(tmp_path: Path) -> None:
    for address, text in (("0000:C1:00.0", ("0x10DE", "0x2330", "0x030200")), ("0000:01:00.0", ("0x8086", "0x1", ""))):
        folder = tmp_path / "bus/pci/devices" / address
        folder.mkdir(parents=True)
        for name, content in zip(("vendor", "device", "class"), text, strict=True):
            (folder / name).write_text(content + "\n")
    (tmp_path / "bus/pci/devices/0000:02:00.0").mkdir()  # vanished half way
    assert RealMachine(kmsg=NOWHERE, sysfs=str(tmp_path)).pci() == (
        PciDevice("0000:01:00.0", "8086", "1", ""),
        PciDevice("0000:c1:00.0", "10de", "2330", "0302"),
    )


def test_a_kernel_log_that_cannot_be_read_says_so_every_time(machine: RealMachine) -> None:
    for _ in range(2):
        with pytest.raises(Unreadable, match="needs CAP_SYSLOG"):
            machine.kernel_log()


def test_kernel_records_come_once_and_from_the_time_that_was_asked(tmp_path: Path) -> None:
    """A regular file stands for the device: records are lines here, one read gives the whole file as one record."""
    log = tmp_path / "kmsg"
    log.write_text("4,77,5000000,-;NVRM: Xid (PCI:0000:c1:00): 79\n SUBSYSTEM=pci\n")
    booted_ns = time.time_ns() - time.monotonic_ns()
    machine = RealMachine(1, kmsg=str(log))
    (line,) = machine.kernel_log()
    assert (line.sequence, line.text) == (77, "NVRM: Xid (PCI:0000:c1:00): 79")
    assert abs(line.at_ns - booted_ns - 5_000_000_000) < 60_000_000_000
    assert machine.kernel_log() == ()
    assert RealMachine(kmsg=str(log)).kernel_log() == (), "from now on"
    assert RealMachine(time.time_ns(), kmsg=str(log)).kernel_log() == (), "only what is newer"


def test_a_record_of_no_known_form_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("no record at all")
    assert RealMachine(1, kmsg=str(log)).kernel_log() == ()


def test_bindings_are_there_or_not(machine: RealMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brokenbinding.py").write_text("raise OSError('libvendor.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    assert machine.module("brokenbinding") is None
    assert machine.module("nosuchbinding") is None
    assert machine.module("json") is not None
