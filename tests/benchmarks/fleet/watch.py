"""What the controller has made durable, with the moment at which an observer learned of it."""

from __future__ import annotations

import json
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
    """Follows the journal in a thread of its own. Arrival is after the fsync, so it is never too early."""

    def __init__(self, controller: Controller) -> None:
        self.seen: list[Seen] = []
        self._grown = threading.Condition()
        self._call = controller.events.WatchEvents(
            event_pb2.WatchEventsRequest(after_revision=controller.fleet.GetSite(fleet_pb2.GetSiteRequest()).revision)
        )
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for answer in self._call:
                now = time.time()
                with self._grown:
                    self.seen += [
                        Seen(now, datetime.fromisoformat(event.at).timestamp(), event.type, json.loads(event.body_json))
                        for event in answer.events
                    ]
                    self._grown.notify_all()
        except grpc.RpcError:
            return

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
        self._thread.join(5)
