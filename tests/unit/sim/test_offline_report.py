"""The report of `phalanx sim report`: one file that a browser opens without a network, with charts, and nothing runs in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from controlplane.sim.ettr.campaign import Series
from controlplane.sim.ettr.charts import rates_chart, spares_chart
from controlplane.sim.ettr.tables import Table
from controlplane.sim.report import html

LOADS = {"script", "link", "img", "iframe", "object", "embed", "audio", "video", "source", "base", "form", "image"}
"""Elements that fetch something, or run it."""


class Reader(HTMLParser):
    """Collects what a browser would look at."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.text: list[str] = []
        self.styles = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"href", "xlink:href", "src", "srcset", "action", "data"}:
                self.references.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name in {"style", "clip-path", "fill", "mask", "filter"}:
                self.styles += f"{value};"

    def handle_data(self, data: str) -> None:
        (self.text.append if self.lasttag != "style" else self._style)(data)

    def _style(self, data: str) -> None:
        self.styles += data


@pytest.fixture(scope="module")
def page() -> str:
    lines = (Series("ours <b>", ((2.3, 99.4), (3.8, 99.1), (6.5, 98.6))), Series("others", ((2.3, 80.0), (6.5, 60.0))))
    table = Table("ours", "Our policy", ("rate", "ETTR"), (("3.8", "99.10 %"), ("<script>", "&")), note="a < b")
    return html("Effective time & more", ["first", "then <i>"], [table], [rates_chart(lines), spares_chart(lines)])


@pytest.fixture(scope="module")
def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def test_it_needs_nothing_from_elsewhere(read: Reader) -> None:
    assert not LOADS & set(read.tags)
    assert not read.handlers
    assert read.references, "glyphs of the charts refer to each other"
    assert [target for target in read.references if not target.startswith("#")] == []
    addresses = re.findall(r"url\(\s*['\"]?([^)'\"]*)", read.styles)
    assert [address for address in addresses if not address.startswith("#")] == []
    assert "@import" not in read.styles


def test_it_has_the_charts_the_tables_and_says_that_it_is_simulated(read: Reader, page: str) -> None:
    assert read.tags.count("svg") == 2
    assert read.tags.count("table") == 1
    text = "".join(read.text)
    for wanted in ("Effective time & more", "Our policy (simulated)", "99.10 %", "then <i>", "<script>", "a < b"):
        assert wanted in text
    assert page.startswith("<!doctype html>")
    assert page.isascii() or 'charset="utf-8"' in page
    assert len(page) < 1 << 20
