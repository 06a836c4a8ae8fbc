"""Brings copies of this node's states to the nodes that keep them: one at a time, the newest of each rank wins."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import structlog
from phalanx.v1 import memory_pb2

from agents.memory.state_file import StateFile, Word
from agents.node.memory import wire
from agents.node.memory.wire import PeerError, Trust
from agents.node.observability import Counters

RETRY_S = 1.0
"""After a holder was away or refused, the next try comes so much later."""
MAX_WAITING = 1_024
MAX_LINKS = 8
"""To holders; the one that was opened first is closed for another. A node's copies go to one holder for each of its jobs."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Parcel:
    """One version that is to be brought. `holder`: (node, address)."""

    job_uid: str
    rank: int
    step: int
    file: StateFile
    holder: tuple[str, str]


class Courier:
    """One thread. `offer` from anywhere. `brought_bytes` and `brought_s` grow with what was brought."""

    def __init__(self, trust: Trust, counters: Counters) -> None:
        self._trust = trust
        self._counters = counters
        self._waiting: dict[tuple[str, int], Parcel] = {}
        self._changed = threading.Condition()
        self._links: dict[tuple[str, str], socket.socket] = {}
        self._away: dict[tuple[str, str], float] = {}
        self._closed = False
        self.brought_bytes = 0
        self.brought_s = 0.0
        self._thread = threading.Thread(target=self._run, name="phalanx-courier", daemon=True)
        self._thread.start()

    def offer(self, parcel: Parcel) -> None:
        """A newer version takes the place of one that still waits."""
        with self._changed:
            if (parcel.job_uid, parcel.rank) in self._waiting or len(self._waiting) < MAX_WAITING:
                self._waiting[parcel.job_uid, parcel.rank] = parcel
                self._changed.notify()

    def close(self) -> None:
        """Bring no more; what is being brought is left."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            links = list(self._links.values())
        for link in links:
            with suppress(OSError):
                socket.socket.shutdown(link, socket.SHUT_RDWR)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    break
                parcel = self._waiting.pop(next(iter(self._waiting)))
            if time.monotonic() < self._away.get(parcel.holder, 0.0):
                _let_go(parcel)
                continue
            try:
                self._bring(parcel)
            except (OSError, PeerError, ValueError) as error:
                self._failed(parcel, error)
        for link in self._links.values():
            link.close()

    def _bring(self, parcel: Parcel) -> None:
        begun = time.monotonic()
        file, version = parcel.file, parcel.file.find(parcel.step)
        if version is None:
            return  # overtaken
        link = self._link(parcel.holder)
        copy = wire.describe(file, version, unique_only=True)
        wire.send(
            link, memory_pb2.MemoryRequest(node=self._trust.node, job_uid=parcel.job_uid, rank=parcel.rank, bring=copy)
        )
        self._check(wire.receive_answer(link))
        wire.send_bytes(link, file.unique(version.slot))
        self._check(wire.receive_answer(link))
        file.put(Word.PARTNER_STEP, max(file.get(Word.PARTNER_STEP), parcel.step))
        file.put(Word.PARTNERS, 1)
        self.brought_bytes += file.layout.unique_bytes
        self.brought_s += time.monotonic() - begun
        self._counters.add("copies_brought")

    def _link(self, holder: tuple[str, str]) -> socket.socket:
        link = self._links.get(holder)
        if link is None:
            link = self._trust.dial(holder[1], holder[0])
            with self._changed:
                spare = self._links.pop(next(iter(self._links))) if len(self._links) >= MAX_LINKS else None
                self._links[holder] = link
            if spare is not None:
                spare.close()
        return link

    @staticmethod
    def _check(answer: memory_pb2.MemoryAnswer) -> None:
        if answer.refused:
            raise PeerError(answer.refused[:300])

    def _failed(self, parcel: Parcel, error: Exception) -> None:
        _let_go(parcel)
        now = time.monotonic()
        self._away = {holder: until for holder, until in self._away.items() if until > now}
        self._away[parcel.holder] = now + RETRY_S
        with self._changed:
            link = self._links.pop(parcel.holder, None)
        if link is not None:
            link.close()
        self._counters.add("copies_not_brought")
        if self._counters.first("courier", f"{parcel.holder[0]} {type(error).__name__}"):
            log.warning("memory.copy_not_brought", holder=parcel.holder[0], rank=parcel.rank, reason=str(error)[:300])


def _let_go(parcel: Parcel) -> None:
    """The rank does not wait for a partner."""
    with suppress(ValueError):  # forgotten meanwhile: nobody waits
        parcel.file.put(Word.PARTNERS, 0)
