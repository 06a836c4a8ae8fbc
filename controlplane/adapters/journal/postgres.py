"""One PostgreSQL database: its connections, their limits, and what its errors mean. Knows no tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from psycopg import Error as DriverError
from psycopg import sql
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from controlplane.engine.ports import JournalCorrupt, JournalUnavailable, JournalUncertain

CONNECT_S = 3
"""A server that is not there is told from one that is slow; libpq takes whole seconds, at least 2."""
PATIENT_MS = 600_000
_IDLE_READERS = 4
_MOST_READERS = 16
_SCHEMA_LOCK = 0x70686C78
"""Any number: whoever upgrades this schema takes the same advisory lock."""
_UNREACHABLE = ("08", "25P03", "57P")
"""SQLSTATE prefixes after which a connection is gone."""
_ADVICE = {
    "08": "the connection broke: is the server up?",
    "25006": "this server is read-only (a standby?): name the primary, or add target_session_attrs=read-write",
    "25P03": "the server ended the session, because this controller paused in the middle of a transaction",
    "28": "the server refused the user or the password: check the URL, the password file and pg_hba.conf",
    "3D": "there is no such database: create it, owned by this user, with encoding UTF8",
    "42501": "this user may not do that: make it the owner of the database and its tables",
    "42P01": "a table is missing: another search_path, or somebody has removed it",
    "3F": "there is no such schema: check search_path",
    "53100": "the disk of the server is full: free space there",
    "53200": "the server is out of memory",
    "53300": "the server has no free connections: raise max_connections (a controller takes up to 25)",
    "53": "the server is out of resources: look at its log",
    "55P03": "another session holds a lock: look at pg_stat_activity",
    "57014": "the server took too long: look at its load, its disk and pg_stat_activity",
    "57P": "the server is starting or shutting down: is it up?",
    "58": "the server's disk reports an error: look at its log",
}
"""What to do, by SQLSTATE or the beginning of it; the longest one counts."""
_REFUSALS = {
    "password authentication failed": "28",
    "no password supplied": "28",
    "pg_hba.conf": "28",
    "role ": "28",
    "database ": "3D",
    "too many clients": "53300",
    "remaining connection slots": "53300",
    "starting up": "57P",
    "shutting down": "57P",
}
"""What a server says while a connection is opened, when the driver passes on no SQLSTATE."""
_DAMAGED = ("XX001", "XX002")


class Postgres:
    """A PostgreSQL database through psycopg. One connection writes, others read.

    An append that its server does not answer within `limit_ms` is cancelled there; so is a transaction of a controller that
    was stopped in the middle of it, which would hold the leader's row.

    After a fork the child must open its own. Connect directly: a pooler that shares sessions between transactions breaks
    the settings of a session.
    """

    kind = "postgresql"

    def __init__(self, url: URL, limit_ms: int, password_file: str = "") -> None:
        if url.password is not None:
            raise ValueError(
                "a password in the URL shows in process lists; put it in a file of mode 0600 and name that "
                "with --journal-password-file, or use libpq's passfile"
            )
        if not url.database:
            raise ValueError(f"{url} must name a database, like postgresql://phalanx@host/phalanx")
        self._name = url.render_as_string(hide_password=True)
        self._limit_ms = limit_ms
        self._password_file = password_file
        self._closed = False
        driver = url.set(drivername="postgresql+psycopg")
        self._writer = self._engine(driver, 1, 0, {"statement_timeout": limit_ms, "lock_timeout": limit_ms})
        reading = {
            "statement_timeout": 10 * limit_ms,
            "idle_in_transaction_session_timeout": 30 * limit_ms,  # a backup compresses in between
            "default_transaction_read_only": "on",
        }
        self._reader = self._engine(driver, _IDLE_READERS, _MOST_READERS - _IDLE_READERS, reading)
        try:
            with self._explained(self._reader), self._reader.connect() as connection:
                self._check_server(connection)
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return self._name

    @contextmanager
    def write(self, *, patient: bool = False) -> Iterator[Connection]:
        """See `database.Database`."""
        self._check_open()
        with self._explained(self._writer), self._writer.connect() as connection:
            transaction = connection.begin()
            if patient:
                for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
                    connection.execute(text(f"SET LOCAL {limit} = {PATIENT_MS}"))
            yield connection
            try:
                transaction.commit()
            except DBAPIError as error:
                if not _is_gone(error):
                    raise  # the server said that it did not commit
                self._writer.dispose()
                raise JournalUncertain(
                    f"{self._name}: the connection ended during a commit: whether it is stored is not known yet; "
                    f"is the server up? ({_first_line(error)})"
                ) from error

    @contextmanager
    def read(self, *, steady: bool = False) -> Iterator[Connection]:
        """See `database.Database`."""
        self._check_open()
        with self._explained(self._reader), self._reader.connect() as connection:
            level = "REPEATABLE READ" if steady else "AUTOCOMMIT"
            yield connection.execution_options(isolation_level=level)

    def insert(self, connection: Connection, table: Table, rows: Sequence[tuple[object, ...]]) -> None:
        """See `database.Database`: COPY, three times as fast as INSERT."""
        columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), columns)
        driver: Any = connection.connection.driver_connection
        try:
            with driver.cursor() as cursor, cursor.copy(statement) as copy:
                for row in rows:
                    copy.write_row(row)
        except DriverError as error:
            raise DBAPIError("COPY", None, error) from error

    def through(self, connection: Connection) -> AbstractContextManager[None]:
        """See `database.Database`: a table takes its room as it grows; what was taken back is left to the next vacuum."""
        return nullcontext()

    def lock_schema(self, connection: Connection) -> None:
        """See `database.Database`."""
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})"))

    def size(self, connection: Connection) -> int:
        """See `database.Database`."""
        query = "SELECT coalesce(sum(pg_total_relation_size(relid)), 0) FROM pg_stat_user_tables WHERE relname IN "
        names = "('journal', 'archive', 'snapshots', 'leader', 'alembic_version')"
        return int(connection.execute(text(query + names)).scalar_one())

    def close(self) -> None:
        """See `database.Database`."""
        self._closed = True
        self._writer.dispose()
        self._reader.dispose()

    def _engine(self, url: URL, idle: int, more: int, session: dict[str, object]) -> Engine:
        always = {"synchronous_commit": "on", "idle_in_transaction_session_timeout": self._limit_ms}
        options = " ".join(f"-c {name}={value}" for name, value in (always | session).items())
        engine = create_engine(
            url,
            pool_size=idle,
            max_overflow=more,
            pool_timeout=self._limit_ms / 1_000,
            pool_pre_ping=True,  # a server that was restarted in between costs nobody an error
            connect_args={
                "options": options,
                "connect_timeout": CONNECT_S,
                "tcp_user_timeout": max(self._limit_ms, 1_000),
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "application_name": "phalanx",
            },
        )
        event.listen(engine, "do_connect", self._add_password)
        return engine

    def _add_password(self, _dialect: object, _record: object, _arguments: object, settings: dict[str, Any]) -> None:
        """Read with every connection, so that a password can be changed under a running controller."""
        if not self._password_file:
            return
        try:
            settings["password"] = Path(self._password_file).read_text(encoding="utf-8").rstrip("\n")
        except OSError as error:
            raise JournalUnavailable(
                f"cannot read the password file {self._password_file}: {error.strerror}"
            ) from error

    def _check_server(self, connection: Connection) -> None:
        encoding, fsync = connection.execute(
            text("SELECT current_setting('server_encoding'), current_setting('fsync')")
        ).one()
        if encoding != "UTF8":
            raise JournalUnavailable(f"{self._name} has encoding {encoding}: create the database with encoding UTF8")
        if fsync != "on":
            raise JournalUnavailable(f"{self._name} runs with fsync off: a power cut would lose records; turn it on")

    def _check_open(self) -> None:
        if self._closed:
            raise JournalUnavailable(f"the journal {self._name} was closed by this process; open it again")

    @contextmanager
    def _explained(self, engine: Engine) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            known = self._explain(error)
            if known is None:
                raise
            if isinstance(error, DBAPIError) and _is_gone(error):
                engine.dispose()
            raise known from error

    def _explain(self, error: SQLAlchemyError) -> JournalUnavailable | JournalCorrupt | None:
        """The port's error, or None for a bug of ours such as wrong SQL."""
        if not isinstance(error, DBAPIError):
            if not isinstance(error, PoolTimeout):
                return None
            return JournalUnavailable(
                f"{self._name}: no connection was free within {self._limit_ms} ms; nothing was written"
            )
        state = getattr(error.orig, "sqlstate", None)
        if state in _DAMAGED:
            return JournalCorrupt(f"{self._name}: {_first_line(error)} ({state}); restore the journal from a backup")
        if state is None and not _is_gone(error):
            return None
        advice = "the server does not answer or does not let us in: is it up, are host and port right?"
        if state is None:
            said = str(error.orig).rpartition("FATAL:")[2]
            state = next((state for words, state in _REFUSALS.items() if words in said), "")
        if state:
            known = max((prefix for prefix in _ADVICE if state.startswith(prefix)), key=len, default=None)
            if known is None:
                return None
            advice = _ADVICE[known]
        return JournalUnavailable(f"{self._name}: {advice}; nothing was written ({_first_line(error)})")


def _is_gone(error: DBAPIError) -> bool:
    """Whether the connection is lost, so that nobody has said how its last statement went."""
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return error.connection_invalidated or type(error.orig).__name__ in ("OperationalError", "ConnectionTimeout")
    return str(state).startswith(_UNREACHABLE)


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (str(cause).splitlines() or [type(cause).__name__])[0][:300]
