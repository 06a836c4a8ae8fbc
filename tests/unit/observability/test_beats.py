"""The lag of beats is what they wait, whatever the clocks of agents say."""

from __future__ import annotations

from itertools import pairwise

from prometheus_client import CollectorRegistry, generate_latest

from controlplane.core.units import ms, seconds
from controlplane.observability.beats import BOUNDS_S, WINDOW_NS, BeatLag, Delay


def test_only_what_a_beat_took_longer_than_the_fastest_counts() -> None:
    delay, ahead = Delay(), seconds(3_600)  # the agent's clock is an hour ahead
    assert [delay.beyond_least_ns(ms(took) - ahead, ms(at)) for at, took in enumerate((5, 7, 2, 2, 30))] == [
        0, ms(2), 0, 0, ms(28),
    ]  # fmt: skip


def test_a_clock_that_drifts_does_not_become_lag() -> None:
    delay = Delay()
    lags = [delay.beyond_least_ns(second * 50_000, seconds(second)) for second in range(3_600)]
    assert max(lags) <= 2 * (WINDOW_NS // seconds(1) + 1) * 50_000  # drift of two windows, not of an hour


def test_the_histogram_is_cumulative_and_whole() -> None:
    lag = BeatLag()
    for took_ms in (0, 1, 1, 50, 100_000):
        lag.note(ms(took_ms))
    registry = CollectorRegistry()
    registry.register(lag)
    text = generate_latest(registry).decode()
    rows = [line for line in text.splitlines() if line.startswith("phalanx_beat_lag_seconds_bucket")]
    counts = [float(line.rsplit(" ", 1)[1]) for line in rows]
    assert len(rows) == len(BOUNDS_S) + 1
    assert counts[0] == 1
    assert all(low <= high for low, high in pairwise(counts))
    assert counts[-2:] == [4, 5]
    assert "phalanx_beat_lag_seconds_sum 100.052" in text
