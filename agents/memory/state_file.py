"""A rank's state in shared memory: two versions of it, and the tag that says where in a step its process is.

One ordinary file below `/dev/shm`, mapped by the rank's process, which writes it, and by its node agent, which reads it when
the process pauses or has died: `multiprocessing.shared_memory` would unlink it on the exit of either (Python 3.11).

    page 0          words of 8 bytes, each written as a whole
    slot 0, slot 1  the state after one step each: what no replica holds first, then what replicas hold alike

A slot is written in this order: its step becomes 0 (empty), then its bytes, then digests and generation, then its step. A death
at any byte leaves the other slot complete. Only stores of aligned words decide, in an order that x86 and, with the lock that
Python's evaluation loop takes between two of them, ARM keep.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import xxhash

MAGIC = 0x3154_5358_4C41_4850  # "PHALXST1"
PAGE = 4_096
SLOTS = 2
DIGEST_BYTES = 8 << 20
"""Digests are taken piece by piece, so that nothing else of the process waits for one."""
_HEADER_WORDS = 16
_SLOT_WORDS = 8
Line = Sequence[tuple[int, int]]
"""Pairs of (generation, step that it started from); see `LineStart` in agent.proto."""
MAX_BYTES = 1 << 40
MAX_STEP = 1 << 38
"""Larger numbers are damage; the controller refuses all that a node says for one of them."""


class Word(IntEnum):
    """Positions in the first page, in words of 8 bytes."""

    MAGIC = 0
    UNIQUE_BYTES = 1
    SHARED_BYTES = 2
    LAYOUT_LOW = 3
    LAYOUT_HIGH = 4
    RANK = 5
    GENERATION = 6
    TAG = 7
    """Step << 2 | `Phase`."""
    PARTNER_STEP = 8
    """Newest step of which a partner holds what no replica has; written by the node agent."""
    PARTNERS = 9
    """1: the node agent sends copies; written by it."""
    PARTIAL = 10
    """1: a copy that lacks what replicas hold."""
    SLOTS = 11


class Phase(IntEnum):
    """Where in a step a process is. Between two steps it holds the result of the one that is DONE."""

    NOTHING = 0
    """No whole state yet: it is being built or loaded."""
    OPTIMIZER = 1
    """The state is half changed."""
    DONE = 2


class _Slot(IntEnum):
    STEP = 0
    """The step + 1; 0: empty."""
    GENERATION = 1
    UNIQUE_LOW = 2
    UNIQUE_HIGH = 3
    SHARED_LOW = 4
    SHARED_HIGH = 5


class NotAState(Exception):
    """The file is none of these, or torn; the message says why."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a state is made of. `key`: a digest of names, shapes and types, so that nothing is loaded into another
    architecture; sizes in bytes."""

    key: int
    unique_bytes: int
    shared_bytes: int

    @property
    def slot_bytes(self) -> int:
        """One version, rounded up to pages."""
        return -(-(self.unique_bytes + self.shared_bytes) // PAGE) * PAGE

    @property
    def file_bytes(self) -> int:
        """All of a file with two versions."""
        return self.bytes_with(SLOTS)

    def bytes_with(self, slots: int) -> int:
        """All of a file with so many versions."""
        return PAGE + slots * self.slot_bytes


@dataclass(frozen=True, slots=True)
class Version:
    """A complete version. `whole`: with what replicas hold alike."""

    slot: int
    step: int
    generation: int
    whole: bool

    def counts(self, line: Line) -> bool:
        """Whether it belongs to the past that the newest generation has: no later one started before its step."""
        return all(self.step <= start for generation, start in line if generation > self.generation)


class StateFile:
    """One mapped file. Make it with `create` or `open`; the writer is one process, readers may be several."""

    def __init__(self, path: Path, area: mmap.mmap, layout: Layout, *, inode: int, slots: int) -> None:
        self.path = path
        self.layout = layout
        self.inode = inode
        self._slots = slots
        self._area = area
        self._view = memoryview(area)
        self._words = self._view[:PAGE].cast("Q")

    @staticmethod
    def create(
        path: Path, layout: Layout, rank: int, *, partial: bool = False, slots: int = SLOTS, reserved: bool = True
    ) -> StateFile:
        """A new, empty file in place of whatever was there.

        Args:
            path, layout, rank: where, what, whose.
            partial: what replicas hold is not in it.
            slots: versions that it holds.
            reserved: take the memory of all versions now. Else call `reserve` before the first is written.

        Raises:
            OSError: there is no room, or the folder is not there.
        """
        size = layout.bytes_with(slots)
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, size)
            # Here a full /dev/shm is an error; later it would be a SIGBUS.
            os.posix_fallocate(descriptor, 0, size if reserved else PAGE)
            area = mmap.mmap(descriptor, size)
            inode = os.fstat(descriptor).st_ino
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        made = StateFile(path, area, layout, inode=inode, slots=slots)
        made.put(Word.UNIQUE_BYTES, layout.unique_bytes)
        made.put(Word.SHARED_BYTES, layout.shared_bytes)
        made.put(Word.LAYOUT_LOW, layout.key & _LOW)
        made.put(Word.LAYOUT_HIGH, layout.key >> 64)
        made.put(Word.RANK, rank)
        made.put(Word.PARTIAL, int(partial))
        made.put(Word.SLOTS, slots)
        made.put(Word.MAGIC, MAGIC)
        temporary.rename(path)
        return made

    @staticmethod
    def open(path: Path) -> StateFile:
        """Map a file that somebody made.

        Raises:
            NotAState: it is not there, or none.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise NotAState(f"{path}: {error.strerror}") from None
        try:
            found = os.fstat(descriptor)
            size = found.st_size
            if size < PAGE or len(os.pread(descriptor, PAGE, 0)) < PAGE:
                raise NotAState(f"{path} has {size} bytes")
            area = mmap.mmap(descriptor, size)
        except OSError as error:  # a page of a broken disk: read through the mapping it would be a SIGBUS
            raise NotAState(f"{path}: {error.strerror}") from None
        finally:
            os.close(descriptor)
        words = memoryview(area)[:PAGE].cast("Q")
        key = words[Word.LAYOUT_HIGH] << 64 | words[Word.LAYOUT_LOW]
        layout = Layout(key, words[Word.UNIQUE_BYTES], words[Word.SHARED_BYTES])
        slots, known = words[Word.SLOTS], words[Word.MAGIC] == MAGIC
        fits = layout.unique_bytes + layout.shared_bytes <= MAX_BYTES and 0 < slots <= SLOTS
        if not known or not fits or size != layout.bytes_with(slots):
            words.release()
            raise NotAState(f"{path} is no state of this version")
        words.release()
        return StateFile(path, area, layout, inode=found.st_ino, slots=slots)

    def reserve(self) -> None:
        """Take the memory of all versions; takes as long as touching it.

        Raises:
            OSError: there is no room for it.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.posix_fallocate(descriptor, 0, self.layout.bytes_with(self._slots))
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Unmap. Whoever still holds memory of it keeps the mapping alive."""
        with suppress(BufferError):  # tensors look into it: it goes with them
            self._words.release()
            self._view.release()
            self._area.close()

    # Words

    def get(self, word: Word) -> int:
        """A word of the first page."""
        return self._words[word]

    def put(self, word: Word, value: int) -> None:
        """Change a word."""
        self._words[word] = value

    @property
    def tag(self) -> tuple[int, Phase]:
        """(step, phase) of the process."""
        value = self._words[Word.TAG]
        phase = value & 3
        return value >> 2, Phase(phase) if phase <= Phase.DONE else Phase.NOTHING

    def mark(self, step: int, phase: Phase) -> None:
        """Where the process is now."""
        self._words[Word.TAG] = step << 2 | phase

    # Versions

    def versions(self) -> list[Version]:
        """Complete versions, newest first. Digests are not compared."""
        found = []
        for slot in range(self._slots):
            step = self._slot(slot, _Slot.STEP)
            if step:
                whole = not self._words[Word.PARTIAL]
                found.append(Version(slot, step - 1, self._slot(slot, _Slot.GENERATION), whole))
        return sorted(found, key=lambda version: version.step, reverse=True)

    def find(self, step: int) -> Version | None:
        """The version of a step."""
        return next((version for version in self.versions() if version.step == step), None)

    def begin(self, step: int | None = None) -> int:
        """Make the older slot empty, or the one that holds this step already, and return it: it is to be written now."""
        steps = [self._slot(slot, _Slot.STEP) for slot in range(self._slots)]
        slot = steps.index(step + 1 if step is not None and step + 1 in steps else min(steps))
        self._set(slot, _Slot.STEP, 0)
        return slot

    def finish(self, slot: int, step: int, generation: int) -> None:
        """The slot's bytes are written: take their digests, then let it count."""
        self.finish_copy(slot, step, generation, (digest_of(self.unique(slot)), digest_of(self.shared(slot))))

    def finish_copy(self, slot: int, step: int, generation: int, digests: tuple[int, int]) -> None:
        """The same, of a copy of bytes whose digests are known."""
        self._set_digest(slot, _Slot.UNIQUE_LOW, digests[0])
        self._set_digest(slot, _Slot.SHARED_LOW, digests[1])
        self._set(slot, _Slot.GENERATION, generation)
        self._set(slot, _Slot.STEP, step + 1)

    def place_of(self, slot: int) -> tuple[int, int]:
        """Where in the file the bytes of a slot begin and end."""
        begin = PAGE + slot * self.layout.slot_bytes
        return begin, begin + self.layout.unique_bytes + self.layout.shared_bytes

    def bytes_of(self, slot: int) -> memoryview:
        """All bytes of a slot."""
        begin, end = self.place_of(slot)
        return self._view[begin:end]

    def forget_after(self, step: int) -> None:
        """Versions of later steps belong to a past that did not happen."""
        for version in self.versions():
            if version.step > step:
                self.drop(version)
        self.put(Word.PARTNER_STEP, min(self.get(Word.PARTNER_STEP), step))

    def forget_outside(self, line: Line) -> None:
        """Drop versions that do not count."""
        for version in self.versions():
            if not version.counts(line):
                self.drop(version)

    def drop(self, version: Version) -> None:
        """This version does not count any more."""
        self._set(version.slot, _Slot.STEP, 0)

    def intact(self, version: Version) -> bool:
        """Whether the bytes still are what was written. One that is not is dropped."""
        now = digest_of(self.unique(version.slot)), digest_of(self.shared(version.slot))
        good = now == self.digests(version.slot)
        if not good:
            self.drop(version)
        return good

    def readable(self, version: Version) -> bool:
        """Whether a disk gives all bytes of a version; read through the mapping, one that it does not would be a SIGBUS."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            at, end = self.place_of(version.slot)
            while at < end:
                read = len(os.pread(descriptor, min(DIGEST_BYTES, end - at), at))
                if not read:
                    return False
                at += read
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def digests(self, slot: int) -> tuple[int, int]:
        """The digests that were taken when the slot was written: of the unique bytes and of the others."""
        return self._digest(slot, _Slot.UNIQUE_LOW), self._digest(slot, _Slot.SHARED_LOW)

    def unique(self, slot: int) -> memoryview:
        """The bytes that no replica holds."""
        begin = PAGE + slot * self.layout.slot_bytes
        return self._view[begin : begin + self.layout.unique_bytes]

    def shared(self, slot: int) -> memoryview:
        """The bytes that replicas hold alike."""
        begin = PAGE + slot * self.layout.slot_bytes + self.layout.unique_bytes
        return self._view[begin : begin + self.layout.shared_bytes]

    def _slot(self, slot: int, word: _Slot) -> int:
        return self._words[_HEADER_WORDS + slot * _SLOT_WORDS + word]

    def _set(self, slot: int, word: _Slot, value: int) -> None:
        self._words[_HEADER_WORDS + slot * _SLOT_WORDS + word] = value

    def _digest(self, slot: int, low: _Slot) -> int:
        at = _HEADER_WORDS + slot * _SLOT_WORDS + low
        return self._words[at + 1] << 64 | self._words[at]

    def _set_digest(self, slot: int, low: _Slot, value: int) -> None:
        at = _HEADER_WORDS + slot * _SLOT_WORDS + low
        self._words[at], self._words[at + 1] = value & _LOW, value >> 64


_LOW = (1 << 64) - 1


def digest_of(data: memoryview) -> int:
    """128 bits that find damage, not forgery; never 0."""
    found = xxhash.xxh3_128()
    for begin in range(0, len(data), DIGEST_BYTES):
        found.update(data[begin : begin + DIGEST_BYTES])
    return found.intdigest() or 1


def layout_key(names: Sequence[str]) -> int:
    """A digest of what describes each tensor of a state."""
    return xxhash.xxh3_128_intdigest("\n".join(names).encode())
