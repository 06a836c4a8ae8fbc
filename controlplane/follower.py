"""The follower: folds the journal with the same `apply` and stores snapshots, so that the writer never pauses.

A child of the controller with its own connections. It ends when its parent dies; losing it costs nothing but a longer
replay at the next start.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import signal
import sys
import time

import structlog

from controlplane.adapters.journal.sql import SqlJournal
from controlplane.core.records import UnknownRecord
from controlplane.core.retention import Kept, Retention, compact_before
from controlplane.core.state import State
from controlplane.core.units import NS_PER_S
from controlplane.engine.ports import Compacted, Extent, Journal, JournalCorrupt, JournalUnavailable, Snapshot
from controlplane.engine.recover import catch_up, load
from controlplane.observability import configure_logging

LOOK_S = 1.0
_PR_SET_PDEATHSIG = 1

log = structlog.get_logger(__name__)


def store(journal: Journal, state: State) -> Snapshot:
    """Store the state as a snapshot.

    Raises:
        JournalUnavailable: nothing was stored.
    """
    body = state.to_json()
    snapshot = Snapshot(state.revision, hashlib.sha256(body.encode()).hexdigest(), body)
    journal.store_snapshot(snapshot)
    return snapshot


def compact(journal: Journal, retention: Retention, now_ns: int, before: int = 0) -> int:
    """Remove what retention does not want any more, and what is before `before`; returns how many entries went.

    Raises:
        JournalUnavailable: the rest of it was not removed.
    """
    extent = journal.extent()
    if not extent.snapshot:
        return 0
    kept = Kept(
        extent.oldest, extent.newest, extent.snapshot, _young(journal, extent, now_ns - retention.age_ns), extent.bytes
    )
    limit = max(compact_before(retention, kept), min(before, extent.snapshot))
    removed = journal.compact(limit) if limit > extent.oldest else 0
    forgotten = journal.forget(now_ns - retention.decisions_ns)
    if removed or forgotten:
        log.info("journal_compacted", removed=removed, oldest=limit, forgotten=forgotten, bytes=extent.bytes)
    return removed


def _young(journal: Journal, extent: Extent, since_ns: int) -> int:
    """The first kept revision that was written at `since_ns` or later, by bisection: time grows with the revision."""
    low, high = extent.oldest, extent.newest + 1
    while low < high:
        middle = (low + high) // 2
        found = journal.read(middle - 1, 1)
        low, high = (low, middle) if found and found[0].at_ns >= since_ns else (middle + 1, high)
    return low


class Follower:
    """Follows a journal. `records`: a snapshot after so many new ones; `every_s`: or after so long, if there is any."""

    def __init__(self, journal: Journal, records: int, every_s: float, retention: Retention) -> None:
        self._retention = retention
        self._journal = journal
        self._records = records
        self._every_s = every_s
        self._state = load(journal)
        stored = journal.latest_snapshot()
        self._stored = stored.revision if stored else 0
        self._stored_at_s = time.monotonic()

    def look(self) -> None:
        """Catch up, store a snapshot when one is due, and then remove what retention does not want any more."""
        try:
            if self._journal.bounds()[1] > self._state.revision:
                self._state = catch_up(self._state, self._journal)
        except Compacted:
            self._state = load(self._journal)
        fresh = self._state.revision - self._stored
        waited_s = time.monotonic() - self._stored_at_s
        if fresh >= self._records or (fresh > 0 and waited_s >= self._every_s):
            began_s = time.monotonic()
            snapshot = store(self._journal, self._state)
            self._stored, self._stored_at_s = snapshot.revision, time.monotonic()
            took_ms = round((self._stored_at_s - began_s) * 1000, 1)
            log.info("snapshot_stored", revision=snapshot.revision, bytes=len(snapshot.body), took_ms=took_ms)
            compact(self._journal, self._retention, time.time_ns())


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent dies; ends it now when that has already happened."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:
        sys.exit(0)


def main(arguments: list[str] | None = None) -> int:
    """Follow until killed. Exit status 2: the journal cannot be read by this version."""
    parser = argparse.ArgumentParser(
        prog="python -m controlplane.follower", description="Stores snapshots of a journal."
    )
    parser.add_argument("--journal", required=True, metavar="URL", help="sqlite:////absolute/path or postgresql://...")
    parser.add_argument("--password-file", default="", metavar="FILE", help="password for PostgreSQL")
    parser.add_argument("--parent", type=int, default=0, metavar="PID", help="end when this process is not the parent")
    parser.add_argument("--records", type=int, default=2_000, help="a snapshot after so many new records")
    parser.add_argument("--every-ms", type=int, default=60_000, help="or after so long, if there is any")
    for name in ("--retain-records", "--retain-days", "--retain-decisions-days", "--journal-max-bytes"):
        parser.add_argument(name, type=int, required=True, help="as the controller's")
    options = parser.parse_args(arguments)
    day_ns = 86_400 * NS_PER_S
    retention = Retention(
        options.retain_records,
        options.retain_days * day_ns,
        options.journal_max_bytes,
        options.retain_decisions_days * day_ns,
    )
    die_with_parent(options.parent)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure_logging()
    try:
        journal = SqlJournal(options.journal, password_file=options.password_file)
        follower = Follower(journal, options.records, options.every_ms / 1000, retention)
        while True:
            try:
                follower.look()
            except JournalUnavailable as error:
                log.warning("follower_waits", reason=str(error))
            time.sleep(LOOK_S)
    except (UnknownRecord, JournalCorrupt, JournalUnavailable) as error:
        log.critical("follower_stopped", reason=str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
