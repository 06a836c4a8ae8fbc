"""Carries out an order to test the path to another node, together with its agent.

What is found is told as a fault row that only observes, and as a broken link where the network does not lead to the other one. The
controller judges nodes: it hears of several pairs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from phalanx.v1 import agent_pb2

from agents.node.checks.desk import CheckDesk
from agents.node.checks.finding import LOSS, NODE, PAIR, PEER, Answer, Finding
from agents.node.checks.pair import SPEED, Spoiled, Word
from agents.node.checks.process import Order, run
from agents.node.devices import Devices
from agents.node.outcomes import Outcome

LOOK_S = 0.05
"""How soon a test gives way to a rank."""
MARGIN_S = 2.0
"""Of the order's time, for the answer."""
LINK_FOR_S = 600.0
"""A link that was found broken is told for so long: nobody has tried it since."""
WORDS = {
    Word.PASSED: agent_pb2.PAIR_WORD_PASSED,
    Word.FAILED: agent_pb2.PAIR_WORD_FAILED,
    Word.UNMET: agent_pb2.PAIR_WORD_UNMET,
    Word.CUT: agent_pb2.PAIR_WORD_UNMET,
    Word.NOT_RUN: agent_pb2.PAIR_WORD_NOT_RUN,
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PairSettings:
    """`sums`: also add up through torch, where it is installed. `spoiled`: how this node breaks its paths in trials."""

    sums: bool = True
    spoiled: Spoiled = Spoiled.NO


class PairDesk:
    """One test at a time, and none beside other checks or ranks. Lives on the event loop."""

    def __init__(
        self, settings: PairSettings, desk: CheckDesk, devices: Devices, busy: Callable[[], frozenset[int] | None]
    ) -> None:
        self._settings = settings
        self._desk = desk
        self._devices = devices
        self._busy = busy

    async def carry_out(self, order: agent_pb2.CheckPair, deadline_s: float) -> Outcome:
        """Test within `deadline_s`. The outcome says how it went, whatever happened."""
        try:
            async with asyncio.timeout(deadline_s), self._desk.turn:
                answer = await self._test(order, deadline_s)
        except TimeoutError:
            answer = _not_run(f"other checks ran for all of {deadline_s:g} s")
        if answer.word:
            word, text = Word(answer.word), f"with {order.peer}: {answer.text}"
        else:  # its process was killed or crashed
            word, text = Word.UNMET, "; ".join(f"with {order.peer}: {finding.message}" for finding in answer.findings)
        self._tell(order.peer, word, text, answer)
        log.info("pair.ended", with_node=order.peer, word=word.value, reason=text)
        speed = answer.figures.get(f"{NODE}: {SPEED}", 0.0)
        said = agent_pb2.PairResult(word=WORDS[word], bytes_per_s=speed)
        return Outcome(ok=word is Word.PASSED, message=text, pair=said)

    async def _test(self, order: agent_pb2.CheckPair, deadline_s: float) -> Answer:
        if self._busy() is not None:
            return _not_run("processes of ranks live here")
        work = asyncio.create_task(run(self._order(order, deadline_s)), name="pair")
        try:
            while not work.done():
                if self._busy() is not None:
                    return _not_run("it gave way to processes of ranks")
                await asyncio.wait({work}, timeout=LOOK_S)
            return work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def _order(self, order: agent_pb2.CheckPair, deadline_s: float) -> Order:
        limit_s = max(1.0, deadline_s - MARGIN_S)
        arguments = [
            *("--rank", str(order.rank), "--address", order.address, "--port", str(order.port), "--test", order.test),
            *("--meet-s", str(limit_s / 2), "--spoiled", self._settings.spoiled.value),
        ]
        if self._settings.sums:
            arguments.append("--sums")
        return Order("pair", limit_s, tuple(arguments))

    def _tell(self, peer: str, word: Word, text: str, answer: Answer) -> None:
        """A row for what is not well with the last partner, and the link, where anything was tried."""
        if word is Word.NOT_RUN:
            return
        found = [
            Finding(NODE, LOSS, f"{finding.message}, to {peer}") for finding in answer.findings if finding.code == LOSS
        ]
        if word is not Word.PASSED:
            found.append(Finding(NODE, PAIR if word is Word.FAILED else PEER, text))
        self._desk.note(found, frozenset((NODE, code) for code in (PAIR, PEER, LOSS)))
        self._devices.link(peer, broken=word is Word.CUT)
        if word is Word.CUT:
            asyncio.get_running_loop().call_later(LINK_FOR_S, lambda: self._devices.link(peer, broken=False))


def _not_run(reason: str) -> Answer:
    return Answer("", word=Word.NOT_RUN, text=reason)
