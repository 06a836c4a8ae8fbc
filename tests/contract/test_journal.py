"""What every journal promises, checked on each implementation; below that, what only a file on a disk can get wrong."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import journal_process
import pytest
from journal_process import record, records
from sqlalchemy import event

import controlplane
from controlplane.adapters.journal.lease import SqlLease
from controlplane.adapters.journal.memory import MemoryJournal
from controlplane.adapters.journal.schema import SCHEMA_VERSION, metadata
from controlplane.adapters.journal.sql import SqlJournal
from controlplane.core.state import State
from controlplane.engine.ports import (
    Compacted,
    EpochLost,
    Journal,
    JournalCorrupt,
    JournalEntry,
    JournalUnavailable,
    LeaseStore,
    Snapshot,
)
from controlplane.engine.recover import load
from controlplane.engine.turn import replay

type_names = ("placed", "suspected", "noted")


def snapshot(revision: int, body: str = "{}") -> Snapshot:
    return Snapshot(revision, hashlib.sha256(body.encode()).hexdigest(), body)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let this process write no file beyond `size` bytes: the disk's own error, for any user on any machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Subject:
    """One implementation under test: open it any number of times on the same storage, and take its space away.

    `no_space` is None where a test of its own takes the space away (PostgreSQL's server has no limit that we could set).
    """

    def __init__(
        self,
        open_again: Callable[[], SqlJournal | MemoryJournal],
        lease: Callable[[], LeaseStore],
        no_space: Callable[[], ExitStack] | None,
    ) -> None:
        self.open = open_again
        self.lease = lease
        self.no_space = no_space


def memory_subject(_request: pytest.FixtureRequest) -> Subject:
    origin = MemoryJournal()

    def no_space() -> ExitStack:
        stack = ExitStack()
        origin.set_full(True)
        stack.callback(origin.set_full, False)
        return stack

    return Subject(origin.open_again, origin.lease, no_space)


def sqlite_subject(request: pytest.FixtureRequest) -> Subject:
    folder: Path = request.getfixturevalue("tmp_path")
    path = folder / "journal.db"

    def no_space() -> ExitStack:
        stack = ExitStack()
        stack.enter_context(file_size_limit(Path(f"{path}-wal").stat().st_size))
        return stack

    url = f"sqlite:///{path}"
    return Subject(lambda: SqlJournal(url), lambda: SqlLease(url, limit_ms=5_000), no_space)


def postgres_subject(request: pytest.FixtureRequest) -> Subject:
    url: str = request.getfixturevalue("postgres_url")
    return Subject(lambda: SqlJournal(url), lambda: SqlLease(url, limit_ms=5_000), None)


@pytest.fixture(params=[memory_subject, sqlite_subject, postgres_subject], ids=["memory", "sqlite", "postgres"])
def subject(request: pytest.FixtureRequest) -> Subject:
    made: Subject = request.param(request)
    return made


@pytest.fixture
def journal(subject: Subject) -> Iterator[SqlJournal | MemoryJournal]:
    with closing(subject.open()) as opened:
        yield opened


class TestContract:
    def test_it_is_the_port(self, journal: SqlJournal | MemoryJournal) -> None:
        port: Journal = journal
        assert port.bounds() == (1, 0)
        assert port.read(0) == []
        assert port.newest(10) == []
        assert port.latest_snapshot() is None

    def test_entries_come_back_whole_and_in_order(self, journal: SqlJournal | MemoryJournal) -> None:
        epoch = journal.acquire("a")
        body = '{"text":"ü 語 \\u0000 \' %s :x","list":[]}'
        odd = JournalEntry(1, epoch, 2**62, "cause ü", "odd", 7, body, "job/1", "node%1")
        journal.append([odd, record(2, epoch)])
        journal.append(records(3, 5, epoch))
        assert journal.read(0) == [odd, *records(2, 6, epoch)]
        assert journal.bounds() == (1, 7)

    def test_read_goes_on_after_a_revision_within_a_limit(self, journal: SqlJournal | MemoryJournal) -> None:
        epoch = journal.acquire("a")
        journal.append(records(1, 20, epoch))
        assert journal.read(0, limit=3) == records(1, 3, epoch)
        assert journal.read(3, limit=3) == records(4, 3, epoch)
        assert journal.read(18, limit=3) == records(19, 2, epoch)
        assert journal.read(20) == journal.read(99) == []

    @pytest.mark.parametrize(("after", "limit"), [(-1, 1), (0, 0), (0, -1)])
    def test_a_senseless_range_is_a_bug(self, journal: SqlJournal | MemoryJournal, after: int, limit: int) -> None:
        with pytest.raises(ValueError, match="after >= 0 and limit >= 1"):
            journal.read(after, limit)
        with pytest.raises(ValueError, match="after >= 0 and limit >= 1"):
            journal.newest(limit, after=after)

    def test_newest_agrees_with_a_plain_filter(self, journal: SqlJournal | MemoryJournal) -> None:
        epoch = journal.acquire("a")
        draw = random.Random(7)
        written = [
            record(
                revision,
                epoch,
                kind=draw.choice(type_names),
                job=draw.choice(["", "job-1", "job-2"]),
                node=draw.choice(["", "node-1", "node-2"]),
            )
            for revision in range(1, 201)
        ]
        journal.append(written)
        cases = itertools.product(
            (1, 5, 500), (0, 150, 200), ("", "job-1", "none"), ("", "node-2"), ((), ("placed",), type_names, ("none",))
        )
        for limit, after, job, node, types in cases:
            matching = [
                entry
                for entry in written
                if entry.revision > after
                and (not job or entry.job == job)
                and (not node or entry.node == node)
                and (not types or entry.type in types)
            ]
            assert journal.newest(limit, after=after, job=job, node=node, types=types) == matching[-limit:]
            if not job and not node:
                assert journal.oldest(limit, after=after, types=types) == matching[:limit]

    @pytest.mark.parametrize("first", [1, 3, 5, 100])
    def test_a_gap_or_a_clash_of_revisions_is_a_bug(self, journal: SqlJournal | MemoryJournal, first: int) -> None:
        epoch = journal.acquire("a")
        journal.append(records(1, 3, epoch))
        with pytest.raises(ValueError, match="newest revision 3; nothing was written"):
            journal.append(records(first, 2, epoch))
        journal.append(records(4, 1, epoch))
        assert journal.read(0) == records(1, 4, epoch)

    def test_a_batch_that_does_not_fit_together_is_a_bug(self, journal: SqlJournal | MemoryJournal) -> None:
        first, second = journal.acquire("a"), journal.acquire("a")
        with pytest.raises(ValueError, match="holds revision 3 where 2 must be"):
            journal.append([record(1, second), record(3, second)])
        with pytest.raises(ValueError, match="mixes epochs"):
            journal.append([record(1, second), record(2, first)])
        with pytest.raises(ValueError, match="never acquired"):
            journal.append([record(1, second + 1)])
        journal.append([])
        assert journal.bounds() == (1, 0)

    def test_the_epoch_grows_with_every_leader_and_survives(self, subject: Subject) -> None:
        epochs = []
        for holder in ("a", "b", "a"):
            with closing(subject.open()) as opened:
                epochs.append(opened.acquire(holder))
        assert epochs == [1, 2, 3]

    def test_an_old_leader_writes_nothing(self, subject: Subject) -> None:
        with closing(subject.open()) as old, closing(subject.open()) as new:
            old_epoch = old.acquire("old")
            old.append(records(1, 2, old_epoch))
            new_epoch = new.acquire("new")
            for first in (1, 3, 9):  # whatever the revision, the epoch decides
                with pytest.raises(EpochLost, match="epoch 2 leads"):
                    old.append(records(first, 2, old_epoch))
            assert new.read(0) == records(1, 2, old_epoch)
            new.append(records(3, 1, new_epoch))
            assert old.bounds() == (1, 3)

    def test_an_append_without_space_writes_nothing_and_works_later(
        self, subject: Subject, journal: SqlJournal | MemoryJournal
    ) -> None:
        if subject.no_space is None:
            pytest.skip("test_postgres fills a small disk")
        epoch = journal.acquire("a")
        journal.append(records(1, 3, epoch))
        batch = records(4, 200, epoch, size=20_000)
        with subject.no_space():
            for _ in range(3):
                with pytest.raises(JournalUnavailable, match="disk"):
                    journal.append(batch)
                assert journal.bounds() == (1, 3)
            with pytest.raises(JournalUnavailable, match="disk"):
                journal.store_snapshot(snapshot(3, "x" * 5_000_000))
        assert journal.latest_snapshot() is None
        journal.append(batch)
        journal.close()
        with closing(subject.open()) as again:
            assert again.read(0) == [*records(1, 3, epoch), *batch]

    def test_the_newest_two_snapshots_are_kept(self, subject: Subject, journal: SqlJournal | MemoryJournal) -> None:
        epoch = journal.acquire("a")
        journal.append(records(1, 9, epoch))
        for revision in (3, 9, 6, 2):
            journal.store_snapshot(snapshot(revision, f'{{"at":{revision}}}'))
        with closing(subject.open()) as again:
            assert again.latest_snapshot() == snapshot(9, '{"at":9}')
        journal.store_snapshot(snapshot(9, '{"again":9}'))
        assert journal.latest_snapshot() == snapshot(9, '{"again":9}')

    def test_a_snapshot_that_cannot_be_true_is_a_bug(self, journal: SqlJournal | MemoryJournal) -> None:
        journal.append(records(1, 3, journal.acquire("a")))
        with pytest.raises(ValueError, match="newest is 3"):
            journal.store_snapshot(snapshot(4))
        with pytest.raises(ValueError, match="SHA-256"):
            journal.store_snapshot(Snapshot(3, "0" * 64, "{}"))
        assert journal.latest_snapshot() is None

    def test_compaction_needs_a_snapshot_and_then_reads_say_so(
        self, subject: Subject, journal: SqlJournal | MemoryJournal
    ) -> None:
        epoch = journal.acquire("a")
        for first in range(1, 12_000, 6_000):
            journal.append(records(first, 6_000, epoch))
        for stored in (None, snapshot(10_999)):
            if stored:
                journal.store_snapshot(stored)
            with pytest.raises(ValueError, match="nothing was deleted"):
                journal.compact(11_000)
        assert journal.bounds() == (1, 12_000)
        journal.store_snapshot(snapshot(12_000))
        assert journal.compact(11_000) == 10_999
        assert journal.compact(11_000) == journal.compact(5) == 0
        assert journal.bounds() == (11_000, 12_000)
        with pytest.raises(Compacted) as raised:
            journal.read(10_998)
        assert raised.value.oldest == 11_000
        assert journal.read(10_999, limit=2) == records(11_000, 2, epoch)
        assert journal.newest(5_000) == records(7_001, 5_000, epoch), "newest reads the archive too"
        assert journal.compact(12_000) == 1_000
        journal.append(records(12_001, 1, epoch))
        with closing(subject.open()) as again:
            assert again.read(11_999) == records(12_000, 2, epoch)

    def test_compaction_keeps_what_explains_decisions(
        self, subject: Subject, journal: SqlJournal | MemoryJournal
    ) -> None:
        epoch = journal.acquire("a")
        kinds = ("RecoveryDecided", "EffectsIssued", "NodeCordoned", "RequestAnswered")
        written = [record(n, epoch, kind=kinds[n % 4], job=f"job-{n % 3}") for n in range(1, 101)]
        journal.append(written)
        journal.store_snapshot(snapshot(100))
        assert journal.compact(81) == 80
        kept = [e for e in written if e.revision > 80 or e.type in ("RecoveryDecided", "NodeCordoned")]
        assert journal.newest(500) == kept
        assert journal.newest(15) == kept[-15:]
        wanted = [e for e in kept if e.job == "job-1" and e.type == "RecoveryDecided" and e.revision > 20]
        assert journal.newest(7, after=20, job="job-1", types=("RecoveryDecided",)) == wanted[-7:]
        extent = journal.extent()
        assert (extent.oldest, extent.newest, extent.snapshot, extent.archived) == (81, 100, 100, 40)
        assert extent.bytes > 0
        assert journal.forget(written[39].at_ns) == 19, "every other one up to revision 38"
        assert journal.extent().archived == 21
        with closing(subject.open()) as again:
            assert again.newest(500) == [e for e in kept if e.revision >= 40]

    def test_an_uncertain_append_is_looked_up(self, subject: Subject, journal: SqlJournal | MemoryJournal) -> None:
        epoch = journal.acquire("a")
        batch = records(1, 3, epoch)
        assert not journal.stored(batch)
        journal.append(batch)
        assert journal.stored(batch)
        assert not journal.stored(records(4, 2, epoch))
        with closing(subject.open()) as other:
            other.acquire("b")
        with pytest.raises(EpochLost):
            journal.stored(batch)
        with pytest.raises(EpochLost):
            journal.probe(epoch)

    def test_a_probe_of_an_append_keeps_nothing_of_it(self, journal: SqlJournal | MemoryJournal) -> None:
        epoch = journal.acquire("a")
        journal.append(records(1, 2, epoch))
        batch = records(3, 20, epoch, size=10_000)
        for _ in range(2):
            journal.probe(epoch, batch)
            assert journal.newest(1) == records(2, 1, epoch)
        journal.append(batch)
        assert journal.read(2) == batch
        with pytest.raises(EpochLost):
            journal.probe(epoch - 1, records(23, 1, epoch))

    def test_a_probe_changes_nothing(self, journal: SqlJournal | MemoryJournal) -> None:
        epoch = journal.acquire("a")
        journal.append(records(1, 3, epoch))
        journal.probe(epoch)
        assert journal.read(0) == records(1, 3, epoch)
        assert journal.acquire("a") == epoch + 1

    def test_a_lease_is_taken_once_and_renewed_by_its_holder_only(
        self, subject: Subject, journal: SqlJournal | MemoryJournal
    ) -> None:
        with closing(subject.lease()) as first, closing(subject.lease()) as second:
            empty = first.look()
            assert (empty.epoch, empty.held, empty.left_ms) == (0, False, 0)
            assert first.take(empty, "a", "host:1", "place-a", 60_000) == 1
            assert second.take(empty, "b", "host:2", "place-b", 60_000) is None, "somebody was faster"
            seen = second.look()
            assert (seen.epoch, seen.holder, seen.address, seen.place) == (1, "a", "host:1", "place-a")
            assert seen.held
            assert 50_000 < seen.left_ms <= 60_000
            journal.append(records(1, 1, 1))
            first.renew(1, 90_000)
            assert second.look().left_ms > 60_000
            assert second.take(seen, "b", "host:2", "place-b", 60_000) == 2
            with pytest.raises(EpochLost, match="b"):
                first.renew(1, 60_000)
            with pytest.raises(EpochLost):
                journal.append(records(2, 1, 1))
            first.release(1)
            assert second.look().held, "only the leader gives it back"
            second.release(2)
            assert not first.look().held
            journal.append(records(2, 1, 2))

    def test_a_lease_ends_by_the_clock_of_the_database(self, subject: Subject) -> None:
        with closing(subject.open()), closing(subject.lease()) as lease:
            assert lease.take(lease.look(), "a", "", "", -1) == 1
            assert (lease.look().held, lease.look().left_ms) == (True, 0)

    def test_a_closed_journal_says_that_it_is_closed(self, journal: SqlJournal | MemoryJournal) -> None:
        epoch = journal.acquire("a")
        journal.close()
        journal.close()
        calls: list[Callable[[], object]] = [
            lambda: journal.acquire("a"),
            lambda: journal.append(records(1, 1, epoch)),
            lambda: journal.read(0),
            lambda: journal.newest(1),
            journal.bounds,
            journal.latest_snapshot,
            lambda: journal.store_snapshot(snapshot(1)),
        ]
        for call in calls:
            with pytest.raises(JournalUnavailable, match="closed"):
                call()

    def test_other_threads_read_whole_batches_while_one_writes(self, journal: SqlJournal | MemoryJournal) -> None:
        epoch = journal.acquire("a")
        batch, newest = 7, 700

        def follow() -> list[JournalEntry]:
            seen: list[JournalEntry] = []
            while len(seen) < newest:
                assert journal.bounds()[1] % batch == 0
                seen.extend(journal.read(len(seen), limit=50))
            return seen

        with ThreadPoolExecutor(3) as pool:
            followers = [pool.submit(follow) for _ in range(3)]
            for first in range(1, newest, batch):
                journal.append(records(first, batch, epoch))
            for follower in followers:
                assert follower.result(timeout=120) == records(1, newest, epoch)

    def test_threads_that_write_at_once_take_turns(self, journal: SqlJournal | MemoryJournal) -> None:
        gate = threading.Barrier(4)

        def acquire(holder: str) -> list[int]:
            gate.wait()
            return [journal.acquire(holder) for _ in range(5)]

        with ThreadPoolExecutor(4) as pool:
            epochs = [epoch for taken in pool.map(acquire, "abcd") for epoch in taken]
        assert sorted(epochs) == list(range(1, 21))


class TestMemoryFaults:
    def test_the_next_writes_fail_on_request(self) -> None:
        journal = MemoryJournal()
        epoch = journal.acquire("a")
        journal.fail_next(2, "no luck")
        for _ in range(2):
            with pytest.raises(JournalUnavailable, match="no luck"):
                journal.append(records(1, 2, epoch))
            assert journal.bounds() == (1, 0)
        journal.append(records(1, 2, epoch))
        assert journal.bounds() == (1, 2)

    def test_leadership_is_lost_on_request(self) -> None:
        journal = MemoryJournal()
        epoch = journal.acquire("a")
        assert journal.lose_leadership() == epoch + 1
        with pytest.raises(EpochLost):
            journal.append(records(1, 1, epoch))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def sql_journal(path: Path, busy_timeout_ms: int = 5_000) -> SqlJournal:
    return SqlJournal(f"sqlite:///{path}", busy_timeout_ms=busy_timeout_ms)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    root = str(Path(controlplane.__file__).parent.parent)
    command = [sys.executable, journal_process.__file__, *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


class TestSqliteProcesses:
    def test_every_acknowledged_record_survives_a_kill(self, path: Path) -> None:
        draw = random.Random(2024)
        for kill_round in range(1, 6):
            with closing(sql_journal(path)) as before:
                epoch = before.acquire(f"round {kill_round}")
            with process("write", f"sqlite:///{path}", str(epoch)) as writer:
                assert writer.stdout is not None
                for _ in range(draw.randint(1, 60)):
                    acknowledged = int(writer.stdout.readline())
                writer.kill()
                rest = writer.stdout.read().split("\n")[
                    :-1
                ]  # printed before the kill; a line without end does not count
            acknowledged = int(rest[-1]) if rest else acknowledged
            with closing(sql_journal(path)) as after:
                newest = after.bounds()[1]
                assert acknowledged <= newest <= acknowledged + 4
                for entry in after.read(0, limit=newest):
                    assert entry == record(entry.revision, entry.epoch, size=700)
                with closing(sqlite3.connect(path)) as raw:
                    assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def test_another_process_reads_while_this_one_writes(self, path: Path) -> None:
        with closing(sql_journal(path)) as journal:
            epoch = journal.acquire("a")
            with process("read", f"sqlite:///{path}", "300") as reader:
                assert reader.stdout is not None
                assert reader.stdout.readline() == "ready\n"
                for first in range(1, 300, 3):
                    journal.append(records(first, 3, epoch))
                assert reader.wait(timeout=120) == 0

    def test_a_reader_in_the_middle_of_a_read_holds_up_nobody(self, path: Path) -> None:
        with closing(sql_journal(path, busy_timeout_ms=1)) as journal, closing(sqlite3.connect(path)) as raw:
            epoch = journal.acquire("a")
            journal.append(records(1, 2, epoch))
            raw.execute("BEGIN")
            assert raw.execute("SELECT count(*) FROM journal").fetchone() == (2,)
            journal.append(records(3, 2, epoch))
            assert journal.bounds() == (1, 4)
            assert raw.execute("SELECT count(*) FROM journal").fetchone() == (2,)

    def test_openers_of_a_new_file_do_not_get_in_each_others_way(self, path: Path) -> None:
        with ThreadPoolExecutor(4) as pool:
            opened = list(pool.map(lambda _: sql_journal(path), range(4)))
        assert sorted(journal.acquire("a") for journal in opened) == [1, 2, 3, 4]
        for journal in opened:
            journal.close()


class TestSqliteTrouble:
    def test_a_commit_waits_for_the_disk(self, path: Path) -> None:
        with closing(sql_journal(path)) as journal:
            for pragma, expected in (("journal_mode", "wal"), ("synchronous", 2)):
                with journal._database.write() as connection:
                    assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == expected

    @pytest.mark.parametrize("fill", ["tmpfs", "page count"])
    def test_a_full_disk_says_so_and_recovers(self, tmp_path: Path, fill: str) -> None:
        folder = tmp_path / "small"
        folder.mkdir()
        with ExitStack() as stack:
            if fill == "tmpfs":
                mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "phalanx-test", str(folder)]
                if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
                    pytest.skip("this user cannot mount a tmpfs; the page count covers the same error")
                stack.callback(subprocess.run, ["umount", str(folder)], check=True)
            journal = stack.enter_context(closing(sql_journal(folder / "journal.db")))
            epoch = journal.acquire("a")
            journal.append(records(1, 3, epoch))
            ballast = folder / "ballast"

            def limit_pages(connection: sqlite3.Connection, _record: object) -> None:
                connection.execute("PRAGMA max_page_count=20")

            if fill == "tmpfs":
                fill_up(ballast)
            else:
                event.listen(journal._database._writer, "connect", limit_pages)
                journal._database._writer.dispose()
            batch = records(4, 100, epoch, size=10_000)
            for _ in range(3):
                with pytest.raises(
                    JournalUnavailable, match=r"free space on .*small; nothing was written .SQLITE_FULL"
                ):
                    journal.append(batch)
                assert journal.read(0) == records(1, 3, epoch)
            if fill == "tmpfs":
                ballast.unlink()
            else:
                event.remove(journal._database._writer, "connect", limit_pages)
            journal.append(batch)
            assert journal.read(3) == batch

    def test_a_probe_wants_as_much_room_as_the_append_that_failed(self, path: Path) -> None:
        with closing(sql_journal(path)) as journal:
            epoch = journal.acquire("a")
            journal.append(records(1, 3, epoch))
            batch = records(4, 40, epoch, size=10_000)
            with file_size_limit(Path(f"{path}-wal").stat().st_size + 100_000):
                with pytest.raises(JournalUnavailable):
                    journal.append(batch)
                journal.probe(epoch)  # there is room for a page
                for _ in range(3):
                    with pytest.raises(JournalUnavailable):
                        journal.probe(epoch, batch)
                assert journal.read(0) == records(1, 3, epoch)
            journal.probe(epoch, batch)
            journal.append(batch)
            assert journal.read(3) == batch

    def test_a_failed_append_does_not_close_the_last_connection(self, path: Path) -> None:
        """Else the log is read anew, and a commit whose fsync failed comes back after it was reported as lost."""
        index, log = Path(f"{path}-shm"), Path(f"{path}-wal")
        with closing(sql_journal(path)) as journal:
            epoch = journal.acquire("a")
            journal._database._reader.dispose()
            before = index.stat().st_ino
            with file_size_limit(log.stat().st_size), pytest.raises(JournalUnavailable, match="file size limit"):
                journal.append(records(1, 100, epoch, size=1_000))
            assert index.stat().st_ino == before

    def test_a_read_only_file_says_so_and_recovers(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "journal.db"
            with closing(sql_journal(path)) as journal:
                epoch = journal.acquire("a")
                journal.append(records(1, 3, epoch))
            path.chmod(0o444)
            with ordinary_user(Path(folder)), closing(sql_journal(path)) as journal:
                with pytest.raises(JournalUnavailable, match="read-only for uid"):
                    journal.append(records(4, 1, epoch))
                assert journal.read(0) == records(1, 3, epoch)
                for file in Path(folder).glob("journal.db*"):  # SQLite made the log as read-only as the file
                    file.chmod(0o644)
                journal.append(records(4, 1, epoch))
                assert journal.bounds() == (1, 4)

    def test_a_lock_that_is_not_released_says_so_and_recovers(self, path: Path) -> None:
        with closing(sql_journal(path, busy_timeout_ms=20)) as journal, closing(sql_journal(path)) as other:
            epoch = journal.acquire("a")
            with closing(sqlite3.connect(path, isolation_level=None)) as raw:
                raw.execute("BEGIN IMMEDIATE")
                with pytest.raises(JournalUnavailable, match="another writer holds the lock"):
                    journal.append(records(1, 1, epoch))
            with other._database.write(), pytest.raises(JournalUnavailable, match="another writer holds the lock"):
                journal.append(records(1, 1, epoch))
            journal.append(records(1, 1, epoch))
            assert journal.bounds() == (1, 1)

    def test_a_file_that_is_moved_away_says_so_and_recovers(self, path: Path, tmp_path: Path) -> None:
        with closing(sql_journal(path)) as journal:
            epoch = journal.acquire("a")
            path.rename(tmp_path / "elsewhere")
            with pytest.raises(JournalUnavailable, match="put the file back"):
                journal.append(records(1, 1, epoch))
            path.touch()
            with pytest.raises(JournalUnavailable, match="replaced by another file"):
                journal.append(records(1, 1, epoch))
            (tmp_path / "elsewhere").rename(path)
            journal.append(records(1, 1, epoch))
            assert journal.read(0) == records(1, 1, epoch)

    def test_an_entry_that_cannot_be_stored_takes_its_batch_with_it(self, path: Path) -> None:
        with closing(sql_journal(path)) as journal:
            epoch = journal.acquire("a")
            unpaired = JournalEntry(3, epoch, 0, "", "odd", 1, "\ud800")
            with pytest.raises(UnicodeEncodeError):
                journal.append([*records(1, 2, epoch), unpaired])
            assert journal.bounds() == (1, 0)
            journal.append(records(1, 2, epoch))
            assert journal.bounds() == (1, 2)

    def test_a_damaged_snapshot_gives_way_to_the_one_before(self, path: Path) -> None:
        with closing(sql_journal(path)) as journal, closing(sqlite3.connect(path)) as raw:
            journal.append(records(1, 9, journal.acquire("a")))
            journal.store_snapshot(snapshot(4))
            journal.store_snapshot(snapshot(8))
            raw.execute("UPDATE snapshots SET body = '{ }' WHERE revision = 8")
            raw.commit()
            assert journal.latest_snapshot() == snapshot(4)
            with pytest.raises(ValueError, match="no intact snapshot at or after revision 5"):
                journal.compact(5)
            raw.execute("UPDATE snapshots SET body = '{ }'")
            raw.commit()
            with pytest.raises(JournalCorrupt, match="no stored snapshot matches"):
                journal.latest_snapshot()

    def test_a_hole_in_the_middle_is_corruption(self, path: Path) -> None:
        with closing(sql_journal(path)) as journal, closing(sqlite3.connect(path)) as raw:
            journal.append(records(1, 9, journal.acquire("a")))
            raw.execute("DELETE FROM journal WHERE revision = 5")
            raw.commit()
            with pytest.raises(JournalCorrupt, match="missing"):
                journal.read(0)


class TestSqliteOpening:
    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///j.db?mode=ro", "mysql://host/name"])
    def test_only_a_file_can_be_opened(self, url: str) -> None:
        with pytest.raises(ValueError, match="sqlite:////"):
            SqlJournal(url)

    def test_a_name_with_odd_characters_is_a_name(self, tmp_path: Path) -> None:
        path = tmp_path / "a b%20#c?d.db"
        with closing(SqlJournal(f"sqlite:///{quote(str(path))}")) as journal:
            journal.append(records(1, 1, journal.acquire("a")))
        assert path.exists()

    def test_a_missing_folder_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(JournalUnavailable, match=r"check that .*none exists"):
            sql_journal(tmp_path / "none" / "journal.db")

    def test_a_file_that_is_no_database_is_left_alone(self, path: Path) -> None:
        path.write_text("no database " * 1_000)
        with pytest.raises(JournalCorrupt, match="not a database"):
            sql_journal(path)
        assert path.read_text() == "no database " * 1_000

    def test_a_database_of_something_else_is_left_alone(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as raw:
            raw.execute("CREATE TABLE other (a)")
        with pytest.raises(JournalCorrupt, match="no Phalanx journal"):
            sql_journal(path)
        with closing(sqlite3.connect(path)) as raw:
            assert raw.execute("SELECT name FROM sqlite_master").fetchall() == [("other",)]

    def test_an_unknown_schema_is_named_and_left_alone(self, path: Path) -> None:
        sql_journal(path).close()
        with closing(sqlite3.connect(path)) as raw:
            raw.execute("UPDATE alembic_version SET version_num = '9z'")
            raw.commit()
            with pytest.raises(JournalCorrupt, match="schema version 9z"):
                sql_journal(path)
            assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [("9z",)]

    def test_the_migrations_lead_to_the_declared_tables(self, path: Path) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        with closing(sql_journal(path)) as journal, journal._database.read() as connection:
            context = MigrationContext.configure(connection)
            assert context.get_current_revision() == SCHEMA_VERSION
            assert compare_metadata(context, metadata) == []

    def test_a_current_file_opens_without_alembic(self, path: Path) -> None:
        sql_journal(path).close()
        code = (
            "import sys; from controlplane.adapters.journal.sql import SqlJournal; "
            "SqlJournal(sys.argv[1]).close(); sys.exit('alembic' in sys.modules)"
        )
        root = str(Path(controlplane.__file__).parent.parent)
        command = [sys.executable, "-c", code, f"sqlite:///{path}"]
        assert subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": root}).returncode == 0


def fill_up(ballast: Path) -> None:
    """Take the last page of the disk that `ballast` is on."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


@contextmanager
def ordinary_user(folder: Path) -> Iterator[None]:
    """Act as a user to whom file permissions apply, and who owns `folder` and what is in it; root is above them.

    That user may be unable to read our own code, which then cannot be imported: what a test imports late, it needs before.
    """
    if os.geteuid():
        yield
        return
    nobody = 65_534
    for owned in (folder, *folder.iterdir()):
        os.chown(owned, nobody, nobody)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)


