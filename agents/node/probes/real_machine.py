"""The machine that the probe runs on. Everything that it hands out is bounded in time and size: vendor tools hang and babble."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from agents.node.probes.machine import KernelLine, Output, PciDevice, Unreadable

MAX_OUTPUT_BYTES = 4 << 20
MAX_FILE_BYTES = 1 << 20
MAX_KERNEL_LINES = 10_000
MAX_NAMES = 65_536
_KMSG_RECORD_BYTES = 8_192  # the kernel's own limit of one record
_TOOL_FOLDERS = ("/opt/rocm/bin", "/opt/hyhal/bin", "/usr/local/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
_REAP_S = 1.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class RealMachine:
    """Reads this machine. `log_since_ns`: Unix ns; older records of the kernel log are left out. 0: from now on."""

    def __init__(self, log_since_ns: int = 0, *, kmsg: str = "/dev/kmsg", sysfs: str = "/sys") -> None:
        self._kernel = _KernelLog(kmsg, log_since_ns)
        self._pci = Path(sysfs, "bus/pci/devices")
        self._path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_TOOL_FOLDERS))

    def run(self, command: Sequence[str], timeout_s: float = 10.0) -> Output:
        """Run a tool with LC_ALL=C and no input; it and what it started are killed when the time is over.

        Raises:
            Unreadable: it is not installed, takes longer, or prints more than 4 MiB.
        """
        tool = shutil.which(command[0], path=self._path)
        if tool is None:
            raise Unreadable(f"{command[0]} is not installed on this machine")
        shown = " ".join(command)
        environment = {**os.environ, "PATH": self._path, "LC_ALL": "C", "LANG": "C", "LANGUAGE": "C"}
        try:
            process = subprocess.Popen(
                [tool, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                process_group=0,
                preexec_fn=_die_with_the_probe,  # noqa: PLW1509 - a probe's process has one thread
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Unreadable(f"{shown}: cannot be started: {error}") from error
        with process:
            try:
                texts = _collect(process, shown, time.monotonic() + timeout_s, timeout_s)
            finally:
                _end(process)
        return Output(process.returncode, *(text.decode(errors="replace") for text in texts))

    def text(self, path: str) -> str:
        """A small file, at most 1 MiB. Raises Unreadable."""
        try:
            with Path(path).open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise Unreadable(f"{path}: {error.strerror or error}") from error
        if len(raw) > MAX_FILE_BYTES:
            raise Unreadable(f"{path}: is larger than {MAX_FILE_BYTES} bytes")
        return raw.decode(errors="replace")

    def names(self, folder: str) -> tuple[str, ...]:
        """Names in a folder, sorted; empty when there is none."""
        try:
            return tuple(sorted(os.listdir(folder))[:MAX_NAMES])
        except OSError:
            return ()

    def pci(self) -> tuple[PciDevice, ...]:
        """All PCI functions, by address. One that vanishes meanwhile is left out."""
        found = []
        for address in self.names(str(self._pci)):
            folder = self._pci / address
            try:
                vendor, device, kind = (self.text(str(folder / name)) for name in ("vendor", "device", "class"))
            except Unreadable:
                continue
            found.append(PciDevice(address.lower(), _digits(vendor), _digits(device), _digits(kind)))
        return tuple(found)

    def kernel_log(self) -> tuple[KernelLine, ...]:
        """Records since this object began to listen, oldest first, at most 10,000, each once. Raises Unreadable."""
        return self._kernel.read()

    def has_tool(self, name: str) -> bool:
        """Whether a command of that name can be run."""
        return shutil.which(name, path=self._path) is not None

    def module(self, name: str) -> object | None:
        """An installed Python binding of a vendor, imported; None when it is not there or its library is not."""
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, AttributeError, KeyError, RuntimeError):  # bindings load their library on import
            return None

    def now_ns(self) -> int:
        """Unix ns."""
        return time.time_ns()


def _digits(text: str) -> str:
    """`0x10de` as `10de`; of the class `0x030200` its first four digits."""
    return text.strip().lower().removeprefix("0x")[:4]


def _die_with_the_probe() -> None:
    """In the tool, before it runs: SIGKILL when the probe's process dies, so that a hanging tool never outlives it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _collect(process: subprocess.Popen[bytes], shown: str, deadline: float, timeout_s: float) -> tuple[bytes, bytes]:
    """Standard output and error until the tool ends. A child that it leaves behind and that holds the pipes is not waited for."""
    assert process.stdout is not None
    assert process.stderr is not None
    streams = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for descriptor in (*streams, ended):
                selector.register(descriptor, selectors.EVENT_READ)
            left_open, over = len(streams), False
            while left_open or not over:
                ready = {key.fd for key, _ in selector.select(0.0 if over else max(0.0, deadline - time.monotonic()))}
                if not ready and over:
                    break
                if not ready or time.monotonic() > deadline:
                    raise Unreadable(f"{shown}: gave no answer within {timeout_s:g} s and was killed")
                if ended in ready:
                    over = True
                    selector.unregister(ended)
                for descriptor in ready & streams.keys():
                    piece = os.read(descriptor, 1 << 16)
                    if not piece:
                        selector.unregister(descriptor)
                        left_open -= 1
                    streams[descriptor] += piece
                    if len(streams[descriptor]) > MAX_OUTPUT_BYTES:
                        raise Unreadable(f"{shown}: printed more than {MAX_OUTPUT_BYTES} bytes and was killed")
    finally:
        os.close(ended)
    return bytes(streams[process.stdout.fileno()]), bytes(streams[process.stderr.fileno()])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the tool's group and reap the tool; one that the kernel holds in a driver call is left to init."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(_REAP_S)
    except subprocess.TimeoutExpired:
        process.returncode = -signal.SIGKILL


