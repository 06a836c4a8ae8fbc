"""Tests in pairs before nodes come back: who is tested with whom, and what follows.

A node whose own checks passed waits until there is a validation cell: the nodes that wait, and idle ones in service to make four.
All of them are paired, twice where the first round leaves doubts; nobody in a cell is believed to be sound before it has passed.
A site asks for it with `quarantine.pair_ms`, and for the same before a new gang starts with `quarantine.pair_age_ms`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.events import EffectDone
from controlplane.core.health.cell import (
    LEAST_NODES,
    MOST_NODES,
    PairAnswer,
    ValidationCell,
    next_wave,
    results,
    story,
)
from controlplane.core.health.pairing import Pair, Verdicts, verdicts
from controlplane.core.health.quarantine import Case, held, keep_out, quarantine, readmit
from controlplane.core.units import ms
from controlplane.core.vocabulary import AcceleratorState, NodeLiveness, NodeService, PairWord

CODE = "CHECK-PAIR"
ALONE = "its own checks passed; it was not tested with others: "


def look_after(draft: Draft) -> None:
    """The next step of the validation cell, or a new one."""
    cell = draft.state.health.cell
    if cell is None:
        _open(draft)
    elif not any(effect.kind is EffectKind.CHECK_PAIR for effect in draft.state.effects.values()):
        wave = next_wave(cell)
        if wave and draft.policy.quarantine.pair_ms:
            _begin(draft, wave)
        else:
            _close(draft, cell)


def before_start(draft: Draft, nodes: Iterable[int]) -> str:
    """What a new gang has to wait for before it gets these nodes, "" when nothing: they were tested lately, or nobody asks for it.

    Who was in a cell counts as tested, whatever came of it: a bad node is taken out by it, and doubt keeps no job waiting.
    """
    policy, book, fleet = draft.policy.quarantine, draft.state.health, draft.fleet
    if not (policy.pair_age_ms and policy.pair_ms):
        return ""
    since_ns = draft.now_ns - ms(policy.pair_age_ms)
    untried = [name for n in dict.fromkeys(nodes) if book.paired.get(name := fleet.name(n), since_ns) <= since_ns]
    if not untried:
        return ""
    opens = any(isinstance(record, r.ValidationStarted) for record in draft.records)
    if book.cell is None and not opens:
        others = _lendable(draft, max(LEAST_NODES - len(untried), len(untried) % 2), frozenset(untried))
        draft.write(r.ValidationStarted((), (*untried, *others)))
    return f"{len(untried)} of its nodes are tested in pairs first"


def answered(draft: Draft, effect: Effect, event: EffectDone) -> None:
    """One node of a pair has answered."""
    cell = draft.state.health.cell
    number = draft.fleet.number(effect.node)
    if cell is None or number is None:
        return
    word, text = event.pair, event.message[:500]
    if draft.fleet.facts[number].boot_id != cell.boots.get(effect.node):
        word, text = PairWord.NOT_RUN, "its agent was started anew meanwhile"
    answer = PairAnswer(effect.node, effect.items[0], word, text, event.bytes_per_s)
    draft.write(r.PairAnswered(effect.node, answer))


def _open(draft: Draft) -> None:
    """A cell of all that wait, as soon as nobody is on the way to join them and there are enough."""
    policy, fleet = draft.policy.quarantine, draft.fleet
    stays = draft.state.health.stays
    present = [node for node in stays if _waits(draft, node) and fleet.session[fleet.index[node]]][:MOST_NODES]
    if not present:
        return
    if not policy.pair_ms:
        for node in present:
            readmit(draft, node, ALONE + "the site asks for no pairs")
        return
    checked = {e.node for e in draft.state.effects.values() if e.kind is EffectKind.RUN_CHECKS}
    coming = [node for node in checked if _validates(draft, node)]
    lent = _lendable(draft, max(LEAST_NODES - len(present), len(present) % 2))
    enough = len(present) == MOST_NODES or (not coming and len(present) + len(lent) >= LEAST_NODES)
    if not enough and draft.now_ns < min(stays[node].paired_ns for node in present) + ms(policy.pair_wait_ms):
        return
    if len(present) + len(lent) >= 2:
        draft.write(r.ValidationStarted(tuple(present), tuple(lent)))
    else:
        readmit(draft, present[0], ALONE + "no other node was free for it")


def _validates(draft: Draft, node: str) -> bool:
    number = draft.fleet.number(node)
    return number is not None and draft.fleet.service[number] == NodeService.VALIDATING


def _waits(draft: Draft, node: str) -> bool:
    """Whether a node's own checks have passed and it has not been judged since."""
    return draft.state.health.stays[node].paired_ns > 0 and _validates(draft, node)


