"""What the events of a batch leave to be judged together: rows of nodes, and effects that were carried out."""

from __future__ import annotations

from dataclasses import dataclass, field

from controlplane.core.events import EffectDone, Event, Gathered, NodeHello, NodeReport, NodeRows
from controlplane.core.machine import Decision


@dataclass(slots=True)
class Gathering:
    """Grows while events join it, and is judged before anything else is. `cause`: the event that began it."""

    rows: dict[str, NodeRows] = field(default_factory=dict)
    finished: dict[str, None] = field(default_factory=dict)
    cause: str = ""

    def joins(self, event: Event) -> bool:
        """Whether an event may be decided before what was gathered: it is of another node, or tells of another effect."""
        match event:
            case NodeReport() | NodeHello():
                return event.node not in self.rows
            case EffectDone():
                return event.ok and event.effect_id not in self.finished
            case _:
                return False

    def add(self, decision: Decision, cause: str) -> None:
        """Take what a decision leaves."""
        if decision.gathered is not None:
            self.rows[decision.gathered.node] = decision.gathered
        if decision.finished:
            self.finished[decision.finished] = None
        if decision.gathered is not None or decision.finished:
            self.cause = self.cause or cause

    def take(self) -> tuple[Gathered, str] | None:
        """All of it and its cause, None when there is nothing; from here on it is empty."""
        if not self.cause:
            return None
        told, cause = Gathered(tuple(self.rows.values()), tuple(self.finished)), self.cause
        self.rows, self.finished, self.cause = {}, {}, ""
        return told, cause
