"""Strain: what makes this controller see later than it should, though silence may still be trusted.

It is shown and changes no verdict: `core.health.distrust` decides when silence convicts nobody, and is stricter. A machine that is
busy with something else, or a network that holds up a part of the beats, is told here long before that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlplane.core.units import NS_PER_S, seconds

LATE_S = 0.4
"""A beat is late when it took so much longer than its way takes at best, or has been due for so long. As for our own loops."""

LATE_SHARE = 0.05
"""From this share of late beats on the site is seen late; a single rack of a large one is no such share."""

LEAST_LATE = 5
"""Fewer late nodes are those nodes' trouble."""

LEAST_HEARD = 20
"""Of fewer nodes a share says nothing."""

WAIT_SHARE = 0.3
"""A thread that waits for the processor for this share of a second sees late. 6,250 agents that beat once a second make it wait for
0.1 to 0.2 on a core that is theirs alone; other work on the same core brings it above 0.4 (both measured)."""


@dataclass(frozen=True, slots=True)
class Strain:
    """What was seen at one look.

    `waits`: share of the last second in which the thread of this process that waited longest could have run and had no processor;
    NaN where the system does not tell. `late` of `heard` nodes: their newest beat is late, or the next one overdue.
    """

    waits: float = float("nan")
    late: int = 0
    heard: int = 0

    @property
    def late_share(self) -> float:
        """Share of the nodes whose newest beat is late; 0 where none is heard."""
        return self.late / self.heard if self.heard else 0.0


def late_beats(beats_ns: np.ndarray, waited_ns: np.ndarray, now_ns: int, interval_ns: int) -> int:
    """How many of these nodes' newest beats are late.

    Args:
        beats_ns, waited_ns: when each was read, Unix ns, and how long it had waited then, ns; below 0: its node did not say.
        now_ns, interval_ns: Unix time, and from one beat of a node to its next.
    """
    overdue_ns = now_ns - interval_ns - seconds(LATE_S)
    return int(np.count_nonzero((waited_ns > seconds(LATE_S)) | (beats_ns < overdue_ns)))


def reasons(strain: Strain) -> tuple[str, ...]:
    """What strains this controller, in words; empty when nothing does."""
    found = []
    if strain.waits >= WAIT_SHARE:  # False for NaN
        found.append(f"the controller waits for the processor {100 * strain.waits:.0f} % of the time")
    if strain.heard >= LEAST_HEARD and strain.late >= max(LEAST_LATE, LATE_SHARE * strain.heard):
        found.append(f"{100 * strain.late_share:.0f} % of the beats come more than {LATE_S} s late")
    return tuple(found)


HELD_NS = 3 * NS_PER_S
"""A cause is shown for so long after it was seen last: what comes and goes within seconds is one thing."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What is told of strain now: why, and since when, Unix ns (0: nothing strains us). `strain`: the newest look."""

    strain: Strain = Strain()
    reasons: tuple[str, ...] = ()
    since_ns: int = 0
    seen_ns: int = 0


def after(shown: Shown, strain: Strain, now_ns: int) -> Shown:
    """What is told after a further look."""
    found = reasons(strain)
    if found:
        return Shown(strain, found, shown.since_ns or now_ns, now_ns)
    if shown.reasons and now_ns < shown.seen_ns + HELD_NS:
        return Shown(strain, shown.reasons, shown.since_ns, shown.seen_ns)
    return Shown(strain)
