"""`python -m controlplane.restore FILE --journal URL`: an empty journal becomes what a backup holds.

Agents and ranks may run while this happens, and may know of decisions that were taken after the backup. So nothing that
they could have seen is used again: the epoch, generations, processes, effects and jobs go on `SKIPPED` numbers later, and
every running job makes a new generation, which tells every rank where to go on from.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from controlplane.adapters.journal.sql import SqlJournal
from controlplane.backup import BadBackup, Header, check_backup, open_backup
from controlplane.core import records as r
from controlplane.core.apply import apply
from controlplane.core.state import State
from controlplane.core.vocabulary import JobState
from controlplane.engine.ports import Content, JournalCorrupt, JournalEntry, JournalUnavailable
from controlplane.engine.turn import entry, replay

SKIPPED = 1_000_000
"""More leaderships, generations or orders than any site makes between a backup and its restore."""
CAUSE = "the journal was restored from a backup"


def restore(path: Path, journal: SqlJournal, now_ns: int) -> tuple[Header, State]:
    """Fill an empty journal. Returns the backup's header and the state that the next leader will find.

    Raises:
        BadBackup: damaged, cut off, or of a newer version.
        ValueError: the journal is not empty.
        JournalUnavailable, OSError: nothing was written.
        JournalCorrupt, UnknownRecord: this version cannot read what the backup holds.
    """
    header = check_backup(path)
    with open_backup(path) as content:
        state = fold(content)
    epoch = header.epoch + SKIPPED
    added = list(_afterwards(state, epoch, max(now_ns, state.at_ns)))
    with open_backup(path) as content:
        whole = replace(content, kept=content.kept + len(added), entries=chain(content.entries, added))
        journal.fill(whole, epoch)
    return header, state


def fold(content: Content) -> State:
    """The state that a journal of this content describes."""
    state = State() if content.snapshot is None else State.from_json(content.snapshot.body).fork()
    for number, item in enumerate(content.entries):
        if number >= content.archived and item.revision > state.revision:
            replay(state, [item])
    return state


def _afterwards(state: State, epoch: int, at_ns: int) -> Iterator[JournalEntry]:
    """What is decided by restoring. Applies it to `state`."""
    records: list[r.Record] = [r.JournalRestored(SKIPPED)]
    records += [
        r.RanksLost(job.uid, (), at_ns, job.last_step, CAUSE)
        for job in state.active_jobs()
        if job.state is JobState.RUNNING and job.ending is None and job.incident is None
    ]
    for record in records:
        apply(state, record, at_ns)
        yield replace(entry(state, record, at_ns, "restore"), epoch=epoch)


def main(arguments: list[str] | None = None) -> int:
    """Restore, and say what was restored. Exit status 1: nothing was written."""
    parser = argparse.ArgumentParser(prog="python -m controlplane.restore", description="Fills an empty journal.")
    parser.add_argument("file", type=Path, help="what `phalanx backup` wrote")
    parser.add_argument("--journal", required=True, metavar="URL", help="sqlite:////absolute/path or postgresql://...")
    parser.add_argument("--password-file", default="", metavar="FILE", help="password for PostgreSQL")
    options = parser.parse_args(arguments)
    try:
        journal = SqlJournal(options.journal, password_file=options.password_file)
        try:
            header, _ = restore(options.file, journal, time.time_ns())
        finally:
            journal.close()
    except (BadBackup, JournalUnavailable, JournalCorrupt, r.UnknownRecord, ValueError, OSError) as error:
        sys.stderr.write(f"restore: {error}\n")
        return 1
    sys.stdout.write(
        f"restored revision {header.revision} ({header.archived + header.kept} records of Phalanx {header.phalanx}); "
        f"the next controller leads with epoch {header.epoch + SKIPPED + 1}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
