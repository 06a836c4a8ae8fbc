"""The screen of the whole site: status of the controller, map, jobs and events."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from phalanx.v1 import event_pb2, job_pb2
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from cli.tables import clean
from cli.top.conditions import LOOKS
from cli.top.detail import Subject
from cli.top.feed import Connect, EventTail, Poller, Reading, Snapshot, read_snapshot
from cli.top.mapview import MapView
from cli.top.sitemap import Level
from cli.top.table import Table
from cli.top.text import (
    EVENT_COLUMNS,
    FAULT_COLUMNS,
    JOB_COLUMNS,
    controller_line,
    event_row,
    fault_row,
    job_row,
    node_line,
    site_line,
)

LOOK_EVERY_S = 0.2
JOBS_SHOWN = 200


class SiteScreen(Screen[None]):
    """Looks at the readers five times a second and shows what is new."""

    BINDINGS = [
        Binding("tab", "app.focus_next", "next pane"),
        Binding("q", "app.quit", "quit"),
    ]

    @dataclass
    class Chosen(Message):
        """Enter was pressed on something that has details."""

        subject: Subject

    def __init__(self, connect: Connect, every_s: float) -> None:
        super().__init__()
        self._site = Poller(connect, read_snapshot, every_s)
        self._tail = EventTail(connect, every_s)
        self._shown = 0
        self._last_event = 0
        self._jobs: dict[str, Subject] = {}
        self._faults: dict[str, Subject] = {}

    def compose(self) -> ComposeResult:
        """Status, map with legend and the node under the cursor, jobs, events, keys."""
        yield Static("nothing was read yet", id="status")
        yield MapView(id="map")
        yield Static(id="legend")
        yield Static(id="pointed")
        yield Table(JOB_COLUMNS, id="jobs")
        faults = Table(FAULT_COLUMNS, id="faults")
        faults.display = False
        yield faults
        events = Table(EVENT_COLUMNS, tail=True, id="events")
        events.border_title = "events, without routine ones of checkpoints"
        yield events
        yield Footer()

    def on_mount(self) -> None:
        """Begins to read."""
        self._site.start()
        self._tail.start()
        self.set_interval(LOOK_EVERY_S, self._look)
        self.query_one(MapView).focus()

    def on_unmount(self) -> None:
        """Ends the readers."""
        self._site.stop()
        self._tail.stop()

    def _look(self) -> None:
        reading = self._site.newest()
        self.query_one("#status", Static).update(_status(reading))
        if reading.value is not None and reading.serial != self._shown:
            self._shown = reading.serial
            self._show(reading.value)
        events = self._tail.newest()
        newest = events[-1].revision if events else 0
        if newest != self._last_event:
            self._last_event = newest
            self.query_one("#events", Table).fill({str(event.revision): event_row(event) for event in events})

    def _show(self, snapshot: Snapshot) -> None:
        self.query_one(MapView).show(snapshot.racks)
        self.query_one("#legend", Static).update(_legend(snapshot))
        jobs = _in_order(snapshot.jobs)
        table = self.query_one("#jobs", Table)
        table.border_title = f"jobs, {len(jobs):,}" + (f", {JOBS_SHOWN} shown" if len(jobs) > JOBS_SHOWN else "")
        table.fill({job.uid: job_row(job) for job in jobs[:JOBS_SHOWN]})
        self._show_faults(snapshot)
        names = Counter(job.name for job in jobs)
        self._jobs = {job.uid: Subject("job", job.name if names[job.name] == 1 else job.uid) for job in jobs}

    def _show_faults(self, snapshot: Snapshot) -> None:
        """The pane is there while faults stand."""
        rows = {f"{fault.node} {fault.entity} {fault.code}": fault_row(fault) for fault in snapshot.faults}
        self._faults = {key: Subject("node", fault.node) for key, fault in zip(rows, snapshot.faults, strict=True)}
        table = self.query_one("#faults", Table)
        more = f", the hardest {len(rows):,} shown" if snapshot.faults_total > len(rows) else ""
        table.border_title = f"faults that stand, {snapshot.faults_total:,}{more}"
        table.fill(rows)
        if table.display is not bool(rows):
            table.display = bool(rows)

    def on_map_view_pointed(self, event: MapView.Pointed) -> None:
        """The line below the map tells of the cell under the cursor."""
        cell = event.cell
        text = "no nodes" if cell is None else node_line(cell.nodes[0]) if cell.level is Level.NODE else cell.words()
        self.query_one("#pointed", Static).update(Text(clean(text)))

    def on_map_view_node_chosen(self, event: MapView.NodeChosen) -> None:
        """Enter on a node of the map."""
        self.post_message(self.Chosen(Subject("node", event.name)))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter on a job, on a fault, or on an event: what that is about."""
        key = event.row_key.value or ""
        match event.data_table.id:
            case "jobs":
                subject = self._jobs.get(key)
            case "faults":
                subject = self._faults.get(key)
            case _:
                subject = _about(key, self._tail.newest())
        if subject is not None:
            self.post_message(self.Chosen(subject))


def _in_order(jobs: tuple[job_pb2.Job, ...]) -> list[job_pb2.Job]:
    """Those that go on, oldest first, then those that ended, newest first."""
    ended = sorted((job for job in jobs if job.ended_at), key=lambda job: job.ended_at, reverse=True)
    return [job for job in jobs if not job.ended_at] + ended


def _about(revision: str, events: tuple[event_pb2.Event, ...]) -> Subject | None:
    event = next((item for item in events if str(item.revision) == revision), None)
    if event is None or not (event.job or event.node):
        return None
    return Subject("job", event.job) if event.job else Subject("node", event.node)


def _status(reading: Reading[Snapshot]) -> Text:
    """Two lines: the controller, and what is wrong with it or since when it is away."""
    text = Text()
    snapshot = reading.value
    text.append("phalanx top  ", "bold").append(site_line(snapshot.site) if snapshot else "")
    text.append("\n")
    if reading.error:
        age_s = time.monotonic() - reading.read_at
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - age_s))
        text.append(f"!! controller away since {since} ({age_s:.0f} s): {clean(reading.error)}", "bold reverse")
    elif snapshot is not None:
        line = controller_line(snapshot.site)
        text.append(line, "bold reverse" if line.startswith("!!") else "dim")
    return text


def _legend(snapshot: Snapshot) -> Text:
    """Signs on the map with how many nodes each stands for; those that nobody has are left out."""
    text = Text()
    counts = Counter(node.condition for rack in snapshot.racks for node in rack.nodes)
    for condition, count in sorted(counts.items()):
        look = LOOKS[condition]
        text.append(look.sign, look.style).append(f" {count:,} {look.word}   ")
    return text
