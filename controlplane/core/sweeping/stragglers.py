"""Stragglers are flagged and told; what follows for their devices is their fault's table's to say: shipped, nothing.

Only slow compute is ever held against a device. Data, garbage collection, checkpoints and routing are the workload's; uneven
stages and uneven sequences flag nobody (`health.stragglers`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.health.book import FaultNote
from controlplane.core.health.stragglers import CODE, MAX_FLAGS, VENDOR, Cause, Slow, Standing, Straggler
from controlplane.core.jobs import NONE, Job
from controlplane.core.observing.faults import act, judge
from controlplane.core.vocabulary import Assertion, HandlingLevel, JobState, Severity

ALIKE = {Cause.COMPUTE, Cause.ROUTING}
MAX_TEXT = 500
OUTLIERS = 8
"""At most one node in so many is held to be slow by itself; of more at once nobody's hardware is suspected."""


def stragglers(draft: Draft, job: Job) -> None:
    """Compare the ranks' own times, write down who has become a straggler and who is none any more.

    The flag of a rank that moves stays until it is judged at its new place: then either its work is slow, or its old place was.
    """
    if job.state is not JobState.RUNNING or job.incident is not None:
        return
    standing = draft.soft.slow_ranks(job.uid, job.spec.ranks, job.spec.parallel, draft.policy.stragglers)
    if standing is None:
        return
    known = {one.rank: one for one in draft.state.stragglers.of(job.uid)}
    slow = {one.rank for one in standing.slow}
    fast = [one for one in known.values() if one.rank not in slow and _judged(standing, one.rank)]
    moved = tuple(one.rank for one in fast if one.node != _place(draft, job, one.rank))
    back = tuple(one.rank for one in fast if one.rank not in moved)
    if moved:
        draft.write(r.StragglersGone(job.uid, moved, "they keep up with their peers where they run now"))
    if back:
        draft.write(r.StragglersGone(job.uid, back, "they keep up with their peers again"))
    found = _found(draft, job, standing.slow, known, MAX_FLAGS - len(known) + len(fast))
    if found:
        here = {**known, **{one.rank: one for one in found}}
        counts = Counter(one.node for rank, one in here.items() if rank not in (*moved, *back))
        several = tuple(sorted({one.node for one in found if counts[one.node] > 1}))
        draft.write(r.StragglersFound(job.uid, found, several))
        _suspect(draft, job, found, counts)


def _judged(standing: Standing, rank: int) -> bool:
    return rank < len(standing.known) and bool(standing.known[rank])


def _place(draft: Draft, job: Job, rank: int) -> str:
    """The node of a rank; "" when it has none."""
    number = int(job.rank_node[rank]) if rank < len(job.rank_node) else NONE
    return "" if number == NONE else draft.fleet.name(number)


def _found(
    draft: Draft, job: Job, slow: Iterable[Slow], known: dict[int, Straggler], room: int
) -> tuple[Straggler, ...]:
    """Ranks that are flagged from now on, for another cause, or at another place; compute and routing are told apart once."""
    found = []
    for one in slow:
        place, before = _place(draft, job, one.rank), known.get(one.rank)
        if one.share < draft.policy.stragglers.share or not place or (before is None and room <= 0):
            continue
        elsewhere = ""
        if before is not None:
            elsewhere = before.node if before.node != place else before.elsewhere
            if before.node == place and (before.cause is one.cause or {before.cause, one.cause} == ALIKE):
                continue
        room -= before is None
        devices = tuple(job.rank_acc[one.rank].tolist())
        found.append(Straggler(one.rank, place, devices, one.cause, one.factor, one.share, 0, elsewhere))
    return tuple(sorted(found, key=lambda one: one.rank))


def _suspect(draft: Draft, job: Job, found: Iterable[Straggler], counts: Counter[str]) -> None:
    """Slow compute as a fault of its node, one for each, unless too many nodes are slow at once."""
    if len(counts) > max(1, len(job.nodes()) // OUTLIERS):
        return
    texts: dict[str, list[str]] = {}
    for one in found:
        if one.cause is Cause.COMPUTE and not one.elsewhere:
            texts.setdefault(one.node, []).append(one.text)
    for node, said in texts.items():
        number = draft.fleet.index[node]
        message = f"{job.name}: {'; '.join(said)}"[:MAX_TEXT]
        note = FaultNote(
            "node", CODE, HandlingLevel.IGNORE, "", VENDOR, Severity.MINOR, Assertion.ONCE, 0, draft.now_ns, message
        )
        note = judge(draft, node, note, draft.fleet.facts[number].accelerators)
        if note.level is not HandlingLevel.IGNORE and CODE not in job.spec.muted_faults:
            draft.write(r.FaultsReported(node, (note,)))
            act(draft, node, number, (note,))
