"""Distrust of ourselves: while our loop lags, the journal stalls or events pile up, silence says nothing about others.

Two answers. `distrusted`: whether silence may convict at all now, and why not. `LagLog.excused_ns`: how far every deadline
moves, because the time in which we did not listen is nobody's fault but ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from controlplane.core.units import seconds, to_s

UNREAD_AFTER_S = 1.0
"""Once beats wait no more, all that waited has been read but for the newest beat of each node."""

REMEMBERED = 256
"""Lags that are kept one by one; those before them count as a whole."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """How well this controller keeps up. Durations in ns, moments in Unix ns; 0: never.

    `lag_ns` at `lag_at_ns`: the newest lag of a loop above the tolerance. `unread_ns` at `unread_at_ns`: how long beats that
    were read then had waited, newest above the tolerance. `append_ns` at `append_at_ns`: the newest append
    of the journal above the limit. `caught_up_ns`: when most nodes had been heard with beats that were sent after both, and
    waited no longer than usual. `inbox` of `inbox_limit`: events that wait.
    """

    lag_ns: int = 0
    lag_at_ns: int = 0
    unread_ns: int = 0
    unread_at_ns: int = 0
    append_ns: int = 0
    append_at_ns: int = 0
    caught_up_ns: int = 0
    inbox: int = 0
    inbox_limit: int = 0


@dataclass(frozen=True, slots=True)
class DistrustPolicy:
    """When silence is not trusted.

    `lag_s`: a loop later than this, or beats that waited longer, `append_s`: an append slower than this, `inbox_share`: an
    inbox fuller than this. Lags and slow appends count for `after_s`, so that what waited meanwhile is read first, or until
    `UNREAD_AFTER_S` after it was seen that it has been; beats that waited for `UNREAD_AFTER_S`.
    """

    lag_s: float = 0.4
    append_s: float = 1.0
    inbox_share: float = 0.25
    after_s: float = 3.0


def reasons(vitals: Vitals, policy: DistrustPolicy, now_ns: int) -> tuple[str, ...]:
    """Why silence is not trusted now; empty when it is."""
    found = []
    if now_ns < _over_ns(vitals.lag_at_ns, vitals, policy) and vitals.lag_ns > seconds(policy.lag_s):
        found.append(f"a loop of this controller was {to_s(vitals.lag_ns):.1f} s late")
    if now_ns < vitals.unread_at_ns + seconds(UNREAD_AFTER_S) and vitals.unread_ns > seconds(policy.lag_s):
        found.append(f"beats waited {to_s(vitals.unread_ns):.1f} s until this controller read them")
    if now_ns < _over_ns(vitals.append_at_ns, vitals, policy) and vitals.append_ns > seconds(policy.append_s):
        found.append(f"an append to the journal took {to_s(vitals.append_ns):.1f} s")
    if vitals.inbox_limit and vitals.inbox > policy.inbox_share * vitals.inbox_limit:
        found.append(f"{vitals.inbox} events wait to be read")
    return tuple(found)


def ends_ns(vitals: Vitals, policy: DistrustPolicy) -> int:
    """When what lies in the past stops to count, Unix ns; 0 when nothing does. An inbox is full until it is not."""
    moments = [
        end_ns
        for end_ns, took_ns, limit_s in (
            (_over_ns(vitals.lag_at_ns, vitals, policy), vitals.lag_ns, policy.lag_s),
            (vitals.unread_at_ns + seconds(UNREAD_AFTER_S), vitals.unread_ns, policy.lag_s),
            (_over_ns(vitals.append_at_ns, vitals, policy), vitals.append_ns, policy.append_s),
        )
        if took_ns > seconds(limit_s)
    ]
    return max(moments, default=0)


def _over_ns(at_ns: int, vitals: Vitals, policy: DistrustPolicy) -> int:
    """Until when something that was over at a moment counts, Unix ns."""
    latest_ns = at_ns + seconds(policy.after_s)
    if vitals.caught_up_ns <= at_ns:
        return latest_ns
    return min(latest_ns, vitals.caught_up_ns + seconds(UNREAD_AFTER_S))


@dataclass(slots=True)
class LagLog:
    """When this controller was late: disjoint intervals in order of time. `forgotten_ns`: the sum of those that were
    dropped, all before the first that is kept."""

    ends_ns: list[int] = field(default_factory=list)
    lags_ns: list[int] = field(default_factory=list)
    forgotten_ns: int = 0

    def note(self, late_ns: int, now_ns: int) -> None:
        """We were late by `late_ns` until now."""
        if late_ns <= 0 or (self.ends_ns and now_ns <= self.ends_ns[-1]):
            return
        if self.ends_ns and now_ns - late_ns <= self.ends_ns[-1]:  # it goes on
            self.lags_ns[-1] += now_ns - self.ends_ns[-1]
            self.ends_ns[-1] = now_ns
            return
        self.ends_ns.append(now_ns)
        self.lags_ns.append(late_ns)
        if len(self.ends_ns) > REMEMBERED:
            self.ends_ns.pop(0)
            self.forgotten_ns += self.lags_ns.pop(0)

    def excused_ns(self, since_ns: np.ndarray) -> np.ndarray:
        """How long we were late after each of these moments."""
        since = np.asarray(since_ns, dtype=np.int64)
        if not self.ends_ns:
            return np.zeros(since.shape, dtype=np.int64)
        ends = np.array(self.ends_ns, dtype=np.int64)
        lags = np.array(self.lags_ns, dtype=np.int64)
        after = np.append(np.cumsum(lags[::-1])[::-1], 0)
        first = np.searchsorted(ends, since, side="right")
        whole = after[first]
        begun = np.append(ends - lags, np.iinfo(np.int64).max)[first]
        inside = np.maximum(since - begun, 0)  # a moment within a lag is excused from then on only
        older = np.where(since < ends[0] - lags[0], self.forgotten_ns, 0)
        result: np.ndarray = whole - inside + older
        return result
