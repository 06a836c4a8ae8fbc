"""Journals in a file that several processes share, one of which may be killed."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import journal_process
from journal_files import sql_journal
from journal_process import record, records

import controlplane


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
