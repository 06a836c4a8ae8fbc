"""Verdicts at length, for `why`: who decided, by which rule, from which budgets and evidence. Pure: journal entries in.

What one turn of the controller decides has one time: an operator's command, a verdict on a job and what it means for a
checkpoint are found together by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from phalanx.v1 import event_pb2

from controlplane.core import records as r
from controlplane.core.health.standstill import StackGroup
from controlplane.core.vocabulary import Phase
from controlplane.engine.ports import JournalEntry
from controlplane.rpc.codec import rfc3339

Pair = tuple[JournalEntry, r.Record]
Nodes = Mapping[tuple[str, int], int]
"""Node number by (job uid, serial of a process)."""
Tell = Callable[[Sequence[Pair], Nodes], list[event_pb2.Decision]]

INCIDENTS: tuple[type[object], ...] = (r.RanksLost, r.RecoveryDecided, r.GenerationReached)
"""What incidents are put together from."""
ON_CHECKPOINTS: tuple[type[object], ...] = (
    r.CheckpointPoisoned, r.CorruptionSuspected, r.CorruptionCleared, r.CheckpointsExpired, r.CheckpointVerified,
    r.GenerationStarted, r.RecoveryDecided, r.Audited,
)  # fmt: skip
"""What decides over checkpoints, and what it is decided by."""


def recovery(entry: JournalEntry, record: r.RecoveryDecided, of: str = "") -> event_pb2.Decision:
    """A verdict on a job. `of`: its name, where it is not the subject."""
    charge = f", charged to {record.blame}" if record.charged else ""
    return event_pb2.Decision(
        revision=entry.revision,
        at=rfc3339(entry.at_ns),
        verdict=f"{of and f'{of}: '}{record.rung}{charge}: {record.reason}",
        rule=record.rule,
        rules=record.rules,
        rungs=record.tried,
        budgets=record.budgets,
        evidence=record.evidence,
        evidence_ids=record.evidence_ids,
    )


def standstill(entry: JournalEntry, record: r.HangJudged) -> event_pb2.Decision:
    """A verdict on a gang that made no step, with where its ranks stood."""
    return event_pb2.Decision(
        revision=entry.revision,
        at=rfc3339(entry.at_ns),
        verdict=f"hang, {record.verdict.value}: {record.reason}",
        evidence=[_stood(group) for group in record.groups],
    )


def _stood(group: StackGroup) -> str:
    parts = [str(first) if count == 1 else f"{first}-{first + count - 1}" for first, count in group.ranks]
    named = sum(count for _, count in group.ranks)
    parts += [f"{group.count - named} more"] if named < group.count else []
    return f"rank{'s' * (group.count != 1)} {', '.join(parts)}: {group.where}"


def recoveries(about: Callable[[r.Record], bool], shown: int) -> Tell:
    """The newest verdicts on a job that are about something."""

    def tell(pairs: Sequence[Pair], nodes: Nodes) -> list[event_pb2.Decision]:
        told = [
            standstill(entry, one) if isinstance(one, r.HangJudged) else recovery(entry, one)
            for entry, one in pairs
            if isinstance(one, r.HangJudged | r.RecoveryDecided) and about(one)
        ]
        return told[-shown:]

    return tell


def on_node(number: int, shown: int) -> Tell:
    """The newest verdicts on incidents in which processes on a node were lost."""

    def tell(pairs: Sequence[Pair], nodes: Nodes) -> list[event_pb2.Decision]:
        found = list(_incidents(pairs, nodes, number))
        return [recovery(entry, record, of=record.job.rpartition("-")[0]) for entry, record in found[-shown:]]

    return tell


def _incidents(pairs: Iterable[Pair], nodes: Nodes, number: int) -> Iterator[tuple[JournalEntry, r.RecoveryDecided]]:
    """Verdicts of incidents that the node has a part in, from its first loss until the job makes steps again."""
    touched: set[str] = set()
    for entry, record in pairs:
        match record:
            case r.RanksLost():
                if any(nodes.get((record.job, lost.serial)) == number for lost in record.lost):
                    touched.add(record.job)
            case r.RecoveryDecided() if record.job in touched or (record.offence and record.offence.node == number):
                yield entry, record
            case r.GenerationReached() if record.phase is Phase.FIRST_STEP:
                touched.discard(record.job)
            case _:
                pass


def on_checkpoint(name: str, keep: int, shown: int) -> Tell:
    """The newest verdicts on a checkpoint. `keep`: how many its job keeps."""

    def tell(pairs: Sequence[Pair], nodes: Nodes) -> list[event_pb2.Decision]:
        found = [
            _on_checkpoint(entry, record, pairs, verdict, keep)
            for entry, record in pairs
            if (verdict := _verdict(record, name))
        ]
        return found[-shown:]

    return tell


def is_about(record: r.Record, name: str) -> bool:
    """Whether a record that tells of a job's checkpoints tells of this one."""
    match record:
        case r.Audited():
            return record.entry.subject == f"checkpoint/{name}"
        case r.GenerationStarted():
            return record.restore_id == name or bool(_passed_over(record, name))
        case r.CheckpointsExpired() | r.CorruptionSuspected() | r.CorruptionCleared():
            return bool(_verdict(record, name))
        case _:
            return getattr(record, "checkpoint", "") == name


