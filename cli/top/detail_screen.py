"""The screen of one node, job or rank."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from cli.tables import clean
from cli.top.detail import Detail, Subject, read_detail
from cli.top.feed import Connect, Poller
from cli.top.table import Table

LOOK_EVERY_S = 0.2


class DetailScreen(Screen[None]):
    """Facts above, related things to go on to, and why it is so; read anew every few seconds."""

    BINDINGS = [
        Binding("escape", "app.pop_screen", "back"),
        Binding("tab", "app.focus_next", "next pane"),
        Binding("q", "app.quit", "quit"),
    ]

    @dataclass
    class Chosen(Message):
        """Enter was pressed on something related."""

        subject: Subject

    def __init__(self, subject: Subject, connect: Connect, every_s: float) -> None:
        super().__init__()
        self._subject = subject
        self._connect = connect
        self._every_s = every_s
        self._poller: Poller[Detail] | None = None
        self._shown = 0
        self._related: dict[str, Subject] = {}

    def compose(self) -> ComposeResult:
        """Title, facts, related things, reasons, keys."""
        yield Static(Text(clean(self._subject.words())), id="title")
        yield Static("nothing was read yet", id="facts")
        yield Table(id="related")
        with VerticalScroll(id="why") as why:
            why.border_title = "why"
            yield Static(id="reasons")
        yield Footer()

    @property
    def subject(self) -> Subject:
        """What the screen is about."""
        return self._subject

    def on_mount(self) -> None:
        """Looks for news as long as it is there."""
        self.set_interval(LOOK_EVERY_S, self._look)

    def on_screen_resume(self) -> None:
        """It is on top (again): begins to read."""
        self._shown = 0
        self._poller = Poller(self._connect, lambda client: read_detail(client, self._subject), self._every_s)
        self._poller.start()
        self.query_one(Table).focus()

    def on_screen_suspend(self) -> None:
        """Something else is on top: nobody looks any more."""
        if self._poller is not None:
            self._poller.stop()
            self._poller = None

    def _look(self) -> None:
        if self._poller is None:
            return
        reading = self._poller.newest()
        title = Text(clean(self._subject.words()))
        if reading.error:
            age_s = time.monotonic() - reading.read_at
            title.append(f"  !! {clean(reading.error)}; what is shown is {age_s:.0f} s old", "bold reverse")
        self.query_one("#title", Static).update(title)
        if reading.value is not None and reading.serial != self._shown:
            self._shown = reading.serial
            self._show(reading.value)

    def _show(self, detail: Detail) -> None:
        width = max(len(name) for name, _ in detail.facts)
        facts = Text()
        for name, value in detail.facts:
            facts.append(f"{name.ljust(width)}  ", "dim").append(value + "\n")
        facts.append(clean(detail.remark))
        facts.rstrip()
        self.query_one("#facts", Static).update(facts)
        self._related = {row.subject.words(): row.subject for row in detail.related}
        rows = {row.subject.words(): row.cells for row in detail.related}
        self.query_one(Table).fill(rows, detail.columns)
        self.query_one("#reasons", Static).update(Text("\n".join(detail.why)))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter: on to the related thing."""
        subject = self._related.get(event.row_key.value or "")
        if subject is not None:
            self.post_message(self.Chosen(subject))
