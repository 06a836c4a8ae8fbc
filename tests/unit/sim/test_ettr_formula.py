"""The exact formula, the phases and the arrivals against numbers worked out elsewhere."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from controlplane.sim.ettr import arrivals, phases, renewal
from controlplane.sim.ettr.arrivals import BadTrace, Trace, load_trace, parse_trace, stream
from controlplane.sim.ettr.phases import BadPhases, Column, Kind

PUBLISHED = {  # reliability literature, worked out by hand for 6,250 nodes: percent at r 2.3, 3.8, 6.5
    "a": (77.4, 65.4, 47.8),
    "a'": (86.9, 80.5, 70.4),
    "flash": (97.5, 95.9, 93.1),
    "byte": (97.6, 96.4, 94.3),
    "b": (98.4, 97.5, 95.8),
    "c": (99.8, 99.7, 99.4),
    "c'": (99.93, 99.88, 99.79),
}


@pytest.mark.parametrize("case", renewal.PLAIN_CASES, ids=lambda case: case.key)
def test_plain_cases_give_the_published_table(case: renewal.PlainCase) -> None:
    for rate, percent in zip(renewal.RATES, PUBLISHED[case.key], strict=True):
        last_digit = 10.0 ** -len(str(percent).partition(".")[2])  # the table's M is rounded to minutes
        assert 100 * case.ettr(renewal.mtbf_s(rate)) == pytest.approx(percent, abs=1.1 * last_digit)


def test_young_interval_lies_between_the_published_bounds() -> None:
    longest, _, shortest = (renewal.young_interval_s(renewal.mtbf_s(rate), 5.0) for rate in renewal.RATES)
    assert (round(longest), round(shortest)) == (245, 146)


@pytest.mark.parametrize(("rate", "nodes"), [(0, 10), (-1, 10), (1, 0)])
def test_impossible_rates_are_refused(rate: float, nodes: int) -> None:
    with pytest.raises(ValueError, match="above 0"):
        renewal.mtbf_s(rate, nodes)


def text() -> str:
    return resources.files("controlplane.sim").joinpath("data", phases.FILE).read_text(encoding="utf-8")


def test_phases_have_columns_kinds_and_sources() -> None:
    loaded = phases.load()
    assert loaded["detect.silence"] == 5.0
    assert loaded.at(Column.HIGH)["decide"] == 1.0
    assert loaded.with_duration("decide", 7.0)["decide"] == 7.0
    assert "detect.hang" in loaded.of_kind(Kind.ASSUMED)
    assert all(row.source for row in loaded.rows.values())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("low = 0.05\n", "low = -0.01\n", "decide.low: -0.01 s is below 0"),
        ("low = 0.05\n", "low = 2.0\n", "decide: low 2 <= expected 0.35"),
        ("low = 0.05\n", 'low = "soon"\n', "decide.low: 'soon' is not a number"),
        ("[decide]", "[decides]", "[decides]: unknown phase"),
        ("[announce]", "[announce]\nmedian = 1", "announce.median: unknown key"),
        ('kind = "measured"', 'kind = "guessed"', "'guessed' is none of"),
        ("[announce]", "[announce", "recovery_phases.toml: "),
        ("[decide]", "speed = 1\n[decide]", "unknown key"),
    ],
)
def test_bad_phases_are_refused_with_place_and_reason(old: str, new: str, says: str) -> None:
    with pytest.raises(BadPhases, match=r"recovery_phases\.toml") as caught:
        phases.parse(text().replace(old, new, 1))
    assert says in str(caught.value)


def test_a_missing_phase_is_named() -> None:
    with pytest.raises(BadPhases, match=r"elastic_stall.*missing"):
        phases.parse(text().split("[elastic_stall]", maxsplit=1)[0])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("[\n{", "trace.json:2: not JSON"),
        ("{}", "a list of events is expected"),
        ('[{"event_type": "fault_begin", "event_time": 1}]', "event 0: event_type must be"),
        ('[{"event_type": "fault_start", "event_time": 175}]', "event 0: event_time 175 is not a day"),
        ('[{"event_type": "fault_start"}]', "event 0: event_time None"),
        ('[{"event_type": "fault_end", "event_time": 1}]', "no fault starts"),
    ],
)
def test_bad_traces_are_refused_with_place_and_reason(body: str, says: str) -> None:
    with pytest.raises(BadTrace) as caught:
        parse_trace(body, "trace.json")
    assert says in str(caught.value)


def test_the_public_trace_is_read_whole() -> None:
    trace = load_trace()
    assert len(trace.starts_s) == 312
    assert 4.4 < trace.rate < 4.5


@pytest.mark.parametrize("kind", [arrivals.superposed, arrivals.correlated])
def test_copies_of_the_trace_keep_the_rate(kind: object) -> None:
    times = kind(load_trace(), 3.8, 6_250, 500.0, stream(1, "test"))  # type: ignore[operator]
    assert np.all(np.diff(times) >= 0)
    assert len(times) * 1_000 / (6_250 * 500.0) == pytest.approx(3.8, rel=0.1)


def test_correlated_copies_burst_more_than_shifted_ones_and_those_more_than_chance() -> None:
    trace = load_trace()
    spread = {
        name: np.std(np.diff(times)) / np.mean(np.diff(times))
        for name, times in {
            "chance": arrivals.poisson(3.8, 6_250, 300.0, stream(1, "p")),
            "shifted": arrivals.superposed(trace, 3.8, 6_250, 300.0, stream(1, "s")),
            "together": arrivals.correlated(trace, 3.8, 6_250, 300.0, stream(1, "c")),
        }.items()
    }
    assert spread["chance"] == pytest.approx(1.0, abs=0.05)
    assert spread["chance"] < spread["shifted"] < spread["together"]


def test_a_stream_depends_on_seed_and_name_only() -> None:
    first = stream(7, "faults").uniform()
    assert stream(7, "faults").uniform() == first
    assert stream(7, "repairs").uniform() != first
    assert stream(8, "faults").uniform() != first


def test_a_trace_of_one_fault_a_day_is_scaled_in_time() -> None:
    even = Trace(np.arange(100) * renewal.DAY_S, 400, 100.0)
    times = arrivals.superposed(even, even.rate * 2, 400, 50.0, stream(3, "even"))
    assert np.diff(times) == pytest.approx(renewal.DAY_S / 2)
