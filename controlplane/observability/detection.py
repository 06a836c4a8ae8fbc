"""How long it took to know: from the event, or its raising at the source, to the durable record. By class of failure.

A source's raise time travels as an age, so that clocks of two machines are never compared; what a message was under way is
not in it. What the source dates to the very moment of the decision, or not at all, is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

import numpy as np

from controlplane.core import records as r
from controlplane.core.evidence import Reason
from controlplane.core.health import canaries
from controlplane.core.health.book import FaultNote, position_of
from controlplane.core.state import State
from controlplane.core.vocabulary import Assertion, NodeLiveness
from controlplane.engine.ports import JournalEntry

LastBeats = Callable[[int], np.ndarray]


class Failure(StrEnum):
    """Classes of failures, one series each."""

    DEVICE = "device"
    """A fault of an accelerator, from its raising at the source."""
    PORT = "port"
    """A fault of a port, likewise."""
    NODE = "node"
    """A fault of the node itself, likewise."""
    PROCESS = "process"
    """The end of a rank's process that had not finished, from its exit as its agent saw it."""
    SESSION = "session"
    """The end of an agent's stream, from the moment at which the connection broke here."""
    SILENCE = "silence"
    """SUSPECT with an open session, from the node's last beat: the lease is in it."""
    CANARY = "canary"
    """A fault that was raised on purpose, from its raising at the agent."""
    HANG = "hang"
    """Ranks that make no step and give no sign, from the newest step."""
    DEATH = "death"
    """DEAD, from the node's last beat: the lease and the wait for witnesses are in it."""


def detected(
    records: Sequence[r.Record], entries: Sequence[JournalEntry], state: State, last_beat_ns: LastBeats, durable_ns: int
) -> Iterator[tuple[Failure, int]]:
    """What a turn has detected, and after how many nanoseconds it was durable.

    Args:
        records, entries: of the turn, in the same order.
        state: as it is after the turn.
        last_beat_ns: the last beat of each of so many nodes, Unix ns; 0: none to this process. Asked only when it matters.
        durable_ns: when the turn's append returned.
    """
    for record, entry in zip(records, entries, strict=True):
        match record:
            case r.FaultsReported():
                for note in record.notes:
                    if _begins(note) and 0 < note.raised_ns < entry.at_ns:
                        yield failure_of(note), durable_ns - note.raised_ns
            case r.HostEnded() if record.exit.observed and not record.exit.finished:
                if 0 < record.at_ns < entry.at_ns:
                    yield Failure.PROCESS, durable_ns - record.at_ns
            case r.RanksLost(why=Reason.HUNG) if 0 < record.since_ns < entry.at_ns:
                yield Failure.HANG, durable_ns - record.since_ns
            case r.LivenessChanged(liveness=NodeLiveness.SUSPECT | NodeLiveness.DEAD):
                yield from _silent(record, state, last_beat_ns(state.fleet.size), durable_ns)
            case _:
                pass


def failure_of(note: FaultNote) -> Failure:
    """The class of a fault."""
    if note.vendor == canaries.VENDOR:
        return Failure.CANARY
    if note.entity.startswith("port/"):
        return Failure.PORT
    return Failure.NODE if position_of(note.entity) < 0 else Failure.DEVICE


def _begins(note: FaultNote) -> bool:
    return note.assertion is not Assertion.RECOVERED


def _silent(
    record: r.LivenessChanged, state: State, beats_ns: np.ndarray, durable_ns: int
) -> Iterator[tuple[Failure, int]]:
    died = record.liveness is NodeLiveness.DEAD
    for name in record.nodes:
        number = state.fleet.number(name)
        if number is None or not beats_ns[number]:
            continue
        if died or state.fleet.session[number]:  # without a session it is the broken stream that was seen
            yield Failure.DEATH if died else Failure.SILENCE, durable_ns - int(beats_ns[number])
