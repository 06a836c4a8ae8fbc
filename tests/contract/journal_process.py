"""A separate process for the journal's contract tests.

`write URL EPOCH`: append batches of 1 to 4 records until killed; print each newest acknowledged revision.
`read URL NEWEST`: read until revision NEWEST has been seen; exit 1 on a gap.
"""

from __future__ import annotations

import itertools
import sys

from controlplane.adapters.journal.sql import SqlJournal
from controlplane.engine.ports import JournalEntry


def record(
    revision: int, epoch: int, *, size: int = 0, kind: str = "noted", job: str = "", node: str = ""
) -> JournalEntry:
    """One record whose text follows from its revision, so that a reader can tell a mixed-up one."""
    body = f'{{"revision":{revision},"fill":"{"x" * size}"}}'
    at_ns = 1_700_000_000_000_000_000 + revision
    return JournalEntry(revision, epoch, at_ns, f"event-{revision}", kind, 1, body, job, node)


def records(first: int, count: int, epoch: int, *, size: int = 0) -> list[JournalEntry]:
    return [record(revision, epoch, size=size) for revision in range(first, first + count)]


def write(url: str, epoch: int) -> None:
    journal = SqlJournal(url)
    first = journal.bounds()[1] + 1
    for count in itertools.cycle((1, 2, 3, 4)):
        journal.append(records(first, count, epoch, size=700))
        first += count
        sys.stdout.write(f"{first - 1}\n")
        sys.stdout.flush()


def read(url: str, newest: int) -> None:
    journal = SqlJournal(url)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    seen = 0
    while seen < newest:
        for entry in journal.read(seen, limit=50):
            if entry != record(entry.revision, entry.epoch) or entry.revision != seen + 1:
                sys.exit(1)
            seen = entry.revision
    journal.close()


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
