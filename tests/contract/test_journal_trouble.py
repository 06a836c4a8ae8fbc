"""What only a file on a disk can get wrong: no room, no rights, locks, damage."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from journal_files import file_size_limit, snapshot, sql_journal
from journal_process import records
from sqlalchemy import event

from controlplane.engine.ports import (
    JournalCorrupt,
    JournalEntry,
    JournalUnavailable,
)


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