class _KernelLog:
    """/dev/kmsg without waiting. Records that the kernel overwrote before they were read are told once, as Unreadable."""

    def __init__(self, path: str, since_ns: int) -> None:
        self._path, self._since_ns = path, since_ns or time.time_ns()
        self._from_start = bool(since_ns)
        self._descriptor: int | None = None
        self._overwritten = False
        try:
            self._open()
        except OSError:
            return  # told by the first read

    def read(self) -> tuple[KernelLine, ...]:
        if self._overwritten:
            self._overwritten = False
            raise Unreadable(f"{self._path}: the kernel overwrote records before they could be read")
        try:
            descriptor = self._descriptor if self._descriptor is not None else self._open()
            return tuple(line for record in self._records(descriptor) if (line := self._line(record)) is not None)
        except OSError as error:
            raise Unreadable(f"{self._path}: {error.strerror or error}: the probe needs CAP_SYSLOG") from error

    def _open(self) -> int:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(descriptor, 0, os.SEEK_SET if self._from_start else os.SEEK_END)
        self._from_start = True
        self._descriptor = descriptor
        return descriptor

    def _records(self, descriptor: int) -> list[bytes]:
        found: list[bytes] = []
        while len(found) < MAX_KERNEL_LINES:
            try:
                record = os.read(descriptor, _KMSG_RECORD_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                self._overwritten = True  # the next read goes on with the oldest record that is left
                continue
            if not record:
                break
            found.append(record)
        return found

    def _line(self, record: bytes) -> KernelLine | None:
        """`priority,sequence,microseconds since boot,flags;text`; None for what came before the time to listen from."""
        head, _, rest = record.decode(errors="replace").partition(";")
        try:
            _, sequence, age_us = head.split(",")[:3]
            at_ns = time.time_ns() - time.monotonic_ns() + int(age_us) * 1_000
            number = int(sequence)
        except ValueError:
            return None
        if at_ns < self._since_ns:
            return None
        return KernelLine(number, at_ns, rest.split("\n", 1)[0])
