"""The report as one self-contained HTML page: no script, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-size: 13px } td, th { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: top }
th { border-bottom: 1px solid #999 } .bad { color: #b00 } .good { color: #070 } code, pre { font-size: 12px }
pre { background: #f4f4f4; padding: .7rem; white-space: pre-wrap } svg { width: 100%; height: auto }
"""
ABOUT = (
    "The disturbed run lost a training process and then a whole node; the hash covers all parameters, buffers and "
    "optimizer state."
)
PHASES = ("detect", "decide", "place", "start", "rendezvous", "restore", "first_step")


def page(report: dict[str, Any], picture: str) -> str:
    """The page of a report; `picture` is SVG text."""
    verdict = "equal" if report["identical"] else "NOT equal"
    parts = [
        f"<h1>Phalanx demo: the weights are {verdict}</h1>",
        f"<p>Seed {report['seed']}, {report['wall_s']:.0f} s in all. {ABOUT}</p>",
        picture,
        "<h2>Checks</h2>",
        _table(
            ("", "claim", "measured"),
            ((_mark(c["ok"]), escape(c["name"]), escape(c["detail"])) for c in report["checks"]),
        ),
        "<h2>Runs</h2>",
        _table(("run", "steps", "final loss", "ETTR", "wall", "SHA-256"), map(_run_row, report["runs"])),
        "<h2>Recoveries: where the time went</h2>",
        _table(
            ("generation", "rung", "steps lost", *(name.replace("_", " ") for name in PHASES), "total", "cause"),
            (_recovery_row(recovery) for run in report["runs"] for recovery in run["recoveries"]),
        ),
        "<h2>Ledger, accelerator-seconds</h2>",
        *(_ledger(run["name"], run["ledger_s"]) for run in report["runs"]),
        _ledger("the whole site", report["site_ledger_s"]),
        "<h2>Negative controls</h2>",
        _table(
            ("", "change", "SHA-256"),
            (
                (_mark(c["differs"]), escape(c["change"]), f"<code>{escape(c['weights_sha256'])}</code>")
                for c in report["controls"]
            ),
        ),
        "<h2>A completion from the disturbed run's last checkpoint</h2>",
        f"<pre>{escape(report['sample'])}</pre>",
    ]
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Phalanx demo</title><style>{STYLE}</style>"
    return head + "<body>" + "\n".join(parts) + "</body></html>\n"


def _mark(good: bool) -> str:
    return "<span class='good'>yes</span>" if good else "<span class='bad'>NO</span>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _run_row(run: dict[str, Any]) -> Sequence[str]:
    loss = "-" if run["final_loss"] is None else f"{run['final_loss']:.4f}"
    digest = f"<code>{escape(run['weights_sha256'])}</code>"
    return escape(run["name"]), str(run["steps"]), loss, f"{run['ettr']:.4f}", f"{run['wall_s']:.1f} s", digest


def _recovery_row(recovery: dict[str, Any]) -> Sequence[str]:
    phases = [f"{recovery['phases_s'][name]:.3f} s" if name in recovery["phases_s"] else "-" for name in PHASES]
    start = (str(recovery["generation"]), escape(recovery["rung"]), str(recovery["steps_lost"]))
    return *start, *phases, f"{recovery['total_s']:.3f} s", escape(recovery["cause"])


def _ledger(name: str, ledger: dict[str, float]) -> str:
    shown = {bucket: value for bucket, value in ledger.items() if value > 0}
    total = sum(shown.values()) or 1.0
    rows = (
        (escape(bucket), f"{value:.1f}", f"{value / total:.1%}")
        for bucket, value in sorted(shown.items(), key=lambda item: -item[1])
    )
    return f"<h3>{escape(name)}</h3>" + _table(("bucket", "seconds", "share"), rows)
