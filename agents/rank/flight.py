"""Which collectives a rank has begun and waits for: counters in a page of memory that its node agent can read at any time.

A rank that hangs answers nobody, and one that is stopped by a signal does nothing at all. So the counters lie in an anonymous
file (`memfd`) of the process: the agent finds it among the open files of the process, reads it without its help, and it is gone
with the process. All members of a group issue the same collectives in the same order, so that the numbers can be compared.
Imports neither torch nor protobuf: the agent reads with this module, too.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

NAME = "phalanx-flight"
SIZE = 4096
SLOTS = 16
"""Groups that are told; a rank has four."""
OPERATIONS = ("?", "all_reduce", "broadcast", "all_gather", "reduce_scatter", "all_to_all", "barrier")
NAME_BYTES = 32
LOOKED_AT = 4_096
"""Open files of a process among which the page is looked for."""

_MAGIC = int.from_bytes(b"PHXFLT01", "little")
_HEAD = struct.Struct("@QQQ")  # magic, generation, groups. Native: aligned words, each written at once
_FACTS = struct.Struct(f"@{NAME_BYTES}sII")  # name, members, their number
_COUNTS = struct.Struct("@QQII")  # issued, finished, waits, operation
_PACK = _COUNTS.pack_into
_SLOT_BYTES = 128
_NUMBERS = {operation: number for number, operation in enumerate(OPERATIONS)}
_MOST = 0xFFFFFFFF


class FlightSlot:
    """The counters of one group. Calls come from the threads that issue its collectives."""

    __slots__ = ("_at", "_finished", "_issued", "_operation", "_page", "_waits")

    def __init__(self, page: mmap.mmap | bytearray, at: int) -> None:
        self._page = page
        self._at = at
        self._issued = self._finished = self._waits = self._operation = 0

    def begin(self, operation: str) -> None:
        """The next collective is about to be issued."""
        self._issued += 1
        self._operation = _NUMBERS.get(operation, 0)
        self._write()

    def wait(self, change: int) -> None:
        """So many more (1) or fewer (-1) collectives are waited for; fewer: one has finished."""
        self._waits += change
        if change < 0:
            self._finished += 1
        self._write()

    def __enter__(self) -> FlightSlot:
        """The rank waits for a collective."""
        self.wait(1)
        return self

    def __exit__(self, *_: object) -> None:
        """It waits no more."""
        self.wait(-1)

    def _write(self) -> None:
        _PACK(self._page, self._at, self._issued, self._finished, self._waits & _MOST, self._operation)


class FlightPage:
    """The page of this process. Where the system has no anonymous files it is memory that nobody else reads."""

    def __init__(self) -> None:
        self._page: mmap.mmap | bytearray
        try:
            self._file = os.memfd_create(NAME)
            os.ftruncate(self._file, SIZE)
            self._page = mmap.mmap(self._file, SIZE)
        except OSError:
            self._page = bytearray(SIZE)
        self._groups = 0

    def begin(self, generation: int) -> None:
        """A generation's groups are about to be told; those of the former one are forgotten."""
        self._groups = 0
        _HEAD.pack_into(self._page, 0, _MAGIC, generation, 0)

    def slot(self, name: str, ranks: Sequence[int]) -> FlightSlot:
        """Counters of a group, from zero. What is beyond SLOTS groups counts for nobody."""
        if self._groups >= SLOTS:
            return FlightSlot(bytearray(_SLOT_BYTES), 0)
        at = _HEAD.size + self._groups * _SLOT_BYTES
        self._groups += 1
        _FACTS.pack_into(self._page, at, name.encode()[:NAME_BYTES], checksum(ranks), len(ranks))
        slot = FlightSlot(self._page, at + _FACTS.size)
        slot._write()  # noqa: SLF001  the counters of the group that was here before
        magic, generation, _ = _HEAD.unpack_from(self._page, 0)
        _HEAD.pack_into(self._page, 0, magic, generation, self._groups)
        return slot


_own: list[FlightPage] = []


def page() -> FlightPage:
    """This process's page."""
    if not _own:
        _own.append(FlightPage())
    return _own[0]


def checksum(ranks: Sequence[int]) -> int:
    """Tells groups of one name and unlike members apart, the same in every process."""
    return zlib.crc32(",".join(map(str, ranks)).encode())


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """A group as a page tells of it. `waits`: collectives that are waited for."""

    name: str
    members: int
    issued: int
    finished: int
    waits: int
    operation: str


@dataclass(frozen=True, slots=True)
class Flight:
    """What a page says."""

    generation: int
    groups: tuple[GroupCounts, ...]


def read(pid: int) -> Flight | None:
    """The page of a process; None when it has none, or we may not look."""
    try:
        with os.scandir(f"/proc/{pid}/fd") as files:
            for _, entry in zip(range(LOOKED_AT), files, strict=False):
                if os.readlink(entry.path).startswith(f"/memfd:{NAME}"):
                    with open(entry.path, "rb") as file:
                        return parse(file.read(SIZE))
    except OSError:
        pass
    return None


def parse(data: bytes) -> Flight | None:
    """A page's bytes; None when they are none. What a process has written there is not believed to make sense."""
    if len(data) < SIZE:
        return None
    magic, generation, count = _HEAD.unpack_from(data, 0)
    if magic != _MAGIC:
        return None
    groups = []
    for number in range(min(count, SLOTS)):
        at = _HEAD.size + number * _SLOT_BYTES
        name, members, _ = _FACTS.unpack_from(data, at)
        issued, finished, waits, operation = _COUNTS.unpack_from(data, at + _FACTS.size)
        text = name.rstrip(b"\0").decode("ascii", "replace")
        said = OPERATIONS[operation] if operation < len(OPERATIONS) else OPERATIONS[0]
        groups.append(GroupCounts(text, members, issued, finished, waits, said))
    return Flight(generation, tuple(groups))
