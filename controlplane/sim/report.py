"""Tables and charts as one HTML file that needs nothing else: no script, no font, no address."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from controlplane.sim.ettr.charts import Chart, NoCharts, draw
from controlplane.sim.ettr.tables import Table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #1a1a1a; }
table { border-collapse: collapse; margin: 0.6em 0; }
caption { text-align: left; font-weight: 600; padding: 0.4em 0; }
th, td { border-bottom: 1px solid #d4d4d4; padding: 0.25em 0.8em; text-align: left; vertical-align: top; }
td:not(:first-child), th:not(:first-child) { font-variant-numeric: tabular-nums; }
p.note { color: #555; font-size: 13px; margin-top: 0; }
figure { margin: 1.5em 0; }
svg { max-width: 100%; height: auto; }
"""


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in table.headers)
    rows = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>\n" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    caption = f"<caption>{escape(table.caption)}</caption>"
    return f'<table id="{escape(table.key)}">{caption}<thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>{note}\n'


def _chart(chart: Chart) -> str:
    try:
        svg = draw(chart, "svg").decode()
    except NoCharts as error:
        return f'<p class="note">{escape(chart.title)}: {escape(str(error))}</p>\n'
    return f'<figure id="{escape(chart.name)}">{svg[svg.index("<svg") :]}</figure>\n'


def html(title: str, lines: Sequence[str], tables: Sequence[Table], charts: Sequence[Chart]) -> str:
    """The report. `lines`: what a reader should know first, one paragraph each."""
    body = "".join(f"<p>{escape(line)}</p>\n" for line in lines)
    body += "".join(map(_chart, charts)) + "".join(map(_table, tables))
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><h1>{escape(title)}</h1>\n{body}</body></html>\n'
