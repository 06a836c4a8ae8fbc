"""A rank's state in shared memory: whatever ends a process in the middle of a version, the other one is complete."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.memory.state_file import (
    DIGEST_BYTES,
    MAGIC,
    MAX_BYTES,
    PAGE,
    Layout,
    NotAState,
    Phase,
    StateFile,
    Word,
    layout_key,
)  # fmt: skip

SMALL = Layout(key=0x1234 << 64 | 0x5678, unique_bytes=100, shared_bytes=300)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job-1-0.state"


@pytest.fixture
def shm() -> Iterator[Path]:
    """A folder in memory; in its absence any: the limits are those of a file system."""
    parent = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=parent if os.access(parent, os.W_OK) else None) as folder:
        yield Path(folder)


def fill(file: StateFile, slot: int, value: int) -> None:
    file.unique(slot)[:] = bytes([value]) * file.layout.unique_bytes
    file.shared(slot)[:] = bytes([value + 1]) * file.layout.shared_bytes


def write(file: StateFile, step: int, generation: int = 1) -> int:
    slot = file.begin()
    fill(file, slot, step)
    file.finish(slot, step, generation)
    return slot


def steps(file: StateFile) -> list[int]:
    return [version.step for version in file.versions()]


def test_a_new_file_holds_nothing_and_knows_whose_it_is(path: Path) -> None:
    made = StateFile.create(path, SMALL, rank=7)
    assert (steps(made), made.tag, made.get(Word.RANK)) == ([], (0, Phase.NOTHING), 7)
    assert path.stat().st_size == SMALL.file_bytes
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_two_versions_are_kept_and_the_older_one_gives_way(path: Path) -> None:
    file = StateFile.create(path, SMALL, 0)
    slots = [write(file, step, generation=step // 2) for step in (3, 4, 5)]
    assert slots[0] == slots[2] != slots[1]
    assert [(v.step, v.generation, v.whole) for v in file.versions()] == [(5, 2, True), (4, 2, True)]
    assert file.find(3) is None
    for version in file.versions():
        assert bytes(file.unique(version.slot)) == bytes([version.step]) * 100
        assert bytes(file.shared(version.slot)) == bytes([version.step + 1]) * 300
        assert file.intact(version)


def test_the_same_step_again_does_not_cost_the_one_before(path: Path) -> None:
    file = StateFile.create(path, SMALL, 0)
    write(file, 3)
    slot = write(file, 4)
    assert file.begin(4) == slot
    file.finish(slot, 4, 2)
    assert [(v.step, v.generation) for v in file.versions()] == [(4, 2), (3, 1)]


def test_step_0_is_a_version_as_well(path: Path) -> None:
    file = StateFile.create(path, SMALL, 0)
    write(file, 0)
    assert steps(file) == [0]


def test_another_process_sees_what_was_written(path: Path) -> None:
    writer = StateFile.create(path, SMALL, rank=3)
    write(writer, 9, generation=4)
    writer.mark(10, Phase.OPTIMIZER)
    writer.close()
    reader = StateFile.open(path)
    assert (reader.layout, reader.get(Word.RANK), reader.tag) == (SMALL, 3, (10, Phase.OPTIMIZER))
    (version,) = reader.versions()
    assert (version.step, version.generation) == (9, 4)
    assert reader.intact(version)


def death_after(file: StateFile, stores: int) -> None:
    """Write step 5 until so many stores are done, as a killed process does."""
    slot = file.begin()
    if stores >= 1:
        file.unique(slot)[:50] = b"x" * 50
    if stores >= 2:
        fill(file, slot, 5)


@pytest.mark.parametrize("stores", [0, 1, 2])
def test_a_death_before_the_end_leaves_the_other_version(path: Path, stores: int) -> None:
    file = StateFile.create(path, SMALL, 0)
    write(file, 3)
    write(file, 4)
    death_after(file, stores)
    file.close()
    left = StateFile.open(path)
    assert steps(left) == [4]
    assert left.intact(left.versions()[0])


@given(st.integers(0, 399), st.integers(1, 255))
@settings(max_examples=40, deadline=None)
def test_any_byte_that_changes_later_is_found(at: int, change: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = StateFile.create(Path(folder) / "a.state", SMALL, 0)
        write(file, 3)
        slot = write(file, 4)
        place, index = (file.unique(slot), at) if at < 100 else (file.shared(slot), at - 100)
        place[index] ^= change
        newest, other = file.versions()
        assert not file.intact(newest)
        assert steps(file) == [3], "the damaged one does not count any more"
        assert file.intact(other)


def test_damage_behind_the_first_piece_of_a_digest_is_found(path: Path) -> None:
    file = StateFile.create(path, Layout(1, DIGEST_BYTES + 10, 0), 0)
    slot = file.begin()
    file.finish(slot, 1, 1)
    file.unique(slot)[DIGEST_BYTES + 9] = 1
    assert not file.intact(file.versions()[0])


def test_what_did_not_happen_is_forgotten_and_the_partner_does_not_hold_it_either(path: Path) -> None:
    file = StateFile.create(path, SMALL, 0)
    write(file, 3)
    write(file, 4)
    file.put(Word.PARTNER_STEP, 4)
    file.forget_after(3)
    assert (steps(file), file.get(Word.PARTNER_STEP)) == ([3], 3)
    file.forget_after(9)
    assert (steps(file), file.get(Word.PARTNER_STEP)) == ([3], 3)
    file.forget_after(0)
    assert steps(file) == []


def test_a_copy_without_what_replicas_hold_says_so(path: Path) -> None:
    layout = Layout(1, 100, 0)
    file = StateFile.create(path, layout, 2, partial=True)
    write(file, 6)
    reopened = StateFile.open(path)
    assert [(v.step, v.whole) for v in reopened.versions()] == [(6, False)]
    assert len(reopened.shared(0)) == 0
    assert reopened.intact(reopened.versions()[0])


def test_a_new_file_takes_the_place_of_the_old_one_whose_readers_keep_theirs(path: Path) -> None:
    old = StateFile.create(path, SMALL, 0)
    write(old, 3)
    path.with_suffix(".new").write_bytes(b"left behind by one who died while making it")
    new = StateFile.create(path, Layout(9, 8, 0), 1)
    assert new.inode != old.inode
    assert (steps(old), steps(new), StateFile.open(path).layout.key) == ([3], [], 9)


@pytest.mark.parametrize("phase", list(Phase))
def test_the_tag_is_one_word(path: Path, phase: Phase) -> None:
    file = StateFile.create(path, SMALL, 0)
    file.mark(123_456, phase)
    assert file.tag == (123_456, phase)
    assert file.get(Word.TAG) == 123_456 << 2 | phase


def test_a_phase_of_another_version_holds_nothing(path: Path) -> None:
    file = StateFile.create(path, SMALL, 0)
    file.put(Word.TAG, 5 << 2 | 3)
    assert file.tag == (5, Phase.NOTHING)


def header(**words: int) -> bytes:
    """The first page of a good file of `SMALL`, with these words instead."""
    values = [0] * (PAGE // 8)
    values[Word.MAGIC], values[Word.UNIQUE_BYTES], values[Word.SHARED_BYTES], values[Word.SLOTS] = MAGIC, 100, 300, 2
    for name, value in words.items():
        values[Word[name]] = value
    return struct.pack(f"<{len(values)}Q", *values)


BAD = {
    "empty": b"",
    "short": b"x" * (PAGE - 1),
    "foreign": os.urandom(SMALL.file_bytes),
    "zeros": bytes(SMALL.file_bytes),
    "cut off": header() + bytes(SMALL.file_bytes - PAGE - 1),
    "longer": header() + bytes(SMALL.file_bytes - PAGE + 1),
    "header only": header(),
    "another version": header(MAGIC=MAGIC + 1) + bytes(SMALL.file_bytes - PAGE),
    "no slots": header(SLOTS=0) + bytes(SMALL.file_bytes - PAGE),
    "many slots": header(SLOTS=2**64 - 1) + bytes(SMALL.file_bytes - PAGE),
    "huge": header(UNIQUE_BYTES=MAX_BYTES + 1, SHARED_BYTES=0),
    "largest numbers": header(UNIQUE_BYTES=2**64 - 1, SHARED_BYTES=2**64 - 1),
}  # fmt: skip


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_what_is_no_state_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotAState, match=str(path)):
        StateFile.open(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_good_header_is_not_refused(path: Path) -> None:
    """The table above proves nothing otherwise."""
    path.write_bytes(header() + bytes(SMALL.file_bytes - PAGE))
    assert StateFile.open(path).layout == Layout(0, 100, 300)


def test_what_is_no_file_is_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(NotAState, match="No such file"):
        StateFile.open(path)
    StateFile.create(tmp_path / "real.state", SMALL, 0)
    path.symlink_to(tmp_path / "real.state")
    with pytest.raises(NotAState, match=str(path)):
        StateFile.open(path)
    with pytest.raises(NotAState, match=str(tmp_path)):
        StateFile.open(tmp_path)


def test_without_room_it_says_so_and_leaves_nothing(shm: Path) -> None:
    found = os.statvfs(shm)
    larger = found.f_blocks * found.f_frsize + PAGE
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r"(?i)no space|too large"):
        StateFile.create(shm / "a.state", Layout(1, larger, 0), 0)
    assert list(shm.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_a_folder_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StateFile.create(tmp_path / "not there" / "a.state", SMALL, 0)


def test_a_closed_file_gives_its_memory_back_once_nobody_looks_into_it(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        file = StateFile.create(path, SMALL, 0)
        held = file.unique(0)
        file.close()
        assert bytes(held) == bytes(100), "who still looks into it may"
        del held, file
    assert len(os.listdir("/proc/self/fd")) == before


def test_architectures_differ_by_name_shape_and_type() -> None:
    keys = {layout_key(names) for names in (["a f32 [2]"], ["a f32 [3]"], ["b f32 [2]"], ["a bf16 [2]"], [])}
    assert len(keys) == 5
