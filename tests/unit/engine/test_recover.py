"""Replay, snapshots and leadership: the same records give the same state, wherever the fold begins."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from controlplane.adapters.journal.memory import MemoryJournal
from controlplane.core import records as r
from controlplane.core.machine import Machine
from controlplane.core.state import State
from controlplane.engine.ports import JournalCorrupt, JournalEntry, Snapshot
from controlplane.engine.recover import catch_up, lead, load
from controlplane.engine.turn import replay
from tests.support.histories import eventful, ill
from tests.support.world import World

ELSEWHERE = {
    "JournalRestored", "RungFailed", "ReplicasDropped", "CorruptionSuspected", "CorruptionCleared", "SparesWanted",
    "CheckpointIntervalSet", "PolicyChanged", "NodeRetired", "FaultShadowed", "CanaryReleased", "CanaryEnded",
    "StragglersFound", "StragglersGone",
    "NumbersSuspected",
    "SavesFailing", "SavesRecovered", "ScrubStarted",
    "PairsAwaited", "ValidationStarted", "PairsStarted", "PairAnswered", "ValidationEnded",
    "HangSuspected", "HangJudged",
}  # fmt: skip
"""Records that this history lacks: only a restore writes the first; golden stories and unit tests replay the others."""


@pytest.fixture(scope="module")
def world() -> World:
    return eventful()


def entries(world: World) -> list[JournalEntry]:
    return world.journal.read(0, 100_000)


def test_replay_gives_the_state_of_life(world: World) -> None:
    assert load(world.journal).digest() == world.state().digest()


def test_the_history_is_rich(world: World) -> None:
    missing = set(r.TYPES) - {entry.type for entry in (*entries(world), *entries(ill()))}
    assert missing <= ELSEWHERE, "every record type occurs, here or in what its own tests tell"


def test_a_snapshot_at_any_revision_leads_to_the_same_state(world: World) -> None:
    """What is cached beside the records (counts of devices) must not matter either."""
    history, final = entries(world), world.state().digest()
    state = State()
    for at in range(0, len(history), 37):
        state = replay(state.fork(), history[state.revision : at])
        restored = State.from_json(state.to_json())
        assert restored.digest() == state.digest(), f"revision {at}"
        assert replay(restored, history[at:]).digest() == final, f"from the snapshot at revision {at}"


def test_load_takes_the_snapshot_and_the_tail(world: World) -> None:
    history = entries(world)
    half = len(history) // 2
    body = replay(State(), history[:half]).to_json()
    journal = MemoryJournal()
    journal.acquire("first")
    journal.append([replace(entry, epoch=1) for entry in history])
    journal.store_snapshot(Snapshot(half, hashlib.sha256(body.encode()).hexdigest(), body))
    journal.compact(half)
    assert load(journal).digest() == world.state().digest()


class Damaged(MemoryJournal):
    """A journal that hands out a snapshot without looking at it."""

    def latest_snapshot(self) -> Snapshot:
        return Snapshot(1, "0" * 64, State().to_json())


def test_a_damaged_snapshot_is_refused() -> None:
    with pytest.raises(JournalCorrupt, match="revision 1"):
        load(Damaged())


def test_a_gap_is_refused(world: World) -> None:
    history = entries(world)
    with pytest.raises(ValueError, match="revision 3 after 1"):
        replay(State(), [history[0], history[2]])


def test_a_newer_record_refuses_the_start(world: World) -> None:
    history = entries(world)
    with pytest.raises(r.UnknownRecord, match="start the version that wrote it"):
        replay(State(), [*history[:5], replace(history[5], type="JobTeleported")])


def test_catch_up_leaves_the_published_state_alone(world: World) -> None:
    history = entries(world)
    early = replay(State(), history[:50])
    digest = early.digest()
    assert catch_up(early, world.journal).digest() == world.state().digest()
    assert early.digest() == digest


def test_leadership_raises_the_epoch_and_keeps_time() -> None:
    journal = MemoryJournal()
    first = lead(journal, Machine(), "a", "0", 1_000)
    second = lead(journal, Machine(), "b", "0", 500)
    assert (first.epoch, second.epoch) == (1, 2)
    assert second.at_ns == 1_000, "a clock that went back does not take the state back"
    assert load(journal).digest() == second.digest()


def test_ledger_at_is_a_view(world: World) -> None:
    state = world.state()
    digest = state.digest()
    later = state.ledger_at(state.at_ns + 10**9)
    assert later.ledger.device_ns > state.ledger.device_ns
    assert sum(later.ledger.site.values()) == later.ledger.device_ns
    assert state.digest() == digest
