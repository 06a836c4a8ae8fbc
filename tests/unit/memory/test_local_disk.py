"""States on a node's own disk: what is written, what is found again by the next life, what does not count, what has to go."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from phalanx.v1 import agent_pb2

from agents.memory.places import disk_folder, disk_path
from agents.memory.state_file import PAGE, Layout, StateFile
from agents.node.memory import disk as disk_module
from agents.node.memory.disk import GRACE_S, JOB_FILE, LocalDisk
from agents.node.memory.store import REPLICATED
from agents.node.observability import Counters

DISK = agent_pb2.HELD_KIND_DISK
EXPERTS = Layout(1, 100_000, 50_000)
LIMIT_S = 30.0
BORN_NS = 77


class Disks:
    """One folder, one life of its agent after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.counters = Counters()
        self.now = LocalDisk(root / "states", self.counters)

    def again(self) -> LocalDisk:
        self.now.close()
        self.now = LocalDisk(self.root / "states", self.counters)
        return self.now

    def memory(self, rank: int, layout: Layout = EXPERTS) -> StateFile:
        return StateFile.create(self.root / f"memory-{rank}.state", layout, rank)

    def wait(self, counter: str, count: int) -> None:
        end = time.monotonic() + LIMIT_S
        while self.counters.values[counter] < count:
            assert time.monotonic() < end, f"{counter}: {dict(self.counters.values)}"
            time.sleep(0.002)

    def write(self, source: StateFile, rank: int, step: int, generation: int = 1) -> None:
        """A version in memory, and the same on disk."""
        written = self.counters.values["disk_versions_written"]
        slot = source.begin(step)
        source.bytes_of(slot)[:] = bytes([step % 251]) * len(source.bytes_of(slot))
        source.finish(slot, step, generation)
        self.now.offer("job-1", rank, step, source)
        self.wait("disk_versions_written", written + 1)

    def not_written(
        self, patch: pytest.MonkeyPatch, pwrite: Callable[..., int], source: StateFile, counter: str
    ) -> None:
        """Step 100 does not get to the disk, where step 50 lies; step 150 does."""
        self.write(source, 3, 50)
        source.finish(source.begin(), 100, 1)
        with patch.context() as patched:
            patched.setattr(os, "pwrite", pwrite)
            self.now.offer("job-1", 3, 100, source)
            self.wait(counter, 1)
        assert self.rows() == {(3, 50, DISK)}
        self.write(source, 3, 150)
        assert self.rows() == {(3, 50, DISK), (3, 150, DISK)}

    def rows(self) -> set[tuple[int, int, int]]:
        return {(row.rank, row.step, row.kind) for row in self.now.rows("job-1")}

    @property
    def path(self) -> Path:
        return disk_path(disk_folder(self.root / "states", "job-1"), 3)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    made = Disks(tmp_path)
    made.now.begin("job-1", 1, ((1, 0),), BORN_NS)
    yield made
    made.now.close()


def test_the_last_two_versions_outlive_the_agent_and_the_memory(disks: Disks) -> None:
    source = disks.memory(3)
    for step in (50, 100, 150):
        disks.write(source, 3, step)
    source.path.unlink()
    found = disks.again()
    assert disks.rows() == {(3, 150, DISK), (3, 100, DISK)}
    assert found.generation("job-1") == 1
    stored = found.find("job-1", 3, 150)
    assert stored is not None
    file, version = stored
    assert file.readable(version)
    assert file.intact(version)
    assert bytes(file.bytes_of(version.slot)[:4]) == bytes([150]) * 4
    assert found.find("job-1", 3, 50) is None


def test_a_state_that_replicas_hold_alike_is_said_to_be(disks: Disks) -> None:
    disks.write(disks.memory(3, Layout(1, 0, 5_000)), 3, 50)
    assert disks.rows() == {(3, 50, DISK | REPLICATED)}


def test_what_came_after_the_start_of_a_later_generation_does_not_count(disks: Disks) -> None:
    """Also when this node took no part in that generation, and the newest one has started from a later step."""
    source = disks.memory(3)
    disks.write(source, 3, 50)
    disks.write(source, 3, 100)
    disks.now.begin("job-1", 4, ((1, 0), (2, 60), (4, 120)), BORN_NS)
    assert disks.rows() == {(3, 50, DISK)}
    assert disks.now.find("job-1", 3, 100) is None
    disks.write(source, 3, 150, generation=4)
    assert disks.rows() == {(3, 50, DISK), (3, 150, DISK)}, "the one that does not count makes room"
    disks.again()
    assert disks.rows() == {(3, 50, DISK), (3, 150, DISK)}


def test_an_older_generation_changes_nothing(disks: Disks) -> None:
    disks.now.begin("job-1", 5, ((5, 40),), BORN_NS)
    disks.now.begin("job-1", 4, ((4, 10),), BORN_NS)
    assert disks.now.generation("job-1") == 5


