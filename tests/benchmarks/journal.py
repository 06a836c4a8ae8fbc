"""`make bench-journal`: durable records per second of the real journal with group commit, and one commit's latency.

The records are those of a rich history, with their real bodies. A group is what one turn commits under load
(`--batch-limit` events of one to four records); every group is one transaction, fsynced before the next. Beside each figure
stands the floor: the same rows through the bare driver, in the same table with the same indexes, with nothing checked.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import psycopg

from controlplane.adapters.journal.sql import SqlJournal
from controlplane.engine.ports import JournalEntry
from tests.benchmarks.report import Figure, write
from tests.fixtures.postgres import PostgresServer, running_server
from tests.support.histories import eventful

GROUP = 512
"""Records of a turn: a full batch of 256 events writes one to four each."""
COLUMNS = "revision, epoch, at_ns, cause, type, version, body, job, node"
ROW = attrgetter(*COLUMNS.split(", "))
MUST = {"records_sqlite": 20_000.0, "records_postgres": 10_000.0}
GOAL = {"records_sqlite": 100_000.0, "records_postgres": 50_000.0}

Commit = Callable[[list[JournalEntry]], None]


def groups(history: list[JournalEntry], count: int, size: int, first: int = 1) -> Iterator[list[JournalEntry]]:
    """Groups of records with real bodies and growing revisions."""
    revision = first
    for _ in range(count):
        yield [replace(history[n % len(history)], revision=n, epoch=1) for n in range(revision, revision + size)]
        revision += size


def measure(commit: Commit, made: list[list[JournalEntry]]) -> tuple[float, list[float]]:
    """Records per second over all groups, and the seconds of each commit."""
    spent = []
    for group in made:
        began = time.perf_counter()
        commit(group)
        spent.append(time.perf_counter() - began)
    return sum(map(len, made)) / sum(spent), spent


@contextmanager
def journal_of(url: str) -> Iterator[tuple[SqlJournal, Commit]]:
    """The product's way."""
    journal = SqlJournal(url)
    journal.acquire("bench")
    try:
        yield journal, journal.append
    finally:
        journal.close()


@contextmanager
def bare_sqlite(path: Path) -> Iterator[Commit]:
    """sqlite3's executemany into the product's table; WAL, synchronous=FULL."""
    SqlJournal(f"sqlite:///{path}").close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")

    def commit(group: list[JournalEntry]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO journal VALUES (?,?,?,?,?,?,?,?,?)", [ROW(entry) for entry in group])
        connection.execute("COMMIT")

    yield commit
    connection.close()


@contextmanager
def bare_postgres(server: PostgresServer) -> Iterator[Commit]:
    """psycopg's COPY into the product's table; synchronous_commit on."""
    database = server.create()
    SqlJournal(server.url(database)).close()
    connection = psycopg.connect(server.dsn(database))

    def commit(group: list[JournalEntry]) -> None:
        with connection.cursor() as cursor, cursor.copy(f"COPY journal ({COLUMNS}) FROM STDIN".encode()) as copy:
            for entry in group:
                copy.write_row(ROW(entry))
        connection.commit()

    yield commit
    connection.close()


def runs(rounds: int, history: list[JournalEntry], count: int, server: PostgresServer) -> dict[str, list[Any]]:
    """Every way once a round, in turn, each on a fresh database: records/s, and the commits of single records."""
    found: dict[str, list[Any]] = {name: [] for name in ("sqlite", "bare sqlite", "postgres", "bare postgres")}
    singles: dict[str, list[float]] = {"sqlite": [], "postgres": []}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="phx-bench-", dir=".") as folder:
            made = list(groups(history, count, GROUP))
            few = list(groups(history, 300, 1, first=count * GROUP + 1))
            urls = {
                "sqlite": f"sqlite:///{Path(folder).absolute() / 'journal.db'}",
                "postgres": server.url(server.create()),
            }
            for kind, url in urls.items():
                with journal_of(url) as (_, commit):
                    found[kind].append(measure(commit, made)[0])
                    singles[kind] += measure(commit, few)[1]
            with bare_sqlite(Path(folder).absolute() / "bare.db") as commit:
                found["bare sqlite"].append(measure(commit, made)[0])
            with bare_postgres(server) as commit:
                found["bare postgres"].append(measure(commit, made)[0])
        print(f"round {number + 1}: " + ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in found.items()))
    return found | {f"commit {kind}": values for kind, values in singles.items()}


def p99_ms(seconds: list[float]) -> float:
    """The 99th percentile, in milliseconds."""
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000


def main() -> None:
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--groups", type=int, default=200, help="commits per way and round")
    options = parser.parse_args()
    history = eventful().journal.read(0, 100_000)
    body = statistics.mean(len(entry.body) for entry in history)
    print(
        f"{len(history)} different records, body {body:.0f} characters on average; {GROUP} records a commit, all fsynced"
    )
    with running_server() as server:
        found = runs(options.rounds, history, options.groups, server)
    figures = []
    for kind in ("sqlite", "postgres"):
        name, floor = f"records_{kind}", statistics.median(found[f"bare {kind}"])
        value = statistics.median(found[kind])
        spread = (min(found[kind]), max(found[kind]))
        n = options.rounds
        peers = {f"floor_{kind}_driver": round(floor)}
        figures.append(Figure(name, value, "records/s", n, spread, MUST[name], GOAL[name], peers))
        print(f"{name:18} {value:10,.0f}/s  ({spread[0]:,.0f} to {spread[1]:,.0f}, n={n})  floor {floor:,.0f}/s")
        print(f"{'':18} one record a commit: median {statistics.median(found[f'commit {kind}']) * 1000:.2f} ms, "
              f"p99 {p99_ms(found[f'commit {kind}']):.2f} ms")  # fmt: skip
    sqlite, postgres = p99_ms(found["commit sqlite"]), p99_ms(found["commit postgres"])
    figures.append(
        Figure("commit_p99_ms", sqlite, "ms", len(found["commit sqlite"]), None, None, None, {"postgres": postgres})
    )
    print(f"written to {write('journal', figures)}")


if __name__ == "__main__":
    main()
