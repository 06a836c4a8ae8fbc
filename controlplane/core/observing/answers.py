"""Answers of agents to effects."""

from __future__ import annotations

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.observing.cells import fence_unstarted


def effect_done(draft: Draft, event: ev.EffectDone) -> None:
    """Outcome of an effect; a failed one is answered where an answer exists."""
    effect = draft.state.effects.get(event.effect_id)
    if effect is None:
        return
    if effect.kind is EffectKind.FENCE_HOSTS and not event.ok:
        return  # stays outstanding: at its deadline it is asked for again, under a new id
    draft.write(r.EffectsFinished((effect.id,), event.ok, event.message[:500]))
    if event.ok:
        return
    job = draft.state.jobs.get(effect.job)
    if effect.kind is EffectKind.START_HOSTS:
        for name in effect.items:
            fence_unstarted(draft, name)
    elif effect.kind is EffectKind.APPLY_GENERATION and job and job.generation == effect.generation and not effect.full:
        draft.effect(
            EffectKind.APPLY_GENERATION, effect.target, job=job.uid, generation=job.generation, full=True,
            timeout_ms=job.spec.timeouts.join_ms,
        )  # fmt: skip