def what_happened(state: State) -> object:
    """A state without its accounts: how time is booked, and what is learned from it, a later version may do differently from
    the one that wrote a snapshot; nor does an earlier one's snapshot hold when raylets left."""
    body = json.loads(state.to_json())
    del body["fleet"]["cell_left_ns"]
    for account in ("ledger", "wear"):
        body.pop(account, None)
    for job in body["jobs"]:
        for account in ("ledger_ns", "hour", "pace"):
            del job[account]
        for checkpoint in job["checkpoints"].values():
            del checkpoint["productive_ns"]
    return body


def test_a_file_of_version_0_1_is_upgraded_in_place(tmp_path: Path) -> None:
    """The committed file was written by the code of the tag v0.1.0, from its committed history."""
    path = tmp_path / "journal.db"
    stored = Path(__file__).parent / "journals" / "v0.1.db.gz"
    path.write_bytes(gzip.decompress(stored.read_bytes()))
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
        rows = raw.execute("SELECT count(*) FROM journal").fetchone()[0]
        epoch = raw.execute("SELECT epoch FROM leader").fetchone()[0]
    with closing(sql_journal(path)) as journal, closing(SqlLease(f"sqlite:///{path}", limit_ms=5_000)) as lease:
        assert journal.bounds() == (1, rows)
        seen = lease.look()
        assert (seen.epoch, seen.held) == (epoch, False)
        state = load(journal)
        assert state.revision == rows
        assert what_happened(replay(State(), journal.read(0, 100_000))) == what_happened(state)
        assert lease.take(seen, "new", "", "", 5_000) == epoch + 1
        journal.append(records(rows + 1, 1, epoch + 1))
        assert journal.compact(100) == 99
        assert journal.extent().archived > 0
