"""Answers of agents to effects."""

from __future__ import annotations

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.health.validation import answered as pair_answered
from controlplane.core.observing.cells import fence_unstarted
from controlplane.core.observing.storage import unable
from controlplane.core.sweeping.canaries import called_off
from controlplane.core.sweeping.health import checks_answered

CHECKS = (EffectKind.RUN_CHECKS, EffectKind.CHECK_PAIR)
"""Whose answers are judged, good ones too."""


def effect_done(draft: Draft, event: ev.EffectDone) -> None:
    """Outcome of an effect; a failed one is answered where an answer exists."""
    effect = draft.state.effects.get(event.effect_id)
    if effect is None:
        return
    if effect.kind is EffectKind.GATHER_STACKS:
        return  # what was answered is soft state; who hangs is judged when all have answered, or have had time enough
    if effect.group:
        if not event.ok and event.node and event.node not in effect.nodes:
            _send_whole(draft, effect, f"node:{event.node}")
        return  # stays outstanding: the ranks themselves show when it was carried out
    if effect.kind is EffectKind.FENCE_HOSTS and not event.ok:
        return  # stays outstanding: at its deadline it is asked for again, under a new id
    if event.ok and not event.message and effect.kind not in CHECKS:
        draft.finished = effect.id
        return
    draft.write(r.EffectsFinished((effect.id,), event.ok, event.message[:500]))
    if effect.kind is EffectKind.RUN_CHECKS:
        checks_answered(draft, effect, ok=event.ok, message=event.message[:500])
    elif effect.kind is EffectKind.CHECK_PAIR:
        pair_answered(draft, effect, event)
    if event.ok:
        return
    if effect.kind is EffectKind.RAISE_CANARY:
        called_off(draft, effect.node, int(effect.items[0]), event.message[:500])
    elif effect.kind is EffectKind.START_HOSTS:
        for name in effect.items:
            fence_unstarted(draft, name)
    elif effect.kind is EffectKind.APPLY_GENERATION:
        _send_whole(draft, effect, effect.target)
    elif effect.kind is EffectKind.SAVE_NOW:
        unable(draft, effect.job, effect.generation, event.message[:500])


def _send_whole(draft: Draft, effect: Effect, target: str) -> None:
    """A node that could not apply a patch gets the whole rank table, once."""
    job = draft.state.jobs.get(effect.job)
    if job is None or job.generation != effect.generation or effect.full:
        return
    under_way = (EffectKind.APPLY_GENERATION, target, effect.job, effect.generation)
    others = draft.state.effects.values()
    if any((e.kind, e.target, e.job, e.generation) == under_way and e.id != effect.id for e in others):
        return
    draft.effect(
        EffectKind.APPLY_GENERATION, target, job=job.uid, generation=job.generation, full=True,
        timeout_ms=job.spec.timeouts.join_ms,
    )  # fmt: skip
