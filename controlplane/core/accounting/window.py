"""The last hour of a job's device time, by minute: what the sliding ETTR is read from. Bounded: 60 pairs of numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from controlplane.core.columns import LongColumn
from controlplane.core.units import NS_PER_MINUTE

MINUTES = 60


def _empty() -> LongColumn:
    return np.zeros(MINUTES, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Hour:
    """Device-nanoseconds of each minute, at position minute % 60. `minute`: the newest one, since the epoch; those more than
    an hour older than that are gone."""

    minute: int = 0
    productive: LongColumn = field(default_factory=_empty)
    total: LongColumn = field(default_factory=_empty)

    def booked(self, begin_ns: int, end_ns: int, devices: int, *, productive: bool) -> Hour:
        """The hour after `devices` were held over a stretch of time."""
        last = end_ns // NS_PER_MINUTE
        hour = self._turned(last)
        if end_ns <= begin_ns:
            return hour
        if begin_ns // NS_PER_MINUTE == last:
            return hour.added(last % MINUTES, (end_ns - begin_ns) * devices, productive=productive)
        minutes = np.arange(max(begin_ns // NS_PER_MINUTE, last - MINUTES + 1), last + 1)
        starts = minutes * NS_PER_MINUTE
        amounts = (np.minimum(starts + NS_PER_MINUTE, end_ns) - np.maximum(starts, begin_ns)) * devices
        return hour.added(minutes % MINUTES, amounts, productive=productive)

    def added(self, at: int | LongColumn, amounts: int | LongColumn, *, productive: bool) -> Hour:
        """With more device time at some positions."""
        total = self.total.copy()
        total[at] += amounts
        if not productive:
            return Hour(self.minute, self.productive, total)
        useful = self.productive.copy()
        useful[at] += amounts
        return Hour(self.minute, useful, total)

    def _turned(self, minute: int) -> Hour:
        """With room for a newer minute."""
        fresh = minute - self.minute
        if fresh <= 0:
            return self
        if fresh >= MINUTES:
            return Hour(minute)
        at = np.arange(self.minute + 1, minute + 1) % MINUTES
        productive, total = self.productive.copy(), self.total.copy()
        productive[at], total[at] = 0, 0
        return Hour(minute, productive, total)

    def _newest_first(self) -> LongColumn:
        return np.arange(self.minute, self.minute - MINUTES, -1) % MINUTES

    def taken(self, amount: int) -> Hour:
        """Productive time that turned out not to be: the newest goes first, because work that is lost is the newest."""
        return self._moved(self.productive, amount, -1)

    def given(self, amount: int) -> Hour:
        """Time that turned out to be productive after all, the newest first."""
        return self._moved(self.total - self.productive, amount, 1)

    def _moved(self, room: LongColumn, amount: int, sign: int) -> Hour:
        at = self._newest_first()
        before = np.cumsum(room[at]) - room[at]
        part = np.clip(amount - before, 0, room[at])
        productive = self.productive.copy()
        productive[at] += sign * part
        return replace(self, productive=productive)

    def ettr(self) -> float:
        """Productive share of the last hour; 0 when the job held nothing."""
        total = int(self.total.sum())
        return int(self.productive.sum()) / total if total else 0.0
