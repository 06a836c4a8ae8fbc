"""When failures come: exponential gaps, or the bursts of a public fault trace scaled to the size of the job."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from controlplane.sim.ettr.renewal import DAY_S, mtbf_s

TRACE_FILE = "stepfun_faults_days_0_174.json"
TRACE_NODES = 400
TRACE_DAYS = 174.0
"""What the public trace covers: servers and days."""

Times = npt.NDArray[np.float64]


class BadTrace(ValueError):
    """A fault trace that cannot be used; the message names the place and the reason."""


def stream(seed: int, name: str) -> np.random.Generator:
    """A generator of its own for every purpose: adding one changes no other (the rule of `sim.kernel`)."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "big"))


@dataclass(frozen=True, slots=True)
class Trace:
    """Fault starts of a site: seconds from the begin of the trace, ascending. `nodes`, `days`: what it covers."""

    starts_s: Times
    nodes: int
    days: float

    def followers(self, within_s: float) -> npt.NDArray[np.bool_]:
        """Mask over faults: they came so soon after the one before."""
        return np.diff(self.starts_s, prepend=-np.inf) <= within_s

    def without_followers(self, within_s: float) -> Trace:
        """The trace with every burst counted once."""
        return Trace(self.starts_s[~self.followers(within_s)], self.nodes, self.days)

    @property
    def rate(self) -> float:
        """Faults per 1,000 node-days."""
        return len(self.starts_s) * 1_000.0 / (self.nodes * self.days)


def parse_trace(text: str, place: str, nodes: int = TRACE_NODES, days: float = TRACE_DAYS) -> Trace:
    """The fault starts of a trace in the format of InfiniteHBD-Trace.

    Raises:
        BadTrace: not JSON, not a list of events, an event without a time, or a time outside of the trace.
    """
    try:
        rows: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadTrace(f"{place}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(rows, list):
        raise BadTrace(f"{place}: a list of events is expected, this is {type(rows).__name__}")
    starts = []
    for number, row in enumerate(rows):
        where = f"{place}: event {number}"
        if not isinstance(row, dict) or row.get("event_type") not in ("fault_start", "fault_end"):
            raise BadTrace(f"{where}: event_type must be fault_start or fault_end")
        time = row.get("event_time")
        if isinstance(time, bool) or not isinstance(time, int | float) or not 0 <= time <= days:
            raise BadTrace(f"{where}: event_time {time!r} is not a day between 0 and {days:g}")
        if row["event_type"] == "fault_start":
            starts.append(time * DAY_S)
    if not starts:
        raise BadTrace(f"{place}: no fault starts in it")
    return Trace(np.sort(np.array(starts, dtype=np.float64)), nodes, days)


def load_trace() -> Trace:
    """The public trace that comes with the product."""
    text = resources.files("controlplane.sim").joinpath("data", TRACE_FILE).read_text(encoding="utf-8")
    return parse_trace(text, TRACE_FILE)


def poisson(rate: float, nodes: int, days: float, random: np.random.Generator) -> Times:
    """Failures of a job with exponential gaps: seconds, ascending, over `days`."""
    mean, end = mtbf_s(rate, nodes), days * DAY_S
    gaps = random.exponential(mean, int(end / mean + 8 * np.sqrt(end / mean) + 16))
    times: Times = np.cumsum(gaps)
    while times[-1] < end:  # a tail beyond eight standard deviations
        times = np.append(times, times[-1] + np.cumsum(random.exponential(mean, len(gaps))))
    return times[times < end]


def superposed(trace: Trace, rate: float, nodes: int, days: float, random: np.random.Generator) -> Times:
    """A larger site as many copies of the trace's site, each shifted by a random time and wrapped around.

    As many whole copies as the job's nodes hold the trace's; the last one is thinned to the remainder. Time is then
    stretched so that the mean rate is `rate`: bursts of one copy stay bursts, and different copies know nothing of each
    other. The stretched trace is repeated, with new shifts, until `days` are covered.
    """
    return _copies(trace, rate, nodes, days, random, together=False)


def correlated(trace: Trace, rate: float, nodes: int, days: float, random: np.random.Generator) -> Times:
    """The stress variant: every copy has the same shift, so that all parts of the site have their bursts at once.

    Each copy's faults are moved by up to a minute, so that they are distinct.
    """
    return _copies(trace, rate, nodes, days, random, together=True)


BURST_S = 300.0
"""Faults that follow another one this soon are one burst, in the literature and here."""
SPREAD_S = 60.0
"""Copies in the correlated variant fail within this time of each other."""


def _copies(
    trace: Trace, rate: float, nodes: int, days: float, random: np.random.Generator, *, together: bool
) -> Times:
    if rate <= 0 or nodes <= 0 or days <= 0:
        raise ValueError(f"rate {rate:g}, {nodes} nodes, {days:g} days: all must be above 0")
    stretch = trace.rate / rate
    period = trace.days * DAY_S * stretch
    copies = nodes / trace.nodes
    end = days * DAY_S
    found = []
    for lap in range(int(np.ceil(end / period)) + 1):
        shared = random.uniform(0, period)
        for copy in range(int(np.ceil(copies))):
            shift = shared if together else random.uniform(0, period)
            times = trace.starts_s * stretch
            share = min(1.0, copies - copy)
            if share < 1.0:
                times = times[random.uniform(size=len(times)) < share]
            if together:
                times = times + random.uniform(0, SPREAD_S, len(times))
            found.append((times + shift) % period + lap * period)
    every = np.sort(np.concatenate(found))
    return every[every < end]
