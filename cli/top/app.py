"""The application: the screen of the site, and details on top of it."""

from __future__ import annotations

from textual.app import App

from cli.top.detail import Subject
from cli.top.detail_screen import DetailScreen
from cli.top.feed import REFRESH_S, Connect
from cli.top.site_screen import SiteScreen

DETAIL_RARER = 3
"""An explanation is read from the journal: less often than the site."""
DETAILS_DEEP = 8
"""Screens on top of each other; a further one replaces the top."""

STYLE = """
Screen { layout: vertical; }
#status, #legend, #pointed, #title { text-wrap: nowrap; text-overflow: ellipsis; }
#status { height: 2; }
#legend, #pointed, #title { height: 1; }
#map, #jobs, #faults, #events, #related, #why { border: round $surface-lighten-2; min-height: 4; }
#map:focus, #jobs:focus, #faults:focus, #events:focus, #related:focus, #why:focus { border: round $accent; }
#faults { min-height: 3; }
#map { height: auto; min-height: 3; }
#events { scrollbar-size-horizontal: 0; }
#jobs, #faults, #events, #why { height: 1fr; }
#title { text-style: bold; }
#facts { height: auto; max-height: 45%; }
#related { height: auto; max-height: 35%; }
"""


class TopApp(App[None]):
    """`phalanx top`; `every_s` is the pause between two readings of the site."""

    TITLE = "phalanx top"
    ENABLE_COMMAND_PALETTE = False
    CSS = STYLE

    def __init__(self, connect: Connect, every_s: float = REFRESH_S) -> None:
        super().__init__()
        self._connect_to = connect
        self._every_s = every_s

    def on_mount(self) -> None:
        """Shows the site."""
        self.push_screen(SiteScreen(self._connect_to, self._every_s))

    def on_site_screen_chosen(self, event: SiteScreen.Chosen) -> None:
        """Enter on the map, a job or an event."""
        self._open(event.subject)

    def on_detail_screen_chosen(self, event: DetailScreen.Chosen) -> None:
        """Enter on something related to what a detail screen shows."""
        self._open(event.subject)

    def _open(self, subject: Subject) -> None:
        """A detail screen; the one that is about the same already comes back up instead."""
        for screen in self.screen_stack:
            if isinstance(screen, DetailScreen) and screen.subject == subject:
                while self.screen is not screen:
                    self.pop_screen()
                return
        deep = sum(isinstance(screen, DetailScreen) for screen in self.screen_stack)
        if deep >= DETAILS_DEEP:
            self.switch_screen(DetailScreen(subject, self._connect_to, DETAIL_RARER * self._every_s))
        else:
            self.push_screen(DetailScreen(subject, self._connect_to, DETAIL_RARER * self._every_s))
