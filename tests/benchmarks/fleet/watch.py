"""What the controller has made durable, with the moment at which an observer learned of it."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc
from phalanx.v1 import event_pb2, fleet_pb2

from tests.fixtures.controller_process import Controller


@dataclass(frozen=True)
class Seen:
    """One record. `at`: Unix seconds of its arrival here; `turn_at`: of the turn that decided it, before it was durable."""

    at: float
    turn_at: float
    type: str
    body: dict[str, Any]

    @property
    def nodes(self) -> list[str]:
        """The nodes that it is about."""
        return list(self.body["nodes"]) if "nodes" in self.body else [self.body["node"]]


class Watch:
    """Follows the journal. Arrival is after the fsync, so it is never too early.

    One thread takes answers and notes when, another one parses them: the loss of a thousand nodes is megabytes of JSON, and a
    verdict that comes behind it must not seem as late as the parsing of what came before.
    """

    def __init__(self, controller: Controller) -> None:
        self.seen: list[Seen] = []
        self._grown = threading.Condition()
        self._taken: queue.SimpleQueue[tuple[float, event_pb2.WatchEventsResponse] | None] = queue.SimpleQueue()
        self._call = controller.events.WatchEvents(
            event_pb2.WatchEventsRequest(after_revision=controller.fleet.GetSite(fleet_pb2.GetSiteRequest()).revision)
        )
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._follow, self._parse)]
        for thread in self._threads:
            thread.start()

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
                Seen(at, datetime.fromisoformat(event.at).timestamp(), event.type, json.loads(event.body_json))
                for event in answer.events
            ]
            with self._grown:
                self.seen += found
                self._grown.notify_all()

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
        self._call.cancel()
        for thread in self._threads:
            thread.join(5)
