"""The figures as tables, charts, a report and commands, at the smallest size that still shows every part."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cli.__main__ import run
from controlplane.sim.ettr import result_tables as tabulate
from controlplane.sim.ettr.break_even import Bracket
from controlplane.sim.ettr.calibration import Estimate
from controlplane.sim.ettr.campaign import BURSTS, GOALS, Campaign, Effort, Series
from controlplane.sim.ettr.charts import draw, rates_chart, save
from controlplane.sim.ettr.conduct import Cause, kubernetes, memory_copies, pinned
from controlplane.sim.ettr.figures import Figures, collect
from controlplane.sim.ettr.phases import Column, load
from controlplane.sim.ettr.policies import CHANGES, Scale, our_world
from controlplane.sim.ettr.policy_file import BadPolicy, apply
from controlplane.sim.ettr.renewal import PLAIN_CASES, RATES, mtbf_s
from controlplane.sim.ettr.run import Arrivals
from controlplane.sim.ettr.runner import Runner
from controlplane.sim.ettr.tables import Table
from controlplane.sim.report import html
from tests.benchmarks.ettr.page import MARKED, filled
from tests.benchmarks.ettr.results import PAGES

TINY = Effort(
    full=Scale(8, 1, 0.1), full_seeds=2, small_days=0.1, small_seeds=2, calibration_days=0.1, calibration_seeds=2,
    spare_days=0.1, everything=False,
)  # fmt: skip


def campaign(told: list[tuple[str, int, int]] | None = None) -> Campaign:
    runner = Runner(1, lambda *said: told.append(said) if told is not None else None)
    return Campaign(load(), TINY, runner, 1)


def test_a_break_even_lies_where_the_goal_is_just_reached() -> None:
    told: list[tuple[str, int, int]] = []
    found = campaign(told).break_evens({6.5: 98.0})
    assert len(found) == 4
    limit = found["rebuild_communicators.affected_groups", 6.5]
    assert limit is not None
    assert 20.0 < limit < 40.0
    assert {total for _, _, total in told} <= {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("percent", "even_s"),
    [
        (lambda s: 100.0 - 0.1 * s, 10.0),
        (lambda s: 100.0 - 0.01 * s * s, 10.0),
        (lambda s: 98.9, None),
        (lambda s: 99.5, 3_600.0),
    ],
)
def test_few_tries_find_where_a_falling_line_meets_the_target(
    percent: Callable[[float], float], even_s: float | None
) -> None:
    bracket = Bracket(99.0, 3.0)
    for _ in range(12):
        if not bracket.settled:
            at_s = bracket.next_s()
            bracket.note(at_s, percent(at_s))
    assert bracket.settled
    assert bracket.even_s() == (None if even_s is None else pytest.approx(even_s, abs=0.2))


def test_what_is_found_is_told_part_by_part() -> None:
    class Stopped(Exception):
        pass

    parts: list[Figures] = []

    def arrived(found: Figures) -> None:
        parts.append(found)
        if len(parts) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        collect(campaign(), arrived)
    assert [[table.key for table in part.tables] for part in parts] == [["ours"], ["ours", "calibration"]]
    assert len(parts[0].ours) == len(RATES)


def test_a_table_takes_the_place_of_its_earlier_form() -> None:
    found = Figures(()).with_table(Table("a", "A", ("x",), (("1",),))).with_table(Table("b", "B", ("x",), (("2",),)))
    found = found.with_table(Table("a", "A", ("x",), (("3",),)))
    assert [table.rows for table in found.tables] == [(("3",),), (("2",),)]


def test_pages_are_filled_between_their_markers() -> None:
    page = "before\n<!-- table ours -->\nold\n<!-- /table -->\nbetween\n<!-- table gone -->\nkept\n<!-- /table -->\nafter\n"
    table = Table("ours", "Ours", ("r", "%"), (("3.8", "99 | 1"),), "A note.")
    text = filled(page, [table])
    assert text.startswith(
        "before\n<!-- table ours -->\n**Ours (simulated)**\n\n| r | % |\n| --- | --- |\n| 3.8 | 99 / 1 |\n"
    )
    assert "old" not in text
    assert text.endswith("A note.\n<!-- /table -->\nbetween\n<!-- table gone -->\nkept\n<!-- /table -->\nafter\n")
    assert filled(text, [table]) == text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_ask_for_tables_that_there_are(page: Path) -> None:
    made = {"speed", "ours", "calibration", "others", "published", "break-even", "trace"}
    made |= {f"parts-{rate:g}" for rate in GOALS}
    text = page.read_text(encoding="utf-8")
    asked = [found["key"] for found in MARKED.finditer(text)]
    assert asked
    assert set(asked) <= made
    assert text.count("<!-- table ") == len(asked)


def test_every_table_says_that_it_is_simulated_or_published() -> None:
    ours = {(column, rate): Estimate(99.0, 0.1, 2) for column in Column for rate in RATES}
    tables = [
        tabulate.ours_table(ours, TINY),
        tabulate.parts_table({name: Estimate(98.0, 0.1, 2) for name in ("", *CHANGES)}, 3.8, Scale()),
        tabulate.break_even_table({("detect.hang", 3.8): 12.0, ("detect.hang", 6.5): None}, load(), Scale()),
        tabulate.calibration_table([], TINY),
        tabulate.trace_table(
            {(c, k, r): Estimate(0.4, 0.1, 4) for c in PLAIN_CASES for k in BURSTS for r in RATES}, 0.001
        ),
    ]
    assert all(table.caption.endswith("(simulated)") for table in tables)
    assert tabulate.published_table().caption.endswith("(published, not simulated)")
    assert "missed even at 0 s" in tables[2].rows[1]
    assert tables[1].rows[1][-1] == "+0.00"


def test_a_table_with_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        Table("t", "T", ("a", "b"), (("1",),))


class Tags(HTMLParser):
    """Tags that are open, and everything that a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("table", "figure", "body", "html"):
            self.open.append(tag)
        self.loads += [str(v) for k, v in attrs if k in ("src", "href") and v and not v.startswith(("#", "data:"))]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "figure", "body", "html"):
            assert self.open.pop() == tag


