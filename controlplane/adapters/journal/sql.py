"""The journal in a SQL database: the statements. What is special about each database is in `sqlite` and `postgres`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from itertools import islice
from operator import attrgetter

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Subquery,
    Table,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
    union_all,
    update,
)

from controlplane.adapters.journal import rules
from controlplane.adapters.journal.database import open_database
from controlplane.adapters.journal.schema import SCHEMA_VERSION, archive, journal, leader, snapshots
from controlplane.core.retention import BOOKKEEPING
from controlplane.engine.ports import Compacted, Content, Extent, JournalCorrupt, JournalEntry, Snapshot

_COMPACT_CHUNK = 5_000
"""Entries per transaction of a compaction, so that an append waits for tens of milliseconds at most."""
_PAGE = 2_000
"""Entries per step of an export."""

_entry_values = attrgetter(*(field.name for field in fields(JournalEntry)))


class _TakenBack(Exception):
    """Rolls a transaction back that was not meant to last."""


class SqlJournal:
    """`engine.ports.Journal` in a SQLite file or a PostgreSQL database.

    Any thread may call; writes take turns. Another process opens its own on the same URL and may read, and store
    snapshots, while this one appends. Opening brings an empty database or an older schema to this version's.

    In SQLite, an append that raised `JournalUnavailable` stays unwritten as long as this object is open. When the process
    ends right after it, the disk may still have taken it (the fsync failed, the write did not): a restart reads first.

    Args:
        url: `sqlite:////absolute/path` of a file on a local disk, percent-encoded like any URL, or
            `postgresql://user@host:port/database?option=...` with libpq's options and without a password.
        busy_timeout_ms: how long a write waits for another process's write, and for the server, before it fails with
            `JournalUnavailable`.
        password_file: holds the password for PostgreSQL; read anew for every connection.

    Raises:
        JournalUnavailable: the database cannot be opened or created.
        JournalCorrupt: it is damaged, is no journal, or has a schema that this version does not know.
        ValueError: the URL is of no supported kind, or holds a password.
    """

    def __init__(self, url: str, *, busy_timeout_ms: int = 5_000, password_file: str = "") -> None:
        self._database = open_database(url, limit_ms=busy_timeout_ms, password_file=password_file)
        try:
            self._ensure_schema()
        except BaseException:
            self._database.close()
            raise

    def acquire(self, holder: str) -> int:
        """Take leadership without a lease: raise the epoch by one, durably, and return it.

        Raises:
            JournalUnavailable: the epoch did not change.
        """
        with self._database.write() as connection:
            connection.execute(
                update(leader).values(epoch=leader.c.epoch + 1, holder=holder, address="", place="", expires_ms=0)
            )
            return int(connection.execute(select(leader.c.epoch)).scalar_one())

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Make all entries durable (fsynced) in one transaction, or none. No entries: nothing happens.

        Raises:
            JournalUnavailable: nothing was written; the message says what to do. Then try the same entries again.
            JournalUncertain: the connection ended during the commit; ask `stored` before the next append.
            EpochLost: another controller has acquired the journal; nothing was written.
            ValueError: a bug of the caller: a gap or a clash of revisions, or an epoch that was never acquired.
        """
        if not entries:
            return
        epoch = rules.check_batch(entries)
        rows = [_entry_values(entry) for entry in entries]
        with self._database.write() as connection:
            rules.check_epoch(_locked_epoch(connection), epoch)
            rules.check_continues(_newest(connection), entries[0].revision)
            self._database.insert(connection, journal, rows)

    def stored(self, entries: Sequence[JournalEntry]) -> bool:
        """Whether an append of uncertain outcome is durable. Holding the leader's row, it has waited for that commit.

        Raises:
            JournalUnavailable: still not known.
            EpochLost: another controller leads.
            JournalCorrupt: something else has those revisions.
        """
        epoch = rules.check_batch(entries)
        first, last = entries[0].revision, entries[-1].revision
        with self._database.write() as connection:
            rules.check_epoch(_locked_epoch(connection), epoch)
            query = select(journal).where(journal.c.revision.between(first, last)).order_by(journal.c.revision)
            found = [_entry(row) for row in connection.execute(query)]
        if found and found != list(entries):
            raise JournalCorrupt(f"{self._database}: revisions {first} to {last} are not those of epoch {epoch}")
        return bool(found)

    def probe(self, epoch: int, entries: Sequence[JournalEntry] = ()) -> None:
        """Find out whether an append would work now: write these entries and take them back, then commit a page that changes
        nothing.

        Raises:
            JournalUnavailable: no; the message says why.
            EpochLost: another controller leads.
        """
        if entries:
            with suppress(_TakenBack), self._database.write() as connection:
                rules.check_epoch(_locked_epoch(connection), epoch)
                with self._database.through(connection):
                    self._database.insert(connection, journal, [_entry_values(entry) for entry in entries])
                raise _TakenBack
        with self._database.write() as connection:
            rules.check_epoch(_locked_epoch(connection), epoch)
            connection.execute(update(leader).values(epoch=leader.c.epoch))

    def read(self, after: int, limit: int = 1_000) -> list[JournalEntry]:
        """Up to `limit` (>= 1) entries with revision > `after` (>= 0), oldest first.

        Raises:
            Compacted: entries after `after` were removed.
            JournalCorrupt: entries are missing in the middle.
            JournalUnavailable: the database cannot be read.
        """
        rules.check_range(after, limit)
        query = select(journal).where(journal.c.revision > after).order_by(journal.c.revision).limit(limit)
        with self._database.read() as connection:
            entries = [_entry(row) for row in connection.execute(query)]
        # Compaction keeps the newest entry, so a first entry that is not the next one shows that it has happened.
        if entries and entries[0].revision != after + 1:
            raise Compacted(entries[0].revision)
        if entries and entries[-1].revision != after + len(entries):
            raise JournalCorrupt(
                f"{self._database}: revisions are missing between {after + 1} and {entries[-1].revision}; "
                f"no version can read that, restore the journal from a backup"
            )
        return entries

    def newest(
        self, limit: int, *, after: int = 0, job: str = "", node: str = "", types: Sequence[str] = ()
    ) -> list[JournalEntry]:
        """The newest `limit` (>= 1) entries that match, oldest first, the archive's included. Empty filters match all.

        Raises:
            JournalUnavailable: the database cannot be read.
        """
        rules.check_range(after, limit)

        def part(table: Table) -> Select[tuple[object, ...]]:
            wanted: list[ColumnElement[bool]] = [table.c.revision > after]
            wanted += [table.c.job == job] if job else []
            wanted += [table.c.node == node] if node else []
            wanted += [table.c.type.in_(types)] if types else []
            return select(table).where(*wanted).order_by(table.c.revision.desc()).limit(limit)

        both = _both(part)
        return self._entries(select(both).order_by(both.c.revision.desc()).limit(limit))[::-1]

    def oldest(self, limit: int, *, after: int = 0, types: Sequence[str] = ()) -> list[JournalEntry]:
        """The oldest `limit` (>= 1) entries with revision > `after` that match, oldest first, the archive's included.

        Raises:
            JournalUnavailable: the database cannot be read.
        """
        rules.check_range(after, limit)

        def part(table: Table) -> Select[tuple[object, ...]]:
            wanted: list[ColumnElement[bool]] = [table.c.revision > after]
            wanted += [table.c.type.in_(types)] if types else []
            return select(table).where(*wanted).order_by(table.c.revision).limit(limit)

        both = _both(part)
        return self._entries(select(both).order_by(both.c.revision).limit(limit))

    def _entries(self, query: Select[tuple[object, ...]]) -> list[JournalEntry]:
        with self._database.read() as connection:
            return [_entry(row) for row in connection.execute(query)]

    def bounds(self) -> tuple[int, int]:
        """(oldest kept revision, newest revision) of the journal; (1, 0) when empty.

        Raises:
            JournalUnavailable: the database cannot be read.
        """
        with self._database.read() as connection:
            return _bounds(connection)

    def extent(self) -> Extent:
        """What there is, and the space that it takes.

        Raises:
            JournalUnavailable: the database cannot be read.
        """
        with self._database.read(steady=True) as connection:
            oldest, newest = _bounds(connection)
            archived = connection.execute(select(func.count()).select_from(archive)).scalar_one()
            snapshot = connection.execute(select(func.max(snapshots.c.revision))).scalar_one() or 0
            size = self._database.size(connection)
        return Extent(self._database.kind, oldest, newest, snapshot, archived, size)

    def latest_snapshot(self) -> Snapshot | None:
        """The newest stored snapshot that still matches its digest; None when none was stored.

        Raises:
            JournalCorrupt: snapshots are stored and all are damaged.
            JournalUnavailable: the database cannot be read.
        """
        with self._database.read() as connection:
            return rules.newest_intact(_snapshots(connection))

    def store_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, replacing one of the same revision; only the newest two are kept.

        Raises:
            JournalUnavailable: nothing was written.
            ValueError: the digest does not match, or the revision is not in the journal yet.
        """
        with self._database.write(patient=True) as connection:
            rules.check_snapshot(snapshot, _newest(connection))
            connection.execute(delete(snapshots).where(snapshots.c.revision == snapshot.revision))
            connection.execute(
                insert(snapshots).values(revision=snapshot.revision, digest=snapshot.digest, body=snapshot.body)
            )
            kept = select(snapshots.c.revision).order_by(snapshots.c.revision.desc()).limit(rules.KEPT_SNAPSHOTS)
            connection.execute(delete(snapshots).where(snapshots.c.revision.not_in(kept)))

    def compact(self, before_revision: int) -> int:
        """Remove the entries with revision < `before_revision`, oldest first, and return how many. All but bookkeeping
        moves to the archive.

        Runs in many short transactions, so appends from other threads go on; cut short, it has removed the oldest part.

        Raises:
            ValueError: no intact snapshot at or after `before_revision` is stored; nothing was removed.
            JournalUnavailable: the part after the last short transaction was not removed; call again.
        """
        with self._database.read() as connection:
            stored = _snapshots(connection)
        rules.check_compaction(stored, before_revision)
        removed = 0
        while True:
            with self._database.write(patient=True) as connection:
                oldest = connection.execute(select(func.min(journal.c.revision))).scalar_one()
                if oldest is None or oldest >= before_revision:
                    return removed
                gone = journal.c.revision < min(before_revision, oldest + _COMPACT_CHUNK)
                explaining = select(journal).where(gone, journal.c.type.not_in(BOOKKEEPING))
                connection.execute(insert(archive).from_select(list(journal.columns), explaining))
                removed += connection.execute(delete(journal).where(gone)).rowcount

    def forget(self, before_ns: int) -> int:
        """Delete archived records that are older than a time (Unix ns), and return how many.

        Raises:
            JournalUnavailable: nothing was deleted.
        """
        with self._database.write(patient=True) as connection:
            return connection.execute(delete(archive).where(archive.c.at_ns < before_ns)).rowcount

    @contextmanager
    def content(self) -> Iterator[Content]:
        """Everything, as it is now. Other readers and writers go on.

        Raises:
            JournalUnavailable: the database cannot be read (any more).
        """
        with self._database.read(steady=True) as connection:
            epoch = connection.execute(select(leader.c.epoch)).scalar_one()
            snapshot = rules.newest_intact(_snapshots(connection))
            archived, kept = (
                connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (archive, journal)
            )
            yield Content(epoch, _newest(connection), snapshot, archived, kept, _all_entries(connection))

    def fill(self, content: Content, epoch: int) -> None:
        """Make an empty journal one with this content, led by nobody at `epoch`. All of it or nothing.

        Raises:
            ValueError: the journal is not empty.
            JournalUnavailable: nothing was written.
        """
        with self._database.write(patient=True) as connection:
            if _locked_epoch(connection) or _newest(connection):
                raise ValueError(f"{self._database} holds a journal already; nothing was written")
            entries = content.entries
            for table, count in ((archive, content.archived), (journal, content.kept)):
                for first in range(0, count, _PAGE):
                    page = islice(entries, min(_PAGE, count - first))
                    self._database.insert(connection, table, [_entry_values(entry) for entry in page])
            if content.snapshot is not None:
                kept = content.snapshot
                connection.execute(insert(snapshots).values(revision=kept.revision, digest=kept.digest, body=kept.body))
            connection.execute(update(leader).values(epoch=epoch, holder="restored from a backup"))

    def close(self) -> None:
        """Release the connections; every later call raises `JournalUnavailable`. May be called twice."""
        self._database.close()

    def _ensure_schema(self) -> None:
        with self._database.read() as connection:
            if self._schema_version(connection) == SCHEMA_VERSION:
                return
        from controlplane.adapters.journal.migrate import upgrade  # noqa: PLC0415 - Alembic takes 0.3 s

        with self._database.write(patient=True) as connection:
            self._database.lock_schema(connection)
            found = self._schema_version(connection)  # again: another process may have been faster
            if found != SCHEMA_VERSION:
                upgrade(connection, found)

    def _schema_version(self, connection: Connection) -> str | None:
        """The stored schema version, None for an empty database."""
        tables = inspect(connection).get_table_names()
        if not tables:
            return None
        if "alembic_version" not in tables:
            raise JournalCorrupt(
                f"{self._database} is a database but no Phalanx journal; point the journal at another one"
            )
        versions = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
        if len(versions) != 1:
            raise JournalCorrupt(f"{self._database} names {len(versions)} schema versions; restore it from a backup")
        return str(versions[0])


def _both(part: Callable[[Table], Select[tuple[object, ...]]]) -> Subquery:
    """Journal and archive as one: one statement, so that an entry that compaction moves meanwhile is seen once."""
    return union_all(*(select(part(table).subquery()) for table in (journal, archive))).subquery()


def _entry(row: Row[*tuple[object, ...]]) -> JournalEntry:
    return JournalEntry(*row)  # type: ignore[arg-type]


def _all_entries(connection: Connection) -> Iterator[JournalEntry]:
    for table in (archive, journal):
        query = select(table).order_by(table.c.revision)
        for row in connection.execution_options(yield_per=_PAGE).execute(query):
            yield _entry(row)


def _locked_epoch(connection: Connection) -> int:
    """The epoch, with the leader's row locked: in a database with row locks it holds off a take-over until we commit."""
    epoch: int = connection.execute(select(leader.c.epoch).with_for_update()).scalar_one()
    return epoch


def _newest(connection: Connection) -> int:
    newest: int | None = connection.execute(select(func.max(journal.c.revision))).scalar_one()
    return newest or 0


def _bounds(connection: Connection) -> tuple[int, int]:
    # Two subqueries, because SQLite looks up min and max in the index only when each stands alone.
    oldest = select(func.min(journal.c.revision)).scalar_subquery()
    newest = select(func.max(journal.c.revision)).scalar_subquery()
    low, high = connection.execute(select(oldest, newest)).one()
    return (1, 0) if low is None else (low, high)


def _snapshots(connection: Connection) -> list[Snapshot]:
    """All stored ones, newest first."""
    rows = connection.execute(select(snapshots).order_by(snapshots.c.revision.desc()))
    return [Snapshot(revision, digest, body) for revision, digest, body in rows]
