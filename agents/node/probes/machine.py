"""The machine as probes see it: commands with a deadline, files, PCI devices and the kernel log. Tests give a recorded one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Memory = dict[str, Any]
"""What a probe keeps from one reading to the next, for as long as its process lives: its own keys, plain values."""


class Unreadable(Exception):
    """A source cannot be read; the message says which and why, for an operator."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a command left behind. Text is decoded with replacement characters: tools print vendor strings as they come."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One function on the PCI bus: `address` as `0000:c1:00.0`, ids as four hexadecimal digits in lower case,
    `kind` the class (`0302`) likewise."""

    address: str
    vendor: str
    device: str
    kind: str


@dataclass(frozen=True, slots=True)
class KernelLine:
    """One record of the kernel log. `sequence` grows by one within a boot; `at_ns`: Unix ns."""

    sequence: int
    at_ns: int
    text: str


class Machine(Protocol):
    """Where a probe reads. Calls block; a probe runs in a process of its own that is killed when it takes too long."""

    def run(self, command: Sequence[str], timeout_s: float = 10.0) -> Output:
        """Run a tool with LC_ALL=C and no input. Raises Unreadable when it is not installed or takes longer."""

    def text(self, path: str) -> str:
        """A small file, at most 1 MiB. Raises Unreadable."""

    def names(self, folder: str) -> tuple[str, ...]:
        """Names in a folder, sorted; empty when there is none."""

    def pci(self) -> tuple[PciDevice, ...]:
        """All PCI functions, by address."""

    def kernel_log(self) -> tuple[KernelLine, ...]:
        """Records since this object began to listen, oldest first, at most 10,000, each once. Raises Unreadable."""

    def has_tool(self, name: str) -> bool:
        """Whether a command of that name can be run."""

    def module(self, name: str) -> object | None:
        """An installed Python binding of a vendor, imported; None when it is not there."""

    def now_ns(self) -> int:
        """Unix ns."""
