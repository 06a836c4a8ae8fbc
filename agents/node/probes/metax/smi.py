"""MetaX GPUs as mx-smi lists them: `-L` names them, the table has their values, `--count-ecc` their memory errors."""

from __future__ import annotations

import re
from collections.abc import Iterator

from agents.node.probes.boards import Board, Listing
from agents.node.probes.findings import Findings
from agents.node.probes.inventory import pci_address
from agents.node.probes.machine import Machine, Unreadable
from agents.node.probes.reading import Severity, Unread
from agents.node.probes.text import cells, printed, words

TOOL = "mx-smi"
_LIST = (TOOL, "-L")
_TABLE = (TOOL,)
_ECC = (TOOL, "--count-ecc")
ESSENTIAL = frozenset({"temperature_celsius"})
_GPU = re.compile(r"GPU#(\d+)\s+(\S+)\s+([0-9a-fA-F:.]+)\s+(\S.*?)(?:\s*\(UUID:\s*(\S+)\))?\s*$")
_HEAD = re.compile(r"GPU#(\d+)\s+(\S+)\s+([0-9a-fA-F:.]+)\s*$")
_POWER = re.compile(r"(\S+)\s+(\S+)(?:\s*/\s*(\S+))?")
_MEMORY = re.compile(r"(\d+)\s*/\s*(\d+)\s*MiB")
_AVAILABLE = "available"


def listing(machine: Machine) -> Listing:
    """All GPUs, with their values."""
    try:
        found = named(printed(machine, _LIST))
    except Unreadable as error:
        return Listing(complete=False, unread=[Unread(" ".join(_LIST), str(error))])
    boards = {board.address: board for board in found.boards}
    for command, fill in ((_TABLE, _fill_table), (_ECC, _fill_ecc)):
        try:
            fill(printed(machine, command), boards)
        except Unreadable as error:
            for board in boards.values():
                board.findings.garbled.append(str(error))
    return found


def named(text: str) -> Listing:
    """The GPUs of `mx-smi -L`. Its list has no end of its own: one that is shorter than before, while the bus still shows
    the rest, counts as cut."""
    found = Listing(complete=False)
    version = re.search(r"mx-smi\s+version:\s*(\S+)", text)
    if version:
        found.versions["mx-smi"] = version[1]
    else:
        found.unread.append(Unread(" ".join(_LIST), "does not begin with a version: a form that is not known"))
    for line in text.splitlines():
        if not line.strip().startswith("GPU#"):
            continue
        gpu = _GPU.match(line.strip())
        address = pci_address(gpu[3]) if gpu else None
        if gpu is None or address is None:
            found.leave_out(" ".join(_LIST), f"a GPU that cannot be read: {line.strip()[:200]}")
            continue
        findings = Findings(TOOL, ESSENTIAL)
        if gpu[4].strip().lower() != _AVAILABLE:
            findings.fault("VENDOR-UNHEALTHY", Severity.CRITICAL, f"mx-smi calls it {gpu[4].strip()}")
        if gpu[5] is None:
            findings.doubt("mx-smi -L: names no UUID")
        found.boards.append(Board(address, gpu[5] or f"pci-{address}", gpu[2], findings))
    if not found.boards:
        found.unread.append(Unread(" ".join(_LIST), "lists no GPU"))
    return found


def _fill_table(text: str, boards: dict[str, Board]) -> None:
    """Two lines per GPU, between a head of two lines and the table of processes."""
    head: list[str] | None = None
    known = 0
    for row in (found for line in text.splitlines() if (found := cells(line)) is not None and len(found) == 3):
        if words(row[0]) == ["gpu", "name"]:
            known = int(words(row[1]) == ["bus-id"] and words(row[2]) == ["gpu-util"])
        elif words(row[0])[:1] == ["temp"]:
            known += int(words(row[1]) == ["memory-usage"])
        elif known == 2 and set(row[0]) != {"="}:
            if head is None:
                head = row
                continue
            board = boards.get(pci_address(head[1]) or "")
            if board is not None:
                _fill_values(board.findings, head, row)
            head = None
    for board in boards.values():
        if "temperature_celsius" not in board.findings.metrics:
            board.findings.doubt("mx-smi: its table does not name this GPU, or has a form that is not known")


def _fill_values(found: Findings, head: list[str], row: list[str]) -> None:
    power, memory = _POWER.fullmatch(row[0]), _MEMORY.fullmatch(row[1])
    found.measure("utilization_ratio", head[2])
    if power is None or memory is None:
        found.doubt(f"its values cannot be read: {row[0]} | {row[1]}"[:200])
        return
    found.measure("temperature_celsius", power[1])
    found.measure("power_watts", power[2])
    if power[3] is not None:
        found.measure("power_limit_watts", power[3])
    found.measure("memory_used_bytes", memory[1], unit="MiB")
    found.measure("memory_total_bytes", memory[2], unit="MiB")
    if row[2] and row[2].lower() != _AVAILABLE:
        found.fault("VENDOR-UNHEALTHY", Severity.CRITICAL, f"mx-smi calls its state {row[2]}")


def _fill_ecc(text: str, boards: dict[str, Board]) -> None:
    counts = dict(_blocks(text))
    for address, board in boards.items():
        told = counts.get(address, {})
        found = board.findings
        for name, keys in {
            "ecc_corrected_total": ("sram correctable", "dram correctable"),
            "ecc_uncorrected_total": ("sram uncorrectable", "dram uncorrectable"),
            "retired_pages": ("single bit ecc", "double bit ecc"),
        }.items():
            texts = [told[key] for key in keys if key in told]
            if texts:
                found.measure(name, *texts)
            else:
                found.garbled.append(f"{name}: mx-smi --count-ecc does not tell it")


def _blocks(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """PCI address and `name : value` lines of each GPU."""
    told: dict[str, str] = {}
    for line in text.splitlines():
        head = _HEAD.match(line.strip())
        if head is not None:
            told = {}
            address = pci_address(head[3])
            if address is not None:
                yield address, told
        elif ":" in line:
            name, _, value = line.partition(":")
            told.setdefault(" ".join(name.lower().split()), value.strip())
