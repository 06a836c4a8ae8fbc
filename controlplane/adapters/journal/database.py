"""What the journal's statements need from the database they run in. `sqlite.Sqlite` and `postgres.Postgres` are such."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection, Table, make_url

from controlplane.adapters.journal.sqlite import Sqlite


class Database(Protocol):
    """One database: its connections, and what its errors mean. Shown as text, it names itself without secrets."""

    kind: str

    def write(self, *, patient: bool = False) -> AbstractContextManager[Connection]:
        """A transaction that is durable once the block has ended. `patient`: may take minutes (migrations, snapshots).

        Raises:
            JournalUnavailable: rolled back.
            JournalUncertain: the connection ended during the commit.
            JournalCorrupt: damaged, or not ours.
        """
        ...

    def read(self, *, steady: bool = False) -> AbstractContextManager[Connection]:
        """A connection that cannot write. Each statement sees one committed state; `steady`: all see the same one.

        Raises:
            JournalUnavailable: closed, or out of reach.
            JournalCorrupt: damaged, or not ours.
        """
        ...

    def insert(self, connection: Connection, table: Table, rows: Sequence[tuple[object, ...]]) -> None:
        """Add rows, in the order of the table's columns, by the fastest way that the driver has."""
        ...

    def through(self, connection: Connection) -> AbstractContextManager[None]:
        """What is written in the block takes room on the disk at once, though its transaction is not committed."""
        ...

    def lock_schema(self, connection: Connection) -> None:
        """Let one process at a time change the schema, until the transaction ends."""
        ...

    def size(self, connection: Connection) -> int:
        """Bytes that the journal's tables take."""
        ...

    def close(self) -> None:
        """Release the connections. May be called twice."""
        ...


def open_database(url: str, *, limit_ms: int, password_file: str = "") -> Database:
    """The database of a URL. `limit_ms`: how long an append waits for others, or for the server.

    Raises:
        JournalUnavailable: it cannot be opened.
        JournalCorrupt: it is no database.
        ValueError: the URL is of no supported kind, or names what it must not.
    """
    parsed = make_url(url)
    match parsed.get_backend_name():
        case "sqlite":
            return Sqlite(parsed, limit_ms)
        case "postgresql":
            from controlplane.adapters.journal.postgres import Postgres  # noqa: PLC0415 - its driver: 0.1 s of every start

            return Postgres(parsed, limit_ms, password_file)
        case other:
            raise ValueError(f"a journal in {other} is not supported; use sqlite:////absolute/path or postgresql://...")
