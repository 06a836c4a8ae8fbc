"""Reads the site in threads of its own and keeps only the newest of what it read; the screen takes it from there.

A broken connection is opened anew at every try, so a restarted controller, another leader and a renewed certificate
are all found the same way.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from phalanx.v1 import event_pb2, fleet_pb2, job_pb2

from cli.client import Client, Refused, status_of
from cli.errors import CliError
from cli.top.fleet import nodes_of
from cli.top.sitemap import Rack, racks_of

if TYPE_CHECKING:
    import grpc

T = TypeVar("T")

Connect = Callable[[], AbstractContextManager[Client]]

CALL_TIMEOUT_S = 5.0
REFRESH_S = 1.0
REST = 4.0
"""A pause is at least this many times as long as the read before it: a slow controller is not asked all the time."""
EVENTS_KEPT = 200
FAULTS_SHOWN = 100
ROUTINE = frozenset({"CheckpointCommitted", "CheckpointVerified", "CheckpointsExpired"})
"""Types of events that every job makes all day long; among them nobody would see the others."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The site at one moment."""

    site: fleet_pb2.GetSiteResponse
    racks: tuple[Rack, ...]
    jobs: tuple[job_pb2.Job, ...]
    faults: tuple[fleet_pb2.Fault, ...] = ()
    faults_total: int = 0


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """The newest value of a poller, read at `read_at` (monotonic). `error`: why nothing newer was read; else empty."""

    value: T | None
    serial: int
    read_at: float
    error: str = ""


def read_snapshot(client: Client) -> Snapshot:
    """Site, nodes, jobs and the hardest faults that stand, in four calls."""
    site = client.fleet.GetSite(fleet_pb2.GetSiteRequest(), timeout=CALL_TIMEOUT_S)
    nodes = client.fleet.ListNodes(fleet_pb2.ListNodesRequest(columns=True), timeout=CALL_TIMEOUT_S)
    jobs = client.jobs.ListJobs(job_pb2.ListJobsRequest(), timeout=CALL_TIMEOUT_S)
    faults = _faults(client)
    return Snapshot(site, racks_of(nodes_of(nodes)), tuple(jobs.jobs), tuple(faults.standing), faults.standing_total)


def _faults(client: Client) -> fleet_pb2.ListFaultsResponse:
    """What stands; nothing of a controller that is too old to say."""
    import grpc  # noqa: PLC0415

    try:
        request = fleet_pb2.ListFaultsRequest(standing_limit=FAULTS_SHOWN)
        return client.fleet.ListFaults(request, timeout=CALL_TIMEOUT_S)
    except grpc.RpcError as error:
        if status_of(error) != "UNIMPLEMENTED":
            raise
        return fleet_pb2.ListFaultsResponse()


class Reader:
    """A thread that reads until it is stopped. One that ended by itself has a defect, which must not pass for silence."""

    def __init__(self, connect: Connect, name: str) -> None:
        self._connect = connect
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the call under way, at most `CALL_TIMEOUT_S` later; nobody has to wait for it."""
        self._ended.set()

    def check(self) -> None:
        """Raises RuntimeError when the thread ended though nobody stopped it."""
        if self._thread.ident is not None and not self._thread.is_alive() and not self._ended.is_set():
            raise RuntimeError(f"{self._thread.name} ended by an error that it did not expect")

    def _run(self) -> None:
        raise NotImplementedError


class Poller(Reader, Generic[T]):
    """Calls `read` again and again and keeps the newest value."""

    def __init__(self, connect: Connect, read: Callable[[Client], T], every_s: float) -> None:
        super().__init__(connect, "top-poller")
        self._read = read
        self._every_s = every_s
        self._reading: Reading[T] = Reading(None, 0, time.monotonic())

    def newest(self) -> Reading[T]:
        """What was read last, and whether the controller answers."""
        self.check()
        return self._reading

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                with self._connect() as client:
                    self._poll(client)
            except CliError as error:
                self._reading = replace(self._reading, error=error.what)
                self._ended.wait(self._every_s)

    def _poll(self, client: Client) -> None:
        while not self._ended.is_set():
            begun = time.monotonic()
            value = self._read(client)
            self._reading = Reading(value, self._reading.serial + 1, time.monotonic())
            self._ended.wait(max(self._every_s, REST * (time.monotonic() - begun)))


class EventTail(Reader):
    """Follows the journal and keeps the newest events that are not routine."""

    def __init__(self, connect: Connect, retry_s: float) -> None:
        super().__init__(connect, "top-events")
        self._retry_s = retry_s
        self._lock = threading.Lock()
        self._stream: grpc.RpcContext | None = None
        self._kept: deque[event_pb2.Event] = deque(maxlen=EVENTS_KEPT)
        self._revision: int | None = None

    def stop(self) -> None:
        """Ends the stream and, soon after, the thread."""
        super().stop()
        with self._lock:
            if self._stream is not None:
                self._stream.cancel()

    def newest(self) -> tuple[event_pb2.Event, ...]:
        """The kept events, oldest first."""
        self.check()
        with self._lock:
            return tuple(self._kept)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                with self._connect() as client:
                    self._follow(client)
            except CliError as error:
                if isinstance(error, Refused) and error.status == "OUT_OF_RANGE":  # compacted, or another journal
                    self._revision = None
            self._ended.wait(self._retry_s)

    def _follow(self, client: Client) -> None:
        if self._revision is None:
            request = event_pb2.ListEventsRequest(limit=5 * EVENTS_KEPT)
            answer = client.events.ListEvents(request, timeout=CALL_TIMEOUT_S)
            with self._lock:
                self._kept.clear()
            self._keep(answer.events, answer.revision)
        stream = client.events.WatchEvents(event_pb2.WatchEventsRequest(after_revision=self._revision or 0))
        with self._lock:
            self._stream = stream
        if self._ended.is_set():  # stop() may have come before there was a stream to cancel
            stream.cancel()
        for response in stream:
            self._keep(response.events, response.revision)

    def _keep(self, events: Sequence[event_pb2.Event], revision: int) -> None:
        before = self._revision or 0
        with self._lock:
            self._kept.extend(event for event in events if event.revision > before and event.type not in ROUTINE)
        self._revision = max(before, revision, *(event.revision for event in events))
