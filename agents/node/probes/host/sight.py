"""What the parts of the host's probe collect into."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.node.probes.machine import Machine, Memory, Unreadable
from agents.node.probes.quantity import whole
from agents.node.probes.reading import Assertion, Fault, Severity, Unread

NODE = "node"


@dataclass(slots=True)
class Sight:
    """One look at the machine. `memory` keeps counters from one look to the next."""

    machine: Machine
    memory: Memory
    faults: list[Fault] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def text(self, path: str) -> str | None:
        """A file that should be there; None and an Unread when it cannot be read."""
        try:
            return self.machine.text(path).strip()
        except Unreadable as error:
            self.unread.append(Unread(path, str(error)))
            return None

    def number(self, path: str) -> int | None:
        """A file with a number; None and an Unread when it holds none."""
        text = self.text(path)
        if text is None:
            return None
        number = whole(text)
        if number is None:
            self.unread.append(Unread(path, f"{text[:60]!r} is no number"))
        return number

    def stands(self, code: str, severity: Severity, message: str, entity: str = NODE) -> None:
        """A fault that stands now."""
        self.faults.append(Fault(entity, code, severity, message=message))

    def once(self, code: str, severity: Severity, count: int, message: str, entity: str = NODE) -> None:
        """An event; `count` is its sequence: a counter of the kernel's."""
        self.faults.append(Fault(entity, code, severity, Assertion.ONCE, count, self.machine.now_ns(), message))

    def growth(self, name: str, count: int | None, at_least: int = 1) -> int:
        """By how much a counter has grown since it was last told: 0 until it is `at_least`, then it counts as told. A counter
        that is seen for the first time, or that has begun anew, has not grown."""
        if count is None:
            return 0
        told: dict[str, int] = self.memory.setdefault("counters", {})
        before = told.get(name)
        if before is None or count < before:
            told[name] = count
            return 0
        if count - before < at_least:
            return 0
        told[name] = count
        return count - before
