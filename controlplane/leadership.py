"""Who leads: a lease row in the journal's database, renewed from a thread of its own.

The lease only decides who may try. What makes an old leader harmless is the epoch: every append checks it in its own
transaction, agents refuse lower ones, and a leader that learns of a higher one ends at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from controlplane.core.state import State
from controlplane.engine.ports import EpochLost, Journal, JournalUnavailable, Lease, LeaseStore
from controlplane.engine.recover import catch_up, load

LOOK_S = 0.25
"""Between a standby's looks at lease and journal: part of how long a take-over takes."""
JOIN_S = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who would lead. `address`: where it serves; `place`: the machine and port that it has bound."""

    holder: str
    address: str
    place: str


def candidate(listen: str, advertise: str) -> Candidate:
    """This process, which has bound `listen` already."""
    return Candidate(f"{socket.gethostname()}:{os.getpid()}", advertise or listen, f"{_machine()}/{listen}")


def _machine() -> str:
    """This boot of this machine, or of this container, which may share the machine's boot id but not its ports."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/net').stat().st_ino}"
    except OSError:
        return f"{socket.gethostname()}/{os.getpid()}"  # unknown: then nobody is known to be dead


class Vigil:
    """When a standby may take the lease.

    A database that comes back after an outage shows a lease that is long over, of a leader that lives and will renew it
    within a second. So an expired lease is only taken by who has had the row in sight for a whole lease.
    """

    def __init__(self, lease_ms: int, place: str) -> None:
        self._lease_s = lease_ms / 1000
        self._place = place
        self._in_sight_s: float | None = None

    def lost_sight(self) -> None:
        """The database did not answer."""
        self._in_sight_s = None

    def may_take(self, lease: Lease, now_s: float) -> bool:
        """Whether nobody leads any more, as far as this row tells. `now_s`: any steady clock."""
        if self._in_sight_s is None:
            self._in_sight_s = now_s
        if not lease.held:
            return True
        if lease.place == self._place:
            return True  # its port is ours now, so it is gone
        return lease.left_ms == 0 and now_s - self._in_sight_s >= self._lease_s


class Leadership:
    """Takes the lease, keeps it, gives it back."""

    def __init__(self, store: LeaseStore, me: Candidate, lease_ms: int, renew_ms: int) -> None:
        self._store = store
        self._me = me
        self._lease_ms = lease_ms
        self._renew_s = renew_ms / 1000
        self._vigil = Vigil(lease_ms, me.place)
        self._ending = threading.Event()
        self._keeper: threading.Thread | None = None
        self.seen = Lease(0, "", "", "", held=False, left_ms=0)

    def campaign(self, now_s: float) -> int | None:
        """One look at the lease: the new epoch when it could be taken, None when somebody else leads.

        Raises:
            JournalUnavailable: the database does not answer.
        """
        try:
            self.seen = self._store.look()
            if not self._vigil.may_take(self.seen, now_s):
                return None
            epoch = self._store.take(self.seen, self._me.holder, self._me.address, self._me.place, self._lease_ms)
        except JournalUnavailable:
            self._vigil.lost_sight()
            raise
        if epoch is not None:
            self.seen = Lease(
                epoch, self._me.holder, self._me.address, self._me.place, held=True, left_ms=self._lease_ms
            )
        return epoch

    def held(self) -> Lease:
        """The lease as it was seen last; our own once it is taken."""
        return self.seen

    def keep(self, epoch: int, on_lost: Callable[[EpochLost], None], on_trouble: Callable[[str], None]) -> None:
        """Renew from now on, in a thread. `on_lost` must end the process; `on_trouble`: why it cannot be renewed, "" again
        when it can."""
        self._keeper = threading.Thread(
            target=self._renew, args=(epoch, on_lost, on_trouble), name="lease", daemon=True
        )
        self._keeper.start()

    def resign(self, epoch: int) -> None:
        """Give the lease back, so that a standby takes over at once."""
        self._ending.set()
        if self._keeper is not None:
            self._keeper.join(JOIN_S)
        try:
            self._store.release(epoch)
        except JournalUnavailable as error:
            log.warning("lease_not_released", reason=str(error))
        self._store.close()

    def close(self) -> None:
        """Leave without having led."""
        self._store.close()

    def _renew(self, epoch: int, on_lost: Callable[[EpochLost], None], on_trouble: Callable[[str], None]) -> None:
        while not self._ending.wait(self._renew_s):
            try:
                self._store.renew(epoch, self._lease_ms)
            except EpochLost as error:
                on_lost(error)
                return
            except JournalUnavailable as error:
                on_trouble(str(error))
            else:
                on_trouble("")


class Standby:
    """Follows the journal until this controller may lead."""

    def __init__(self, journal: Journal, leadership: Leadership) -> None:
        self._journal = journal
        self._leadership = leadership
        self.state = State()
        self.standing_by = False
        self.took_over = False

    @property
    def leader(self) -> str:
        """Address of who leads, "" when nobody is known."""
        return self._leadership.seen.address

    async def until_leader(self, stop: asyncio.Event) -> tuple[int, State] | None:
        """Stand by. Returns the new epoch and the whole state before it, None when `stop` was set first.

        Raises:
            JournalUnavailable: the database was away from the beginning.
            JournalCorrupt, UnknownRecord: this version cannot read the journal.
        """
        self.state = await asyncio.to_thread(load, self._journal)
        away = False
        while not stop.is_set():
            try:
                epoch = await asyncio.to_thread(self._leadership.campaign, time.monotonic())
                self.state = await asyncio.to_thread(catch_up, self.state, self._journal)
            except JournalUnavailable as error:
                if not away:
                    log.warning("standby_waits", reason=str(error))
                away = True
            else:
                away = False
                if epoch is not None:
                    self.took_over = True
                    return epoch, self.state
                self._tell()
            await _wait(stop, LOOK_S)
        return None

    def _tell(self) -> None:
        if not self.standing_by:
            self.standing_by = True
            log.info("standing_by", leader=self.leader, epoch=self._leadership.seen.epoch, revision=self.state.revision)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
