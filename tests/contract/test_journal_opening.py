"""Which files and databases are opened as a journal, and which are left alone."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from journal_files import sql_journal
from journal_process import records

import controlplane
from controlplane.adapters.journal.lease import SqlLease
from controlplane.adapters.journal.schema import SCHEMA_VERSION, metadata
from controlplane.adapters.journal.sql import SqlJournal
from controlplane.core.state import State
from controlplane.engine.ports import (
    JournalCorrupt,
    JournalUnavailable,
)
from controlplane.engine.recover import load
from controlplane.engine.turn import replay


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


def what_happened(state: State) -> object:
    """A state without its accounts: how time is booked, and what is learned from it, a later version may do differently from
    the one that wrote a snapshot; nor does an earlier one's snapshot hold when raylets left, checkpoints were read back, or
    where generations started."""
    body = json.loads(state.to_json())
    del body["fleet"]["cell_left_ns"]
    for account in ("ledger", "wear"):
        body.pop(account, None)
    for job in body["jobs"]:
        for account in ("ledger_ns", "hour", "pace", "line"):
            del job[account]
        for checkpoint in job["checkpoints"].values():
            del checkpoint["productive_ns"], checkpoint["verified_ns"]
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