def test_the_report_is_one_file_that_loads_nothing() -> None:
    chart = rates_chart([Series("Phalanx", ((2.3, 99.5), (6.5, 98.6)))])
    table = Table("t", "Tom & <Jerry>", ("a",), (("<b>",),), "note")
    page = html("Title", ["first <line>"], [table], [chart])
    tags = Tags()
    tags.feed(page)
    assert (tags.open, tags.loads) == ([], [])
    assert "&lt;b&gt;" in page
    assert "Tom &amp; &lt;Jerry&gt; (simulated)" in page
    assert page.count("<svg") == 1
    assert "<script" not in page


def test_charts_are_written_as_png_and_svg(tmp_path: Path) -> None:
    chart = rates_chart([Series("Phalanx", ((2.3, 99.5), (6.5, 98.6)))])
    png, svg = save(chart, tmp_path / "charts")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in svg.read_bytes()
    assert draw(chart, "png") == png.read_bytes()


def test_published_policies_take_their_times_from_the_phases() -> None:
    phases = load()
    assert min(kubernetes(phases).detect_s.values()) == 350.0
    assert pinned(PLAIN_CASES[0], mtbf_s(3.8)).start_s == 600.0
    assert pinned(PLAIN_CASES[-1], mtbf_s(3.8)).affected_s == 2.0
    assert memory_copies(phases, mtbf_s(2.3)).steps > memory_copies(phases, mtbf_s(6.5)).steps


def test_a_policy_file_changes_what_it_names() -> None:
    text = "[spares]\nwarm_nodes = 5\n[weather]\narrivals = 'trace'\n[repairs]\nmedian_h = 2\nmean_h = 3\n"
    world = apply(our_world(load(), 3.8), text, "mine.toml")
    assert world.conduct.warm_nodes == 5
    assert world.weather.arrivals is Arrivals.TRACE
    assert world.weather.repairs.mean_h == 3.0
    assert world.conduct.detect_s[Cause.HANG] == 30.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[spare]\nwarm_nodes = 1", "mine.toml: unknown spare; did you mean spares?"),
        ("[spares]\nwarm_node = 1", "mine.toml: [spares]: unknown warm_node; did you mean warm_nodes?"),
        ("[spares]\nwarm_nodes = -1", "mine.toml: spares.warm_nodes: -1 is below 0"),
        ("[spares]\nwarm_nodes = 1.5", "spares.warm_nodes: 1.5 is not a whole number"),
        ("[saving]\nstep_s = 'five'", "saving.step_s: 'five' is not a number"),
        ("[weather]\narrivals = 'often'", "weather.arrivals: 'often' is none of poisson"),
        ("[repairs]\nmedian_h = 500", "mine.toml: "),
        ("spares = 1", "spares must be a table"),
        ("[spares", "mine.toml: "),
    ],
)
def test_bad_policy_files_are_refused_with_place_and_reason(text: str, says: str) -> None:
    with pytest.raises(BadPolicy) as caught:
        apply(our_world(load(), 3.8), text, "mine.toml")
    assert says in str(caught.value)


def test_the_command_simulates_a_site_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--nodes", "8", "--pool", "4", "--rate", "300", "--days", "0.3", "--runs", "2", "--jobs", "1")
    assert run(["sim", "ettr", *arguments, "-o", "json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert table["simulated"] is True
    assert [row["durations"] for row in table["rows"]] == ["low", "expected", "high"]
    assert run(["sim", "ettr", *arguments]) == 0
    assert "Effective training time (simulated)" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--phases", "--policy"])
def test_the_command_refuses_files_that_it_cannot_use(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[decides]\nlow = 1\n")
    assert run(["sim", "ettr", option, str(file)]) == 2
    assert str(file) in capsys.readouterr().err
