"""Backup and restore: the same state on the other side, across kinds of databases, and nothing that agents have seen again."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.adapters.journal.memory import MemoryJournal
from controlplane.adapters.journal.sql import SqlJournal
from controlplane.backup import BadBackup, check_backup, write_backup
from controlplane.core import records as r
from controlplane.core.machine import Machine
from controlplane.core.vocabulary import JobState
from controlplane.engine.ports import EpochLost
from controlplane.engine.recover import lead, load
from controlplane.engine.turn import replay
from controlplane.follower import store
from controlplane.restore import SKIPPED, restore
from tests.support.histories import eventful
from tests.support.world import World, spec

NOW = 2_000_000_000_000_000_000


@pytest.fixture(scope="module")
def world() -> World:
    """A rich history in which a job still runs."""
    made = eventful()
    made.submit(spec("last", 2))
    made.run_until(lambda: made.job("last").state is JobState.RUNNING)
    return made


def source_of(world: World) -> MemoryJournal:
    """The history with a snapshot in the middle and a compacted beginning."""
    history = world.journal.read(0, 100_000)
    journal = MemoryJournal()
    while journal.acquire("a") < history[-1].epoch:
        pass
    journal.append([replace(entry, epoch=history[-1].epoch) for entry in history])
    half = MemoryJournal()
    half.acquire("a")
    half.append([replace(entry, epoch=1) for entry in history[: len(history) // 2]])
    journal.store_snapshot(store(half, load(half)))
    journal.compact(len(history) // 2 - 5)
    return journal


def written(journal: MemoryJournal | SqlJournal, path: Path) -> Path:
    with journal.content() as content, path.open("wb") as file:
        write_backup(content, "0.2.0", file)
    return path


@pytest.fixture
def backup(world: World, tmp_path: Path) -> Path:
    return written(source_of(world), tmp_path / "site.backup")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'restored.db'}"
    made: str = request.getfixturevalue("postgres_url")
    return made


@pytest.fixture
def empty(url: str) -> Iterator[SqlJournal]:
    with closing(SqlJournal(url)) as journal:
        yield journal


def test_the_restored_journal_is_the_same_and_a_little_later(world: World, backup: Path, empty: SqlJournal) -> None:
    header, state = restore(backup, empty, NOW)
    before = world.state()
    assert (header.revision, header.epoch) == (before.revision, before.epoch)
    assert load(empty).digest() == state.digest()
    added = [entry for entry in empty.newest(10) if entry.revision > header.revision]
    kinds = [entry.type for entry in added]
    running = [job for job in before.active_jobs() if job.state is JobState.RUNNING]
    assert kinds == ["JournalRestored"] + ["RanksLost"] * len(running)
    assert len(running) >= 1
    original = world.journal.newest(100_000)
    kept = [(entry.revision, entry.type, entry.body) for entry in empty.newest(100_000)]
    assert set(kept) - {(e.revision, e.type, e.body) for e in original} == {(e.revision, e.type, e.body) for e in added}
    again = replay(world.state().fork(), added)
    assert again.digest() == state.digest(), "the backed up state, and what restoring decided"


def test_nothing_that_agents_may_have_seen_is_used_again(world: World, backup: Path, empty: SqlJournal) -> None:
    restore(backup, empty, NOW)
    before = world.state()
    led = lead(empty, Machine(), "new", "0.2.0", NOW)
    assert led.epoch == before.epoch + SKIPPED + 1
    assert led.next_job == before.next_job + SKIPPED
    assert led.next_effect == before.next_effect + SKIPPED
    for job in before.active_jobs():
        assert led.jobs[job.uid].next_host == job.next_host + SKIPPED
        assert led.jobs[job.uid].next_generation == job.generation + 1 + SKIPPED
    with pytest.raises(EpochLost):
        empty.append([replace(empty.newest(1)[0], revision=empty.bounds()[1] + 1, epoch=before.epoch)])


def test_a_running_job_makes_a_generation_beyond_the_gap(world: World, tmp_path: Path) -> None:
    """The machine itself goes on from a restored journal: one generation, nobody lost."""
    path = written(source_of(world), tmp_path / "b")
    with closing(SqlJournal(f"sqlite:///{tmp_path / 'r.db'}")) as journal:
        _, state = restore(path, journal, NOW)
    job = next(job for job in state.active_jobs() if job.name == "last")
    assert job.incident is not None
    assert job.incident.lost == ()
    assert "restored from a backup" in job.incident.cause


def test_a_backup_of_the_restored_one_is_the_same_again(backup: Path, empty: SqlJournal, tmp_path: Path) -> None:
    restore(backup, empty, NOW)
    second = written(empty, tmp_path / "second")
    with closing(SqlJournal(f"sqlite:///{tmp_path / 'third.db'}")) as third:
        restore(second, third, NOW)
        entries = third.newest(100_000)
        assert entries[: len(empty.newest(100_000))] == empty.newest(100_000)


def test_a_journal_that_holds_something_is_refused(backup: Path, empty: SqlJournal) -> None:
    lead(empty, Machine(), "a", "0", NOW)
    before = empty.newest(10)
    with pytest.raises(ValueError, match="holds a journal already"):
        restore(backup, empty, NOW)
    assert empty.newest(10) == before


def damage(path: Path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    text = gzip.decompress(bytes(raw))
    match how:
        case "flipped":
            raw[len(raw) // 2] ^= 0x20
        case "cut":
            del raw[len(raw) // 2 :]
        case "changed":
            raw = bytearray(gzip.compress(text.replace(b"JobSubmitted", b"JobSubmittes", 1)))
        case "short":
            raw = bytearray(gzip.compress(b"\n".join(text.splitlines()[:-2]) + b"\n"))
        case "lines lost":
            lines = text.splitlines()
            raw = bytearray(gzip.compress(b"\n".join([*lines[:5], *lines[6:]]) + b"\n"))
        case "newer":
            lines = text.splitlines()
            header = json.loads(lines[0]) | {"version": 2, "phalanx": "9.9.9"}
            raw = bytearray(gzip.compress(b"\n".join([json.dumps(header).encode(), *lines[1:]]) + b"\n"))
        case "another file":
            raw = bytearray(gzip.compress(b"hello\nworld\n"))
        case "empty":
            raw = bytearray()
        case _:
            raise AssertionError(how)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("flipped", "damaged"), ("cut", "damaged"), ("changed", "digest"), ("short", "cut off"), ("lines lost", "digest"),
        ("newer", "written by Phalanx 9.9.9"), ("another file", "no backup"), ("empty", "no backup"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused(backup: Path, tmp_path: Path, how: str, said: str) -> None:
    damage(backup, how)
    with closing(SqlJournal(f"sqlite:///{tmp_path / 'restored.db'}")) as empty:
        with pytest.raises(BadBackup, match=said):
            restore(backup, empty, NOW)
        assert empty.bounds() == (1, 0)


def test_a_record_of_a_newer_version_is_named(tmp_path: Path) -> None:
    journal = MemoryJournal()
    state = lead(journal, Machine(), "a", "0", NOW)
    journal.append([replace(journal.newest(1)[0], revision=state.revision + 1, type="FromTheFuture")])
    path = written(journal, tmp_path / "future")
    with closing(SqlJournal(f"sqlite:///{tmp_path / 'restored.db'}")) as empty:
        with pytest.raises(r.UnknownRecord, match="FromTheFuture"):
            restore(path, empty, NOW)
        assert empty.bounds() == (1, 0)


def test_an_empty_journal_has_a_backup_too(tmp_path: Path) -> None:
    path = written(MemoryJournal(), tmp_path / "empty")
    assert check_backup(path).revision == 0


def test_the_digest_is_that_of_the_text() -> None:
    file = io.BytesIO()
    with MemoryJournal().content() as content:
        write_backup(content, "0", file)
    assert len(gzip.decompress(file.getvalue()).splitlines()) == 3


def test_the_command(backup: Path, tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "controlplane.restore", str(backup), "--journal", f"sqlite:///{tmp_path / 'r.db'}"]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root}/proto/gen/python"}
    for code, said in ((0, "restored revision"), (1, "holds a journal already")):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == code, done.stderr
        assert said in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