def _lendable(draft: Draft, wanted: int, beside: frozenset[str] = frozenset()) -> Sequence[str]:
    """Nodes in service that nobody uses and nothing is known against, as many as are wanted, if there are. `beside`: other ones
    than these."""
    fleet, known = draft.fleet, draft.state.health
    if not wanted:
        return ()
    usable = fleet.usable_accelerators() | (fleet.acc_state == 0)
    sound = (fleet.acc_state != AcceleratorState.DEGRADED).all(axis=1) & usable.all(axis=1)
    free = fleet.serving() & fleet.session & ~fleet.cordoned & (fleet.liveness == NodeLiveness.ALIVE) & sound
    free &= (fleet.acc_owner < 0).all(axis=1) & ~held(draft)
    rows = np.flatnonzero(free)
    turn = int(draft.now_ns // ms(1)) % max(1, len(rows))  # others than last time, where there are others
    found = (fleet.name(int(number)) for number in np.roll(rows, -turn))
    return [
        name for name, _ in zip((n for n in found if n not in beside and not known.on(n)), range(wanted), strict=False)
    ]


def _begin(draft: Draft, wave: tuple[Pair, ...]) -> None:
    fleet, policy = draft.fleet, draft.policy.quarantine
    numbers = {node: fleet.number(node) for pair in wave for node in pair}
    boots = {node: fleet.facts[number].boot_id for node, number in numbers.items() if number is not None}
    draft.write(r.PairsStarted(wave, boots))
    for place, pair in enumerate(wave):
        number = numbers[pair[0]]
        address = fleet.facts[number].address if number is not None else ""
        for rank, node in enumerate(pair):
            items = (pair[1 - rank], address, str(policy.pair_port + place), str(rank))
            draft.effect(EffectKind.CHECK_PAIR, f"node:{node}", items=items, timeout_ms=policy.pair_ms)


def _close(draft: Draft, cell: ValidationCell) -> None:
    """Both rounds are over: what they prove, for each node."""
    found = results(cell, cell.waves)
    proved = verdicts(cell.nodes, found)
    told = (proved.cleared, proved.convicted, proved.suspects)
    draft.write(r.ValidationEnded(*(tuple(node for node in cell.nodes if node in part) for part in told)))
    for node in cell.waiting:
        if node in draft.state.health.stays and _waits(draft, node):
            _judge(draft, cell, node, proved, found)
    for node in cell.lent:
        number = draft.fleet.number(node)
        twice = sum(node in pair for pair in found) > 1  # who serves is not taken out for one bad moment
        if node in proved.convicted and twice and number is not None and draft.fleet.serving()[number]:
            reason = f"tests in pairs: {story(cell, node, found)}"
            quarantine(draft, node, Case(reason, evidence=("pairs",), code=CODE))


def _judge(draft: Draft, cell: ValidationCell, node: str, proved: Verdicts, found: Mapping[Pair, bool]) -> None:
    """What follows for a node that waits. Who has no result, through no fault of its own, waits for the next cell."""
    words = {answer.word for answer in cell.answers if answer.node == node}
    asked = any(node in pair for wave in cell.waves for pair in wave)
    if node in proved.cleared:
        readmit(draft, node, f"checks passed, and tests in pairs: {story(cell, node, found)}")
    elif node in proved.convicted:
        keep_out(draft, node, f"tests in pairs: {story(cell, node, found)}; the other one passed with others")
    elif any(node in pair for pair in found):
        keep_out(draft, node, f"tests in pairs: {story(cell, node, found)}; nobody can tell which of them it is")
    elif PairWord.UNSPECIFIED in words:
        readmit(draft, node, ALONE + "its agent is older and knows no such test")
    elif asked and not words:
        keep_out(draft, node, "tests in pairs: its agent gave no answer")
    elif draft.now_ns >= draft.state.health.stays[node].paired_ns + ms(draft.policy.quarantine.pair_wait_ms):
        readmit(draft, node, ALONE + "no test with another node gave a result")
