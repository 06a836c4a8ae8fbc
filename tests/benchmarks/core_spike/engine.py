"""The turn, as a forked working copy and in place, over an in-memory journal."""

import hashlib
from collections.abc import Callable, Sequence
from time import perf_counter_ns

from tests.benchmarks.core_spike.fold import apply
from tests.benchmarks.core_spike.machine import Machine
from tests.benchmarks.core_spike.records import Effect, Event, Record, encode
from tests.benchmarks.core_spike.state import State


class Journal:
    """In memory; the digest runs over the encoded records in order."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self._hash = hashlib.sha256()

    def append(self, records: Sequence[Record]) -> None:
        bodies = [encode(r) for r in records]
        self._hash.update(b"".join(bodies))
        self.bodies += bodies

    def digest(self) -> str:
        return self._hash.hexdigest()


class Engine:
    """The turn, in the two forms under comparison. Journal first, effects last, in both."""

    def __init__(self, machine: Machine, state: State, journal: Journal, submit: Callable[[Effect], None]) -> None:
        self.machine, self.state, self.journal, self._submit = machine, state, journal, submit
        self.fork_ns: list[int] = []

    def turn_fork(self, events: Sequence[Event], now: int) -> list[Record]:
        """Step and apply on a working copy, append everything, publish the copy."""
        step = self.machine.step
        begin = perf_counter_ns()
        working = self.state.fork()
        forked = perf_counter_ns() - begin
        records: list[Record] = []
        effects: list[Effect] = []
        for event in events:
            decided, wanted = step(working, event, now)
            for record in decided:
                apply(working, record)
            records += decided
            effects += wanted
        if records:
            self.journal.append(records)
            self.state = working
        self.fork_ns.append(forked + working.store.copy_ns)
        for effect in effects:
            self._submit(effect)
        return records

    def turn_inplace(self, events: Sequence[Event], now: int) -> list[Record]:
        """One event at a time: step, append, apply; each append would be a transaction of its own."""
        every: list[Record] = []
        for event in events:
            records, effects = self.machine.step(self.state, event, now)
            if records:
                self.journal.append(records)
            for record in records:
                apply(self.state, record)
            for effect in effects:
                self._submit(effect)
            every += records
        return every
