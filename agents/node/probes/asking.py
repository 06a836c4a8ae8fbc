"""Commands of which a node needs many: a tool that answers for one device at a time is asked in turns, within a time.

The answers are kept between readings. What is wanted in every reading comes first, then what was asked for longest ago, so that
every device has its turn however slow the tool is, and a reading never takes as long as the deadline of its process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agents.node.probes.machine import Machine, Memory, Unreadable
from agents.node.probes.text import printed

NS_PER_S = 1_000_000_000
TIMEOUT_S = 4.0

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A command, and after how many seconds its answer is asked for again; 0: in every reading."""

    command: Command
    again_s: float


class Answers:
    """Last answers by command. `budget_s`: how long one reading may ask."""

    def __init__(self, machine: Machine, memory: Memory, budget_s: float) -> None:
        self._machine = machine
        self._known: dict[Command, tuple[int, str | Unreadable]] = memory.setdefault("answers", {})
        self._until_ns = machine.now_ns() + int(budget_s * NS_PER_S)

    def ask(self, questions: Iterable[Question]) -> None:
        """Ask what is due until the time is over. Asked for once per reading, all together."""
        now_ns = self._machine.now_ns()
        due = [q for q in questions if now_ns >= self._asked_ns(q.command) + int(q.again_s * NS_PER_S)]
        for question in sorted(due, key=lambda q: (q.again_s > 0, self._asked_ns(q.command))):
            at_ns = self._machine.now_ns()
            if at_ns > self._until_ns:
                return
            answer: str | Unreadable
            try:
                answer = printed(self._machine, question.command, TIMEOUT_S)
            except Unreadable as error:
                answer = error
            self._known[question.command] = (at_ns, answer)

    def text(self, command: Sequence[str]) -> str | None:
        """The last answer; None when it has not been asked for yet. Raises Unreadable when there was none."""
        _, answer = self._known.get(tuple(command), (0, None))
        if isinstance(answer, Unreadable):
            raise answer
        return answer

    def _asked_ns(self, command: Command) -> int:
        return self._known.get(command, (0, None))[0]
