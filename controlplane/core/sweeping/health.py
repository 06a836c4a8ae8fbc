"""What time alone changes about faults: debounces that are over, escalations that are released, resets that can begin, acts
that may be asked for again; and the answers to checks."""

from __future__ import annotations

from dataclasses import replace

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.fleet import FREE
from controlplane.core.health import quarantine, validation
from controlplane.core.health.book import RESETS, FaultNote, position_of
from controlplane.core.health.faults import ENDS_RANKS, TAKES_NODE
from controlplane.core.observing.devices import rebelieve
from controlplane.core.observing.faults import act, case_of, judge, order_reset, standing_now
from controlplane.core.units import ms
from controlplane.core.vocabulary import Assertion, HandlingLevel, NodeLiveness, NodeService


def faults(draft: Draft) -> None:
    """Look at the faults that stand, and at the nodes in health's hands."""
    quarantine.look_after(draft)
    validation.look_after(draft)
    book = draft.state.health
    asked = {*book.waiting(), *book.refused}
    for node in [node for node in book.standing if node in asked] if asked else ():
        number = draft.fleet.number(node)
        if number is None:
            continue
        due = tuple([fault.note for fault in book.on(node) if 0 < fault.note.until_ns <= draft.now_ns])
        if due:
            _judge_anew(draft, node, number, due)
        if draft.fleet.liveness[number] == NodeLiveness.ALIVE:
            _resets(draft, node, number)
            _ask_again(draft, node, number)


def _judge_anew(draft: Draft, node: str, number: int, due: tuple[FaultNote, ...]) -> None:
    """A debounce or a release timer is over. What recovered meanwhile ends."""
    devices = draft.fleet.facts[number].accelerators
    judged = tuple(
        replace(note, held=False, until_ns=0)
        if note.assertion is Assertion.RECOVERED
        else judge(draft, node, replace(note, until_ns=0, held=False), devices)
        for note in due
    )
    draft.write(r.FaultsJudged(node, judged))
    rebelieve(draft, node, standing_now(draft, node), judged)
    before = {(note.entity, note.code): note.level for note in due}
    act(draft, node, number, [note for note in judged if note.level > before[(note.entity, note.code)]])


def _under_way(draft: Draft, node: str) -> bool:
    return any(effect.kind is EffectKind.RUN_CHECKS and effect.node == node for effect in draft.state.effects.values())


def _resets(draft: Draft, node: str, number: int) -> None:
    """A device is reset when no job holds it any more; one order at a time, again where nobody answered the last one."""
    owners = draft.fleet.acc_owner[number]
    for fault in draft.state.health.on(node):
        note, position = fault.note, position_of(fault.note.entity)
        waits = note.level in RESETS and note.assertion is not Assertion.RECOVERED and draft.fleet.session[number]
        if waits and 0 <= position < len(owners) and owners[position] == FREE and not _under_way(draft, node):
            order_reset(draft, node, note)
            return


def _ask_again(draft: Draft, node: str, number: int) -> None:
    """An act that the budget refused is judged afresh once its window is over, if its fault still stands."""
    refused_ns = draft.state.health.refused.get(node, 0)
    if not refused_ns or draft.now_ns < refused_ns + ms(draft.policy.actions.window_ms):
        return
    if not draft.fleet.serving()[number]:
        return
    for fault in draft.state.health.on(node):
        note = fault.note
        if note.level in TAKES_NODE:
            quarantine.quarantine(draft, node, case_of(draft, number, note))
            return
        if position_of(note.entity) < 0 and note.level in ENDS_RANKS:
            quarantine.isolate(draft, node, case_of(draft, number, note))
            return


def checks_answered(draft: Draft, effect: Effect, *, ok: bool, message: str) -> None:
    """The agent has answered a reset of a device, or the checks of its node."""
    number = draft.fleet.number(effect.node)
    if number is None:
        return
    if draft.fleet.service[number] == NodeService.VALIDATING:
        quarantine.checks_done(draft, effect, ok=ok, message=message)
        return
    left = tuple(
        replace(
            fault.note, level=HandlingLevel.ISOLATE, reason=f"a reset did not end it: {message or 'it still stands'}"
        )
        for fault in draft.state.health.on(effect.node)
        if fault.note.entity in effect.items and fault.note.level in RESETS
    )
    if left:
        draft.write(r.FaultsJudged(effect.node, left))
        rebelieve(draft, effect.node, standing_now(draft, effect.node), left)
        act(draft, effect.node, number, left)
