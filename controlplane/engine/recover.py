"""Start-up: newest good snapshot, then the tail of the journal, then the record of this leadership."""

from __future__ import annotations

import hashlib

from controlplane.core.apply import apply
from controlplane.core.machine import Machine
from controlplane.core.site_policy import changed
from controlplane.core.state import State
from controlplane.engine.ports import Appender, Journal, JournalCorrupt
from controlplane.engine.turn import entry, replay

BATCH = 2_000


def load(journal: Journal) -> State:
    """The state that the journal describes.

    Raises:
        JournalCorrupt: the snapshot does not match its digest, or another version wrote it.
        UnknownRecord: a newer Phalanx wrote the journal.
    """
    snapshot = journal.latest_snapshot()
    state = State()
    if snapshot is not None:
        if hashlib.sha256(snapshot.body.encode()).hexdigest() != snapshot.digest:
            raise JournalCorrupt(f"snapshot at revision {snapshot.revision} does not match its digest")
        try:
            state = State.from_json(snapshot.body)
        except (ValueError, KeyError, TypeError) as error:
            raise JournalCorrupt(
                f"this version of Phalanx cannot read the snapshot at revision {snapshot.revision} ({error}): start the "
                "version that wrote it, or a newer one"
            ) from error
    return catch_up(state, journal)


def catch_up(state: State, journal: Journal) -> State:
    """Fold everything after the state's revision into a fork of it."""
    working = state.fork()
    while entries := journal.read(working.revision, BATCH):
        replay(working, entries)
    return working


def lead(journal: Journal, machine: Machine, holder: str, version: str, now_ns: int) -> State:
    """Take leadership without a lease: a higher epoch, the state replayed, and the record that says so."""
    epoch = journal.acquire(holder)
    return assume(journal, machine, load(journal), epoch=epoch, version=version, now_ns=now_ns)


def assume(
    journal: Appender,
    machine: Machine,
    state: State,
    *,
    epoch: int,
    version: str,
    now_ns: int,
    note_policy: bool = False,
) -> State:
    """Write the first records of a leadership that was just taken. `state`: everything before it. `note_policy`: a policy
    that is not the one of the journal is recorded, so that a back-test and whoever reads it later know the limits.

    Raises:
        EpochLost: somebody else has taken it since.
    """
    at_ns = max(now_ns, state.at_ns)
    started = machine.start(epoch, version)
    policy = changed(state.policy, machine.policy) if note_policy else None
    working, entries = state.fork(), []
    for record in (started, policy) if policy is not None else (started,):
        apply(working, record, at_ns)
        entries.append(entry(working, record, at_ns, "start"))
    journal.append(entries)
    return working
