"""What only a server can get wrong: it goes away, refuses, fills up, is slow. Nothing acknowledged is lost, nothing is halved."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psycopg
import pytest
from journal_process import record, records

from controlplane.adapters.journal.lease import SqlLease
from controlplane.adapters.journal.sql import SqlJournal
from controlplane.engine.ports import EpochLost, JournalCorrupt, JournalUnavailable, JournalUncertain
from tests.fixtures.postgres import PostgresServer


class Wire:
    """A TCP proxy in front of a server that can cut a connection at a chosen moment of the protocol."""

    def __init__(self, port: int) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._port = port
        self.port = int(self._server.getsockname()[1])
        self.cut_at = b""
        self.forward_before_cut = True
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            upstream = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._up, args=(client, upstream), daemon=True).start()
            threading.Thread(target=self._down, args=(client, upstream), daemon=True).start()

    def _up(self, client: socket.socket, upstream: socket.socket) -> None:
        while data := _receive(client):
            if self.cut_at and self.cut_at in data:
                self.cut_at = b""
                self.cuts += 1
                if self.forward_before_cut:
                    client.shutdown(socket.SHUT_RDWR)  # first, so that no answer slips through
                    upstream.sendall(data)
                    upstream.settimeout(60)
                    _receive(upstream)  # the server has done it
                break
            upstream.sendall(data)
        for end in (client, upstream):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # a close alone says nothing while the other thread reads

    def _down(self, client: socket.socket, upstream: socket.socket) -> None:
        while data := _receive(upstream):
            try:
                client.sendall(data)
            except OSError:
                return
        client.close()

    def close(self) -> None:
        self._server.close()


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 16)
    except OSError:
        return b""


@pytest.fixture
def journal(postgres_url: str) -> Iterator[SqlJournal]:
    with closing(SqlJournal(postgres_url)) as opened:
        yield opened


@pytest.fixture
def wire(postgres: PostgresServer) -> Iterator[Wire]:
    made = Wire(postgres.port)
    yield made
    made.close()


class TestUncertainCommit:
    @pytest.mark.parametrize("durable", [True, False])
    def test_a_connection_that_breaks_in_the_commit_leaves_doubt_that_is_settled(
        self, postgres: PostgresServer, postgres_url: str, wire: Wire, durable: bool
    ) -> None:
        url = postgres_url.replace(f":{postgres.port}/", f":{wire.port}/")
        with closing(SqlJournal(url)) as journal:
            epoch = journal.acquire("a")
            journal.append(records(1, 2, epoch))
            batch = records(3, 3, epoch)
            wire.forward_before_cut, wire.cut_at = durable, b"COMMIT"
            with pytest.raises(JournalUncertain, match="not known yet"):
                journal.append(batch)
            assert wire.cuts == 1
            assert journal.stored(batch) is durable
            if not durable:
                journal.append(batch)
            journal.append(records(6, 1, epoch))
            assert journal.read(0) == records(1, 6, epoch)

    def test_a_commit_that_is_still_under_way_is_waited_for(
        self, postgres: PostgresServer, postgres_url: str, journal: SqlJournal
    ) -> None:
        epoch = journal.acquire("a")
        batch = records(1, 2, epoch)
        with closing(SqlJournal(postgres_url)) as other, ExitStack() as slow:
            connection = slow.enter_context(other._database.write())
            connection.exec_driver_sql("SELECT epoch FROM leader FOR UPDATE")
            other._database.insert(connection, _journal_table(), [tuple(_values(entry)) for entry in batch])
            answers: list[bool] = []
            asking = threading.Thread(target=lambda: answers.append(journal.stored(batch)))
            asking.start()
            _until(lambda: _waiting(postgres), "the question waits for the row")
            assert answers == []
            slow.close()
            asking.join(60)
        assert answers == [True]

    def test_a_break_before_the_commit_is_no_doubt(
        self, postgres: PostgresServer, postgres_url: str, wire: Wire
    ) -> None:
        url = postgres_url.replace(f":{postgres.port}/", f":{wire.port}/")
        with closing(SqlJournal(url)) as journal:
            epoch = journal.acquire("a")
            for moment in (b"SELECT leader.epoch", b"COPY"):
                wire.forward_before_cut, wire.cut_at = False, moment
                with pytest.raises(JournalUnavailable, match="nothing was written") as raised:
                    journal.append(records(1, 2, epoch))
                assert not isinstance(raised.value, JournalUncertain)
            assert wire.cuts == 2
            journal.append(records(1, 2, epoch))
            assert journal.read(0) == records(1, 2, epoch)


class TestServerAway:
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["restart", "crash"])
    def test_what_was_acknowledged_survives_and_the_rest_goes_on(
        self, own_postgres: PostgresServer, how: signal.Signals
    ) -> None:
        url = own_postgres.url(own_postgres.create())
        with closing(SqlJournal(url)) as journal:
            epoch = journal.acquire("a")
            newest, _ = _append_until_it_fails(journal, epoch, lambda: own_postgres.stop(how))
            for call in (lambda: journal.probe(epoch), journal.bounds, lambda: journal.acquire("b")):
                with pytest.raises(JournalUnavailable, match="is it up"):
                    call()
            own_postgres.start()
            journal.probe(epoch)
            durable = journal.bounds()[1]
            assert newest <= durable <= newest + 5, "all that was acknowledged, at most the batch in doubt besides"
            journal.append(records(durable + 1, 5, epoch))
            assert journal.read(0, 100_000) == records(1, durable + 5, epoch)

    def test_a_restart_between_two_appends_costs_nothing(self, own_postgres: PostgresServer) -> None:
        with closing(SqlJournal(own_postgres.url(own_postgres.create()))) as journal:
            epoch = journal.acquire("a")
            journal.append(records(1, 2, epoch))
            assert journal.bounds() == (1, 2)
            own_postgres.stop()
            own_postgres.start()
            assert journal.bounds() == (1, 2)
            journal.append(records(3, 2, epoch))
            assert journal.read(0) == records(1, 4, epoch)

    def test_a_terminated_session_is_told_and_replaced(self, postgres: PostgresServer, journal: SqlJournal) -> None:
        epoch = journal.acquire("a")

        def write_on_a_lost_session() -> None:
            with journal._database.write() as connection:
                pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
                postgres.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
                connection.exec_driver_sql("SELECT 1")

        with pytest.raises(JournalUnavailable, match="nothing was written"):
            write_on_a_lost_session()
        journal.append(records(1, 1, epoch))

    def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(JournalUnavailable, match=r"is it up.*refused"):
            SqlJournal(f"postgresql://phalanx@127.0.0.1:{port}/phalanx")


class TestServerRefuses:
    def test_a_wrong_password_says_so_and_stays_secret(self, own_postgres: PostgresServer, tmp_path: Path) -> None:
        own_postgres.execute("CREATE ROLE guarded LOGIN PASSWORD 'right one' CREATEDB")
        name = own_postgres.create()
        own_postgres.execute(f'ALTER DATABASE "{name}" OWNER TO guarded')
        rules = own_postgres.data / "pg_hba.conf"
        rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        loaded = own_postgres.execute("SELECT pg_conf_load_time()")
        own_postgres.execute("SELECT pg_reload_conf()")
        _until(lambda: own_postgres.execute("SELECT pg_conf_load_time()") != loaded, "the rules are read")
        secret = tmp_path / "password"
        secret.touch(0o600)
        secret.write_text("wrong one\n")
        url = own_postgres.url(name, "guarded")
        with pytest.raises(JournalUnavailable, match="refused the user or the password") as raised:
            SqlJournal(url, password_file=str(secret))
        assert "wrong one" not in str(raised.value)
        secret.write_text("right one\n")
        with closing(SqlJournal(url, password_file=str(secret))) as journal:
            journal.append(records(1, 1, journal.acquire("a")))
        secret.unlink()
        with pytest.raises(JournalUnavailable, match="cannot read the password file"):
            SqlJournal(url, password_file=str(secret))

    def test_a_password_in_the_url_is_refused(self) -> None:
        with pytest.raises(ValueError, match="process lists") as raised:
            SqlJournal("postgresql://phalanx:hush@127.0.0.1/phalanx")
        assert "hush" not in str(raised.value)

    def test_a_database_that_is_not_there(self, postgres: PostgresServer) -> None:
        with pytest.raises(JournalUnavailable, match="create it"):
            SqlJournal(postgres.url("nowhere"))

    def test_a_database_of_something_else_is_left_alone(self, postgres: PostgresServer, postgres_url: str) -> None:
        database = postgres_url.rpartition("/")[2]
        postgres.execute("CREATE TABLE other (a int)", database)
        with pytest.raises(JournalCorrupt, match="no Phalanx journal"):
            SqlJournal(postgres_url)
        assert postgres.execute("SELECT relname FROM pg_stat_user_tables", database) == [("other",)]

    def test_a_schema_of_another_version_is_named(self, postgres: PostgresServer, postgres_url: str) -> None:
        SqlJournal(postgres_url).close()
        postgres.execute("UPDATE alembic_version SET version_num = '9z'", postgres_url.rpartition("/")[2])
        with pytest.raises(JournalCorrupt, match="schema version 9z"):
            SqlJournal(postgres_url)

    def test_a_read_only_server_can_be_read(self, postgres: PostgresServer, postgres_url: str) -> None:
        """What a standby server says, without the minute that it takes to build one."""
        database = postgres_url.rpartition("/")[2]
        with closing(SqlJournal(postgres_url)) as journal:
            epoch = journal.acquire("a")
            journal.append(records(1, 2, epoch))
        postgres.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
        with closing(SqlJournal(postgres_url)) as journal:
            for call in (lambda: journal.append(records(3, 1, epoch)), lambda: journal.probe(epoch)):
                with pytest.raises(JournalUnavailable, match="name the primary"):
                    call()
            assert journal.read(0) == records(1, 2, epoch)

    def test_a_user_without_rights_is_told_so(self, postgres: PostgresServer, postgres_url: str) -> None:
        SqlJournal(postgres_url).close()
        postgres.execute("DROP ROLE IF EXISTS stranger")
        postgres.execute("CREATE ROLE stranger LOGIN")
        with pytest.raises(JournalUnavailable, match="make it the owner"):
            SqlJournal(postgres_url.replace("postgres@", "stranger@"))

    def test_fsync_off_is_refused(self, own_postgres: PostgresServer) -> None:
        name = own_postgres.create()
        own_postgres.execute("ALTER SYSTEM SET fsync = off")
        own_postgres.execute("SELECT pg_reload_conf()")
        _until(lambda: own_postgres.execute("SHOW fsync") == [("off",)], "the setting is read")
        with pytest.raises(JournalUnavailable, match="fsync off"):
            SqlJournal(own_postgres.url(name))


class TestServerFull:
    def test_a_full_disk_says_so_loses_nothing_and_recovers(self, tmp_path: Path) -> None:
        folder = Path("/tmp") / f"phx-full-{os.getpid()}"
        folder.mkdir()
        with ExitStack() as stack:
            stack.callback(folder.rmdir)
            mount = ["mount", "-t", "tmpfs", "-o", "size=96m,mode=0755", "phalanx-test", str(folder)]
            if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
                pytest.skip("this user cannot mount a tmpfs: a full PostgreSQL is not tested here")
            stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)
            server = PostgresServer(folder).start()
            stack.callback(server.stop, signal.SIGQUIT)
            journal = stack.enter_context(closing(SqlJournal(server.url(server.create()))))
            epoch = journal.acquire("a")
            journal.append(records(1, 3, epoch))
            with (folder / "ballast").open("wb", buffering=0) as ballast:
                _fill(ballast)
                last, said = _append_until_it_fails(journal, epoch, lambda: None, first=4, size=20_000)
            assert "the disk of the server is full" in said or "is it up" in said, said
            (folder / "ballast").unlink()
            _until(
                lambda: _works(journal, epoch), "the server is well again"
            )  # without room for WAL it restarts itself
            newest = journal.bounds()[1]
            assert newest in (last, last + 5)
            found = journal.read(0, 100_000)
            assert found == [*records(1, 3, epoch), *records(4, newest - 3, epoch, size=20_000)]
            journal.append(records(newest + 1, 3, epoch))


class TestStoppedLeader:
    def test_a_transaction_of_a_stopped_leader_does_not_hold_up_its_successor(self, postgres_url: str) -> None:
        with closing(SqlJournal(postgres_url)) as old, ExitStack() as stopped:
            epoch = old.acquire("old")
            connection = stopped.enter_context(old._database._writer.connect())
            connection.exec_driver_sql("SELECT epoch FROM leader FOR UPDATE")
            with closing(SqlLease(postgres_url, limit_ms=60_000)) as lease:
                assert lease.take(lease.look(), "new", "", "", 5_000) == epoch + 1
            connection.invalidate()
            stopped.close()
            with pytest.raises(EpochLost):
                old.append(records(1, 1, epoch))

    def test_an_append_that_waits_for_a_lock_says_so(self, postgres_url: str) -> None:
        with (
            closing(SqlJournal(postgres_url, busy_timeout_ms=60_000)) as other,
            closing(SqlJournal(postgres_url, busy_timeout_ms=3_000)) as journal,
        ):
            epoch = journal.acquire("a")
            with other._database.write() as connection:
                connection.exec_driver_sql("SELECT epoch FROM leader FOR UPDATE")
                with pytest.raises(JournalUnavailable, match="pg_stat_activity"):
                    journal.append(records(1, 1, epoch))
            journal.append(records(1, 1, epoch))

    def test_openers_of_an_empty_database_do_not_get_in_each_others_way(self, postgres_url: str) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(4) as pool:
            opened = list(pool.map(lambda _: SqlJournal(postgres_url), range(4)))
        assert sorted(journal.acquire("a") for journal in opened) == [1, 2, 3, 4]
        for journal in opened:
            journal.close()

    def test_the_migrations_lead_to_the_declared_tables(self, journal: SqlJournal) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        from controlplane.adapters.journal.schema import metadata

        with journal._database.read() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def _journal_table() -> object:
    from controlplane.adapters.journal.schema import journal as table

    return table


def _values(entry: object) -> list[object]:
    return [getattr(entry, name) for name in entry.__slots__]  # type: ignore[attr-defined]


def _waiting(postgres: PostgresServer) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    return bool(postgres.execute(query)[0][0])


def _until(question: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not question():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def _works(journal: SqlJournal, epoch: int) -> bool:
    try:
        journal.probe(epoch)
    except JournalUnavailable:
        return False
    return True


def _append_until_it_fails(
    journal: SqlJournal, epoch: int, break_it: Callable[[], None], *, first: int = 1, size: int = 0
) -> tuple[int, str]:
    """Append batches of five; break it after the tenth. The newest acknowledged revision, and how the next append failed."""
    newest, breaker = first - 1, threading.Thread(target=break_it)
    for batch in range(10_000):
        if batch == 10:
            breaker.start()
        try:
            journal.append(records(newest + 1, 5, epoch, size=size))
        except JournalUnavailable as error:
            if breaker.ident is not None:
                breaker.join(120)
            return newest, str(error)
        newest += 5
    raise AssertionError("no append has failed")


def _fill(ballast: object) -> None:
    """Take all but the last few hundred KiB of the disk."""
    try:
        while ballast.write(bytes(65_536)):  # type: ignore[attr-defined]
            pass
    except OSError:
        return


def test_the_newest_record_reads_back(journal: SqlJournal) -> None:
    epoch = journal.acquire("a")
    journal.append([record(1, epoch, size=1_000_000)])
    assert journal.newest(1) == [record(1, epoch, size=1_000_000)]


def test_the_driver_is_the_one_that_was_measured() -> None:
    assert psycopg.pq.__impl__ in ("binary", "c")