def test_a_version_that_the_rank_writes_over_is_left_out(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    source, pwrite = disks.memory(3), os.pwrite

    def slow(descriptor: int, data: memoryview, at: int) -> int:
        source.begin(100)  # the rank is faster than the disk
        return pwrite(descriptor, data, at)

    disks.not_written(monkeypatch, slow, source, "disk_versions_overtaken")


def test_a_disk_that_fails_costs_this_version_only(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    disks.not_written(monkeypatch, broken, disks.memory(3), "disk_versions_failed")


def test_a_version_of_before_the_newest_start_is_not_written(disks: Disks) -> None:
    """It waited while a generation began from an earlier step: it would take the place of one that counts."""
    source = disks.memory(3)
    disks.write(source, 3, 50)
    source.finish(source.begin(), 100, 1)
    disks.now.begin("job-1", 2, ((2, 60),), BORN_NS)
    disks.now.offer("job-1", 3, 100, source)
    disks.wait("disk_versions_overtaken", 1)
    assert disks.rows() == {(3, 50, DISK)}
    stored = StateFile.open(disks.path)
    assert stored.find(100) is None
    stored.close()


def test_what_does_not_fit_is_not_begun(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "SHARE", 0.0)
    source = disks.memory(3)
    source.finish(source.begin(), 50, 1)
    disks.now.offer("job-1", 3, 50, source)
    disks.wait("disk_versions_failed", 1)
    assert not disks.path.exists()
    assert disks.rows() == set()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damage_is_found_before_it_is_read(disks: Disks, damage: str) -> None:
    disks.write(disks.memory(3), 3, 50)
    found = disks.now.find("job-1", 3, 50)
    assert found is not None
    at, _ = found[0].place_of(found[1].slot)
    if damage == "flipped":
        with disks.path.open("r+b") as file:
            file.seek(at + 1_000)
            file.write(b"\xff")
        assert found[0].readable(found[1])
        assert not found[0].intact(found[1])
        disks.now.begin("job-1", 2, ((2, 50),), BORN_NS)
        end = time.monotonic() + LIMIT_S
        while disks.rows():
            assert time.monotonic() < end, "what a rank has dropped is not told again"
            time.sleep(0.002)
    elif damage == "cut":
        os.truncate(disks.path, at + 1_000)
        assert not found[0].readable(found[1])
        disks.again()
        assert disks.rows() == set()
    else:
        os.truncate(disks.path, PAGE - 1)
        disks.again()
        assert disks.rows() == set()


@pytest.mark.parametrize(
    "document", [b"", b"{}", b'{"uid": "job-2", "generation": 1, "line": [], "born_ns": 0}', b"[1]"]
)
def test_a_folder_that_says_nothing_of_use_is_removed(disks: Disks, document: bytes) -> None:
    disks.write(disks.memory(3), 3, 50)
    (disks.path.parent / JOB_FILE).write_bytes(document)
    again = disks.again()
    assert not disks.path.parent.exists()
    assert list(again.job_uids()) == []


def test_a_job_that_is_gone_for_long_is_forgotten(disks: Disks) -> None:
    disks.write(disks.memory(3), 3, 50)
    disks.now.sweep(set(), 1_000.0)
    disks.now.sweep({"job-1"}, 2_000.0)
    disks.now.sweep(set(), 3_000.0)
    disks.now.sweep(set(), 3_000.0 + GRACE_S - 1)
    assert disks.rows() == {(3, 50, DISK)}
    disks.now.sweep(set(), 3_000.0 + GRACE_S)
    assert disks.rows() == set()
    end = time.monotonic() + LIMIT_S
    while disks.path.parent.exists():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_what_a_job_is_stands_in_its_folder(disks: Disks) -> None:
    disks.write(disks.memory(3), 3, 50)
    document = json.loads((disks.path.parent / JOB_FILE).read_text())
    assert document == {"uid": "job-1", "generation": 1, "line": [[1, 0]], "born_ns": BORN_NS}


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (None, tmp_path / "file" / "below"):
        none = LocalDisk(folder, Counters())
        assert none.refused
        none.begin("job-1", 1, ((1, 0),), BORN_NS)
        none.offer("job-1", 3, 50, StateFile.create(tmp_path / "m.state", EXPERTS, 3))
        assert list(none.rows("job-1")) == []
        assert none.folder_of("job-1") is None
        none.sweep(set(), 0.0)
        none.close()


def test_a_job_of_the_same_name_of_another_site_is_another_job(disks: Disks) -> None:
    disks.write(disks.memory(3), 3, 50)
    assert disks.now.holds("job-1", 3, 50)
    again = disks.again()
    assert again.born_ns("job-1") == BORN_NS
    again.begin("job-1", 1, ((1, 0),), BORN_NS + 1)
    assert not again.holds("job-1", 3, 50)
    assert again.find("job-1", 3, 50) is None
    disks.write(disks.memory(3), 3, 100)
    assert disks.rows() == {(3, 100, DISK)}
