"""When a standby may lead, and what a leader does about its lease. No clock runs here."""

from __future__ import annotations

import pytest

from controlplane.adapters.journal.memory import MemoryJournal
from controlplane.engine.ports import JournalUnavailable, Lease
from controlplane.leadership import Candidate, Leadership, Vigil

LEASE_MS = 5_000


def row(*, held: bool = True, left_ms: int = 0, place: str = "there") -> Lease:
    return Lease(3, "other:1", "other:7711", place, held=held, left_ms=left_ms)


def test_a_lease_that_nobody_holds_is_free_at_once() -> None:
    assert Vigil(LEASE_MS, "here").may_take(row(held=False), 100.0)


def test_the_port_of_a_dead_leader_proves_it_dead() -> None:
    assert Vigil(LEASE_MS, "here").may_take(row(left_ms=4_000, place="here"), 100.0)


def test_an_expired_lease_must_have_been_in_sight_for_a_whole_lease() -> None:
    vigil = Vigil(LEASE_MS, "here")
    assert not vigil.may_take(row(), 100.0), "the leader may have been cut off as we were"
    assert not vigil.may_take(row(), 104.9)
    assert vigil.may_take(row(), 105.0)


def test_a_lease_that_runs_is_left_alone_however_long_we_look() -> None:
    vigil = Vigil(LEASE_MS, "here")
    assert not any(vigil.may_take(row(left_ms=1), float(second)) for second in range(100))
    assert vigil.may_take(row(left_ms=0), 100.0), "then it has expired before our eyes"


def test_an_outage_begins_the_watch_anew() -> None:
    vigil = Vigil(LEASE_MS, "here")
    vigil.may_take(row(left_ms=1), 100.0)
    vigil.lost_sight()
    assert not vigil.may_take(row(), 200.0)
    assert not vigil.may_take(row(), 204.0)
    assert vigil.may_take(row(), 205.0)


class Pair:
    """Two candidates on one storage in memory."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.stores = [self.journal.lease(), self.journal.lease()]
        self.leaderships = [
            Leadership(store, Candidate(f"host:{n}", f"host:771{n}", f"place-{n}"), LEASE_MS, 1_000)
            for n, store in enumerate(self.stores)
        ]


def test_one_leads_and_the_other_takes_over_when_it_is_silent() -> None:
    pair = Pair()
    first, second = pair.leaderships
    assert first.campaign(0.0) == 1
    assert second.campaign(0.0) is None
    assert second.seen.address == "host:7710"
    pair.stores[0].advance(LEASE_MS)
    assert second.campaign(4.0) is None, "not in sight for long enough"
    assert second.campaign(5.0) == 2
    assert second.held().address == "host:7711"
    assert first.campaign(5.0) is None


def test_a_lease_that_is_given_back_is_taken_at_once() -> None:
    pair = Pair()
    first, second = pair.leaderships
    assert first.campaign(0.0) == 1
    assert second.campaign(0.0) is None
    first.resign(1)
    assert second.campaign(0.1) == 2
    first.resign(1)
    assert pair.stores[1].look().held, "an old leader gives back nothing"


def test_a_standby_without_its_database_takes_nothing_until_it_has_looked_again() -> None:
    pair = Pair()
    first, second = pair.leaderships
    assert first.campaign(0.0) == 1
    second.campaign(0.0)
    pair.stores[1].away = True
    with pytest.raises(JournalUnavailable):
        second.campaign(3.0)
    pair.stores[1].away = False
    pair.stores[0].advance(60_000)
    assert second.campaign(60.0) is None, "the leader was cut off too, and comes back"
    pair.stores[0].renew(1, LEASE_MS)
    assert second.campaign(66.0) is None
    pair.stores[0].advance(LEASE_MS)
    assert second.campaign(71.0) == 2
