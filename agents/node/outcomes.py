"""One outcome per effect id, whatever the controller repeats. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from phalanx.v1 import agent_pb2

OUTCOME_LIMIT = 4096
RUNNING_LIMIT = 256
RESEND_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an effect ended. One that is not `final` did nothing: the same id may be tried again.

    `need_full`: a generation must be sent with more than the rows of this node's ranks. `pair`: the word on a test with
    another node; `stacks`: where ranks stand, which is told in any case.
    """

    ok: bool
    message: str = ""
    final: bool = True
    need_full: bool = False
    pair: agent_pb2.PairResult | None = None
    stacks: agent_pb2.StackReport | None = None


class OutcomeMemory:
    """Remembers how effects ended, and which results still have to be sent."""

    def __init__(self) -> None:
        self._outcomes: OrderedDict[str, tuple[Outcome, float]] = OrderedDict()
        self._running: set[str] = set()
        self._due: OrderedDict[str, Outcome] = OrderedDict()

    def begin(self, effect_id: str) -> bool:
        """Whether to carry the effect out. For a repeat of an ended one the first result becomes due again."""
        if effect_id in self._running:
            return False
        known = self._outcomes.get(effect_id)
        if known is not None:
            self._due[effect_id] = known[0]
            return False
        if len(self._running) >= RUNNING_LIMIT:
            self._due[effect_id] = Outcome(ok=False, message=f"{RUNNING_LIMIT} effects are under way; send it again")
            return False
        self._running.add(effect_id)
        return True

    def end(self, effect_id: str, outcome: Outcome, now: float, *, quiet: bool = False) -> None:
        """The effect has ended; its result becomes due. `quiet`: success goes without saying."""
        self._running.discard(effect_id)
        if not (quiet and outcome.ok) or outcome.stacks is not None:
            self.answer(effect_id, outcome)
        if outcome.final:
            self._outcomes[effect_id] = (outcome, now)
            while len(self._outcomes) > OUTCOME_LIMIT:
                self._outcomes.popitem(last=False)

    def answer(self, effect_id: str, outcome: Outcome) -> None:
        """Answer without remembering: the effect was refused before anything was done."""
        self._due[effect_id] = outcome
        while len(self._due) > OUTCOME_LIMIT:
            self._due.popitem(last=False)

    def next_result(self) -> agent_pb2.EffectResult | None:
        """The next result to send."""
        if not self._due:
            return None
        effect_id, outcome = self._due.popitem(last=False)
        return agent_pb2.EffectResult(
            effect_id=effect_id, ok=outcome.ok, message=outcome.message, need_full=outcome.need_full, pair=outcome.pair,
            stacks=outcome.stacks,
        )  # fmt: skip

    def new_session(self, former_ended_at: float | None) -> None:
        """Results have no acknowledgement: those of the former session's last minute may be lost and go out again."""
        if former_ended_at is None:
            return
        for effect_id, (outcome, ended_at) in self._outcomes.items():
            if ended_at >= former_ended_at - RESEND_WINDOW_S:
                self._due[effect_id] = outcome
