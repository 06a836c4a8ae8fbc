"""What every journal promises, checked on each implementation."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from journal_files import file_size_limit, snapshot
from journal_process import record, records

from controlplane.adapters.journal.lease import SqlLease
from controlplane.adapters.journal.memory import MemoryJournal
from controlplane.adapters.journal.sql import SqlJournal
from controlplane.engine.ports import (
    Compacted,
    EpochLost,
    Journal,
    JournalEntry,
    JournalUnavailable,
    LeaseStore,
    Snapshot,
)

type_names = ("placed", "suspected", "noted")


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
