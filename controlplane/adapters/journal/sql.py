"""The journal in a SQL database: the statements. What is special about SQLite is in `sqlite`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter

from sqlalchemy import Connection, Row, delete, func, insert, inspect, make_url, select, text, update

from controlplane.adapters.journal import rules
from controlplane.adapters.journal.schema import SCHEMA_VERSION, journal, leader, snapshots
from controlplane.adapters.journal.sqlite import Sqlite
from controlplane.engine.ports import Compacted, JournalCorrupt, JournalEntry, Snapshot

_COMPACT_CHUNK = 5_000
"""Entries per transaction of a compaction, so that an append waits for tens of milliseconds at most."""

_ENTRY_FIELDS = tuple(field.name for field in fields(JournalEntry))
_entry_values = attrgetter(*_ENTRY_FIELDS)


class SqlJournal:
    """`engine.ports.Journal` in a SQLite file.

    Any thread may call; writes take turns. Another process opens its own on the same URL and may read, and store
    snapshots, while this one appends. Opening creates the file and brings an older schema to this version's.

    An append that raised `JournalUnavailable` stays unwritten as long as this object is open. When the process ends
    right after it, the disk may still have taken it (the fsync failed, the write did not): a restart reads first.

    Args:
        url: `sqlite:////absolute/path` of a file on a local disk, percent-encoded like any URL.
        busy_timeout_ms: how long a write waits for another process's write before it fails with `JournalUnavailable`.

    Raises:
        JournalUnavailable: the file cannot be opened or created.
        JournalCorrupt: the file is damaged, is no journal, or has a schema that this version does not know.
        ValueError: the URL names no file, or a database that is not supported.
    """

    def __init__(self, url: str, *, busy_timeout_ms: int = 5_000) -> None:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            raise ValueError(f"a journal in {parsed.get_backend_name()} is not supported; use sqlite:////absolute/path")
        self._database = Sqlite(parsed, busy_timeout_ms)
        try:
            self._ensure_schema()
        except BaseException:
            self._database.close()
            raise

    def acquire(self, holder: str) -> int:
        """Take leadership: raise the epoch by one, durably, and return it.

        Raises:
            JournalUnavailable: the epoch did not change.
        """
        with self._database.write() as connection:
            connection.execute(update(leader).values(epoch=leader.c.epoch + 1, holder=holder))
            return _epoch(connection)

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Make all entries durable (fsynced) in one transaction, or none. No entries: nothing happens.

        Raises:
            JournalUnavailable: nothing was written; the message says what to do. Then try the same entries again.
            EpochLost: another controller has acquired the journal; nothing was written.
            ValueError: a bug of the caller: a gap or a clash of revisions, or an epoch that was never acquired.
        """
        if not entries:
            return
        epoch = rules.check_batch(entries)
        rows = [dict(zip(_ENTRY_FIELDS, _entry_values(entry), strict=True)) for entry in entries]
        with self._database.write() as connection:
            # An update, not a select: in a database with row locks it holds off `acquire` until this commit.
            guarded = connection.execute(update(leader).where(leader.c.epoch == epoch).values(epoch=epoch))
            if guarded.rowcount != 1:
                rules.check_epoch(_epoch(connection), epoch)
            rules.check_continues(_newest(connection), entries[0].revision)
            connection.execute(insert(journal), rows)

    def read(self, after: int, limit: int = 1_000) -> list[JournalEntry]:
        """Up to `limit` (>= 1) entries with revision > `after` (>= 0), oldest first.

        Raises:
            Compacted: entries after `after` were removed.
            JournalCorrupt: entries are missing in the middle.
            JournalUnavailable: the file cannot be read.
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
        """The newest `limit` (>= 1) kept entries that match, oldest first. Empty filters match everything.

        Raises:
            JournalUnavailable: the file cannot be read.
        """
        rules.check_range(after, limit)
        query = select(journal).where(journal.c.revision > after)
        if job:
            query = query.where(journal.c.job == job)
        if node:
            query = query.where(journal.c.node == node)
        if types:
            query = query.where(journal.c.type.in_(types))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(journal.c.revision.desc()).limit(limit)).all()
        return [_entry(row) for row in reversed(rows)]

    def bounds(self) -> tuple[int, int]:
        """(oldest kept revision, newest revision); (1, 0) when empty.

        Raises:
            JournalUnavailable: the file cannot be read.
        """
        # Two subqueries, because SQLite looks up min and max in the index only when each stands alone.
        oldest = select(func.min(journal.c.revision)).scalar_subquery()
        newest = select(func.max(journal.c.revision)).scalar_subquery()
        with self._database.read() as connection:
            low, high = connection.execute(select(oldest, newest)).one()
        return (1, 0) if low is None else (low, high)

    def latest_snapshot(self) -> Snapshot | None:
        """The newest stored snapshot that still matches its digest; None when none was stored.

        Raises:
            JournalCorrupt: snapshots are stored and all are damaged.
            JournalUnavailable: the file cannot be read.
        """
        with self._database.read() as connection:
            return rules.newest_intact(_snapshots(connection))

    def store_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, replacing one of the same revision; only the newest two are kept.

        Raises:
            JournalUnavailable: nothing was written.
            ValueError: the digest does not match, or the revision is not in the journal yet.
        """
        with self._database.write() as connection:
            rules.check_snapshot(snapshot, _newest(connection))
            connection.execute(delete(snapshots).where(snapshots.c.revision == snapshot.revision))
            connection.execute(
                insert(snapshots).values(revision=snapshot.revision, digest=snapshot.digest, body=snapshot.body)
            )
            kept = select(snapshots.c.revision).order_by(snapshots.c.revision.desc()).limit(rules.KEPT_SNAPSHOTS)
            connection.execute(delete(snapshots).where(snapshots.c.revision.not_in(kept)))

    def compact(self, before_revision: int) -> int:
        """Delete the entries with revision < `before_revision`, oldest first, and return how many.

        Runs in many short transactions, so appends from other threads go on; cut short, it has deleted the oldest part.

        Raises:
            ValueError: no intact snapshot at or after `before_revision` is stored; nothing was deleted.
            JournalUnavailable: the part after the last short transaction was not deleted; call again.
        """
        with self._database.read() as connection:
            stored = _snapshots(connection)
        rules.check_compaction(stored, before_revision)
        deleted = 0
        while True:
            with self._database.write() as connection:
                oldest = connection.execute(select(func.min(journal.c.revision))).scalar_one()
                if oldest is None or oldest >= before_revision:
                    return deleted
                end = min(before_revision, oldest + _COMPACT_CHUNK)
                deleted += connection.execute(delete(journal).where(journal.c.revision < end)).rowcount

    def close(self) -> None:
        """Release the connections; every later call raises `JournalUnavailable`. May be called twice."""
        self._database.close()

    def _ensure_schema(self) -> None:
        with self._database.read() as connection:
            if self._schema_version(connection) == SCHEMA_VERSION:
                return
        with self._database.write() as connection:
            found = self._schema_version(connection)  # again: another process may have been faster
            if found != SCHEMA_VERSION:
                from controlplane.adapters.journal.migrate import upgrade  # noqa: PLC0415 - Alembic takes 0.3 s

                upgrade(connection, found)

    def _schema_version(self, connection: Connection) -> str | None:
        """The stored schema version, None for an empty database."""
        tables = inspect(connection).get_table_names()
        if not tables:
            return None
        if "alembic_version" not in tables:
            raise JournalCorrupt(
                f"{self._database} is a database but no Phalanx journal; point the journal at another file"
            )
        versions = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
        if len(versions) != 1:
            raise JournalCorrupt(f"{self._database} names {len(versions)} schema versions; restore it from a backup")
        return str(versions[0])


def _entry(row: Row[*tuple[object, ...]]) -> JournalEntry:
    return JournalEntry(*row)  # type: ignore[arg-type]


def _epoch(connection: Connection) -> int:
    epoch: int = connection.execute(select(leader.c.epoch)).scalar_one()
    return epoch


def _newest(connection: Connection) -> int:
    newest: int | None = connection.execute(select(func.max(journal.c.revision))).scalar_one()
    return newest or 0


def _snapshots(connection: Connection) -> list[Snapshot]:
    """All stored ones, newest first."""
    rows = connection.execute(select(snapshots).order_by(snapshots.c.revision.desc()))
    return [Snapshot(revision, digest, body) for revision, digest, body in rows]