def _verdict(record: r.Record, name: str) -> str:
    """What a record decides about a checkpoint, in a few words; "": nothing."""
    match record:
        case r.CheckpointPoisoned() if record.checkpoint == name:
            return f"POISONED: {record.reason}"
        case r.CorruptionSuspected() if _covered(record, name):
            return f"POISONED: results are in doubt from step {record.first_step} on: {record.reason}"
        case r.CorruptionCleared() if record.job == name.partition("/")[0]:
            return f"the doubt was cleared by {record.by}: {record.reason}"
        case r.CheckpointsExpired() if name in record.checkpoints:
            return "EXPIRED: retention let it go"
        case r.GenerationStarted() if record.restore_id == name:
            return f"restored: generation {record.generation} started from it"
        case r.GenerationStarted() if reason := _passed_over(record, name):
            return f"passed over by generation {record.generation}: {reason}"
        case _:
            return ""


def _written(name: str) -> tuple[int, int]:
    """(generation, step) of a checkpoint's name, as `checkpoints.checkpoint_id` makes it; -1 where it says none."""
    _, generation, step = (*name.split("/"), "", "")[:3]
    return tuple(
        int(text) if text.isdecimal() else -1 for text in (generation.removeprefix("g"), step.removeprefix("step-"))
    )  # type: ignore[return-value] # two


def _covered(record: r.CorruptionSuspected, name: str) -> bool:
    generation, step = _written(name)
    return record.job == name.partition("/")[0] and generation <= record.generation and step >= record.first_step


def _passed_over(record: r.GenerationStarted, name: str) -> str:
    """Why a generation did not restore a checkpoint's step, "" when it was not asked for."""
    mark = f"step {_written(name)[1]}: "
    return next((text for text in record.passed_over if text.startswith(mark)), "")


def _on_checkpoint(
    entry: JournalEntry, record: r.Record, pairs: Sequence[Pair], verdict: str, keep: int
) -> event_pb2.Decision:
    message = event_pb2.Decision(revision=entry.revision, at=rfc3339(entry.at_ns), verdict=verdict)
    if isinstance(record, r.CorruptionSuspected):
        message.evidence.extend(record.evidence)
    if isinstance(record, r.CheckpointsExpired):
        message.rule = f"retention keeps the newest {keep}, the newest that was read back, and those that are pinned"
        message.evidence.extend(_kept_instead(entry, record, pairs))
    else:
        _add_cause(message, entry, pairs)
    return message


def _add_cause(message: event_pb2.Decision, entry: JournalEntry, pairs: Sequence[Pair]) -> None:
    """What was decided in the same turn: an operator's command, or a verdict on the job with its rule."""
    for other, record in pairs:
        if other.at_ns != entry.at_ns:
            continue
        if isinstance(record, r.Audited):
            told = record.entry
            message.evidence.append(f"operator {told.actor.split('/', 3)[-1]} ({told.role.lower()}): {told.action}")
            message.evidence_ids.append(other.revision)
        elif isinstance(record, r.RecoveryDecided):
            message.rule = message.rule or record.rule
            message.rules.extend(record.rules)
            message.evidence.extend(text for text in record.evidence if text not in message.evidence)
            message.evidence_ids.extend(record.evidence_ids)


def _kept_instead(entry: JournalEntry, record: r.CheckpointsExpired, pairs: Sequence[Pair]) -> Iterator[str]:
    """The newest checkpoint that had been read back when others expired."""
    newest, at = "", 0
    for other, told in pairs:
        earlier = other.revision < entry.revision
        if earlier and isinstance(told, r.CheckpointVerified) and told.checkpoint not in record.checkpoints:
            newest, at = told.checkpoint, other.revision
    if newest:
        yield f"{newest} had been read back (revision {at})"
