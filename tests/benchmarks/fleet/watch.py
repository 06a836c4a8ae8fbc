"""What the controller has made durable, with the moment at which an observer learned of it."""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc
from phalanx.v1 import event_pb2, fleet_pb2

from tests.fixtures.controller_process import Controller

LOOK_S = 0.005
SAME_NS = 1_000_000
"""Moments of the stream are rounded to less than this."""


@dataclass(frozen=True)
class Seen:
    """One record. `at`: Unix seconds of its arrival here, by way of the controller's stream; `turn_at`: of the turn that decided
    it, before it was durable; `durable_at`: when another process could read it in the journal's file."""

    at: float
    turn_at: float
    durable_at: float
    type: str
    body: dict[str, Any]

    @property
    def nodes(self) -> list[str]:
        """The nodes that it is about."""
        return list(self.body["nodes"]) if "nodes" in self.body else [self.body["node"]]


class Watch:
    """Follows the journal. Arrival is after the fsync, so it is never too early.

    A thread looks for new records in the journal's file every few milliseconds: what is durable may come late by the stream of a
    controller that tells thousands of agents of it. Another one takes answers and notes when, a third one parses them: the
    loss of a thousand nodes is megabytes of JSON, and what comes behind it must not seem as late as the parsing of that.
    """

    def __init__(self, controller: Controller) -> None:
        self.seen: list[Seen] = []
        self._grown = threading.Condition()
        self._taken: queue.SimpleQueue[tuple[float, event_pb2.WatchEventsResponse] | None] = queue.SimpleQueue()
        self._call = controller.events.WatchEvents(
            event_pb2.WatchEventsRequest(after_revision=controller.fleet.GetSite(fleet_pb2.GetSiteRequest()).revision)
        )
        self._file = controller.folder / "journal" / "journal.db"
        self._durable: dict[int, float] = {}
        self._over = threading.Event()
        works = (self._look, self._follow, self._parse)
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def _look(self) -> None:
        """Every new revision with the moment at which it could be read."""
        journal = sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)
        try:
            newest = journal.execute("SELECT max(revision) FROM journal").fetchone()[0] or 0
            while not self._over.wait(LOOK_S):
                found = journal.execute("SELECT max(revision) FROM journal").fetchone()[0] or newest
                if found > newest:
                    self._durable.update(dict.fromkeys(range(newest + 1, found + 1), time.time()))
                    newest = found
        finally:
            journal.close()

    def _follow(self) -> None:
        try:
            for answer in self._call:
                self._taken.put((time.time(), answer))
        except grpc.RpcError:
            pass
        self._taken.put(None)

    def _parse(self) -> None:
        while (taken := self._taken.get()) is not None:
            at, answer = taken
            found = [
                Seen(
                    at,
                    datetime.fromisoformat(event.at).timestamp(),
                    min(at, self._durable.get(event.revision, at)),
                    event.type,
                    json.loads(event.body_json),
                )
                for event in answer.events
            ]
            with self._grown:
                self.seen += found
                self._grown.notify_all()

    def turns(self, first: float, last: float) -> int:
        """Turns of the controller that wrote something from one to another; Unix seconds, both counted."""
        journal = sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)
        try:
            query = "SELECT count(DISTINCT at_ns) FROM journal WHERE at_ns BETWEEN ? AND ?"
            found: int = journal.execute(query, (first * 1e9 - SAME_NS, last * 1e9 + SAME_NS)).fetchone()[0]
        finally:
            journal.close()
        return found

    def until(self, what: str, enough: Callable[[list[Seen]], bool], since: int, limit_s: float = 60.0) -> list[Seen]:
        """Wait until what has been seen after the first `since` records is enough; returns it.

        Raises:
            TimeoutError: it did not become enough; the message says what was waited for.
        """
        deadline = time.monotonic() + limit_s
        with self._grown:
            while not enough(self.seen[since:]):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"not seen within {limit_s:g} s: {what}")
                self._grown.wait(left_s)
            return self.seen[since:]

    def close(self) -> None:
        """Stop following."""
        self._over.set()
        self._call.cancel()
        for thread in self._threads:
            thread.join(5)
