"""One SQLite file: its connections, its write lock, and what its errors mean. Knows no tables."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, QueuePool, Table, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from controlplane.engine.ports import JournalCorrupt, JournalUnavailable

_LOCK_POLL_S = 0.001
_LOG_KEPT_BYTES = 64 << 20  # a log that a long reader made grow shrinks back to this
_FEW_PAGES = 8
_IDLE_READERS = 8
_MOST_READERS = 32


class Sqlite:
    """A SQLite file in WAL mode, synchronous=FULL: a commit returns after the fsync of the write-ahead log.

    One connection writes, others read, so a reader never holds up the writer. Writers of several processes take turns
    on `<file>-lock` for the commit *and* the checkpoint behind it: SQLite before 3.51.3 can corrupt a database when two
    connections commit and checkpoint at the same instant (sqlite.org/wal.html#walresetbug).

    After a fork the child must open its own.
    """

    kind = "sqlite"

    def __init__(self, url: URL, busy_timeout_ms: int) -> None:
        if not url.database or url.database == ":memory:" or url.query:
            raise ValueError(f"{url} must name a file and nothing else, like sqlite:////var/lib/phalanx/journal.db")
        self._path = Path(url.database).absolute()
        self._timeout_s = busy_timeout_ms / 1_000
        self._closed = False
        self._thread_lock = threading.Lock()
        self._writer = self._engine(self._connect_writer, most=1)
        event.listen(self._writer, "begin", _begin_immediate)
        self._reader = self._engine(self._connect_reader, most=_MOST_READERS)
        try:
            if not self._path.exists():
                self._path.touch()
            self._identity = _identity(self._path)
            self._lock_file = os.open(f"{self._path}-lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise JournalUnavailable(f"cannot open {self._path}: {error.strerror}; {self._check_folder()}") from error
        try:
            with self._turn(), self._explained(self._writer), self._writer.connect():
                pass  # the first connection switches the file to WAL mode
            # Never the last connection to close while the journal is open: a reopened log may bring back a commit whose
            # fsync failed, one that append() has already reported as not written.
            with self._explained(self._reader):
                self._anchor = self._reader.connect()
                self._anchor.exec_driver_sql("SELECT count(*) FROM sqlite_master")
        except BaseException:
            self._release()
            raise

    def __str__(self) -> str:
        return str(self._path)

    @contextmanager
    def write(self, *, patient: bool = False) -> Iterator[Connection]:
        """See `database.Database`. Holds the write lock from its first statement; nothing here takes minutes."""
        with self._turn():
            self._check_in_place()
            with self._explained(self._writer), self._writer.begin() as connection:
                yield connection

    @contextmanager
    def read(self, *, steady: bool = False) -> Iterator[Connection]:
        """See `database.Database`."""
        self._check_open()
        with self._explained(self._reader), self._reader.connect() as connection:
            if steady:
                connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                if steady:
                    connection.exec_driver_sql("ROLLBACK")

    def insert(self, connection: Connection, table: Table, rows: Sequence[tuple[object, ...]]) -> None:
        """See `database.Database`: the driver's own loop."""
        marks = ", ".join("?" * len(table.columns))
        connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES ({marks})", list(rows))

    @contextmanager
    def through(self, connection: Connection) -> Iterator[None]:
        """See `database.Database`: with a cache of few pages the others go to the log, whose room the next append takes."""
        kept = int(connection.exec_driver_sql("PRAGMA cache_size").scalar_one())
        connection.exec_driver_sql(f"PRAGMA cache_size={_FEW_PAGES}")
        try:
            yield
        finally:
            connection.exec_driver_sql(f"PRAGMA cache_size={kept}")

    def lock_schema(self, connection: Connection) -> None:
        """See `database.Database`: a transaction that writes holds the file's lock anyway."""

    def size(self, connection: Connection) -> int:
        """See `database.Database`: pages in use; the file keeps the space of removed entries for new ones."""
        pages, free, size = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def close(self) -> None:
        """See `database.Database`. The last connection moves the write-ahead log into the file."""
        with self._thread_lock:
            if not self._closed:
                self._closed = True
                self._anchor.close()
                self._release()

    def _release(self) -> None:
        self._closed = True
        self._reader.dispose()
        self._writer.dispose()  # last, because a reader cannot move the log into the file
        os.close(self._lock_file)

    def _engine(self, connect: Callable[[], sqlite3.Connection], most: int) -> Engine:
        idle = min(most, _IDLE_READERS)
        return create_engine(
            "sqlite://",
            creator=connect,
            poolclass=QueuePool,
            pool_size=idle,
            max_overflow=most - idle,
            pool_timeout=self._timeout_s,
        )

    def _connect_writer(self) -> sqlite3.Connection:
        connection = self._connect("rw")
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA journal_size_limit={_LOG_KEPT_BYTES}")
        if mode != "wal":
            connection.close()
            raise JournalUnavailable(
                f"{self._path} cannot use a write-ahead log (it stays in mode {mode}); use a local disk"
            )
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        return self._connect("ro")

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(str(self._path))}?mode={mode}",
            uri=True,
            timeout=self._timeout_s,
            isolation_level=None,  # the driver begins nothing by itself
            check_same_thread=False,
        )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        deadline = time.monotonic() + self._timeout_s
        if not self._thread_lock.acquire(timeout=self._timeout_s):
            raise JournalUnavailable(f"{self._path}: {self._locked()}; nothing was written")
        try:
            self._check_open()
            while not _try_lock(self._lock_file):
                if time.monotonic() >= deadline:
                    raise JournalUnavailable(f"{self._path}: {self._locked()}; nothing was written")
                time.sleep(_LOCK_POLL_S)
            try:
                yield
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)
        finally:
            self._thread_lock.release()

    def _check_open(self) -> None:
        if self._closed:
            raise JournalUnavailable(f"the journal {self._path} was closed by this process; open it again")

    def _check_in_place(self) -> None:
        try:
            found = _identity(self._path)
        except OSError as error:
            raise JournalUnavailable(
                f"cannot find {self._path}: {error.strerror}; put the file back, nothing was written"
            ) from error
        if found != self._identity:
            raise JournalUnavailable(
                f"{self._path} was replaced by another file; restart to use that one, nothing was written"
            )

    @contextmanager
    def _explained(self, engine: Engine) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            engine.dispose()
            known = self._explain(error)
            if known is None:
                raise
            raise known from error

    def _explain(self, error: SQLAlchemyError) -> JournalUnavailable | JournalCorrupt | None:
        """The port's error, or None for a bug of ours such as wrong SQL."""
        cause = error.orig if isinstance(error, DBAPIError) else None
        if cause is None:
            return JournalUnavailable(f"{self._path}: no connection within {self._timeout_s} s: {error}")
        name = getattr(cause, "sqlite_errorname", "")
        advice = {
            sqlite3.SQLITE_FULL: f"the disk is full: free space on {self._path.parent}",
            sqlite3.SQLITE_READONLY: f"read-only for uid {os.geteuid()}: make the file, -wal and -shm writable",
            sqlite3.SQLITE_BUSY: self._locked(),
            sqlite3.SQLITE_LOCKED: self._locked(),
            sqlite3.SQLITE_CANTOPEN: f"the file cannot be opened: {self._check_folder()}",
            sqlite3.SQLITE_PERM: self._check_folder(),
            sqlite3.SQLITE_IOERR: f"the disk of {self._path.parent} reports an error: check it, quota, file size limit",
            sqlite3.SQLITE_NOMEM: "out of memory",
            sqlite3.SQLITE_PROTOCOL: self._locked(),
        }
        primary = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            return JournalCorrupt(f"{self._path}: {cause} ({name}); restore it from a backup, no version can read it")
        if primary not in advice:
            return None
        return JournalUnavailable(f"{self._path}: {advice[primary]}; nothing was written ({name}: {cause})")

    def _check_folder(self) -> str:
        return f"check that {self._path.parent} exists and that this user (uid {os.geteuid()}) may write there"

    def _locked(self) -> str:
        return f"another writer holds the lock for over {self._timeout_s} s: find it with fuser {self._path}"


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _try_lock(lock_file: int) -> bool:
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
