"""A recovery as a trace: one root span from the fault to the first new step, one child for each phase that was reached.

Identifiers are hashes of what the recovery is (job uid, generation, moment of the fault), so that whoever builds the trace,
the controller as it happens or the CLI from the journal a week later, names the same trace and a collector stores it once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.core.jobs import Job, Recovery
from controlplane.core.recovery.restore_point import source
from controlplane.core.units import NS_PER_MS
from controlplane.core.vocabulary import Phase

ROOT = "recovery"
SCOPE = "phalanx.recovery"
MAX_RANKS = 64
"""Ranks that are listed; `phalanx.ranks.lost` has their number."""

Attribute = str | int | bool | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Account:
    """What is known of a recovery that has ended. `started_ns`: the fault, Unix ns; durations by phase in ns."""

    job: str
    uid: str
    generation: int
    rung: str
    cause: str
    ledger: str
    ranks: tuple[int, ...]
    steps_lost: int
    restore_step: int
    restore_source: str
    overtaken: bool
    started_ns: int
    phases_ns: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Identifiers in lower-case hex (8 bytes); `parent_id` "" at the root; times in Unix ns."""

    name: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, slots=True)
class Trace:
    """One recovery. `trace_id` in lower-case hex (16 bytes); the root is the first span."""

    trace_id: str
    spans: tuple[Span, ...]


def account_of(job: Job, recovery: Recovery) -> Account:
    """The account of a recovery in the state."""
    return Account(
        job=job.name,
        uid=job.uid,
        generation=recovery.generation,
        rung=recovery.rung,
        cause=recovery.cause,
        ledger=recovery.blame,
        ranks=recovery.ranks,
        steps_lost=recovery.steps_lost,
        restore_step=recovery.restore_step,
        restore_source=source(recovery.restore_id, recovery.restore_step, recovery.restored_from),
        overtaken=recovery.overtaken,
        started_ns=recovery.fault_ns,
        phases_ns=recovery.phases_ns,
    )


def trace_of(account: Account) -> Trace:
    """The trace of a recovery. The start is cut to milliseconds, which is what the API tells of it."""
    start_ns = account.started_ns - account.started_ns % NS_PER_MS
    identity = f"{account.uid}/{account.generation}/{start_ns // NS_PER_MS}"
    attributes = _attributes(account)
    root_id = _hash(identity, ROOT, length=16)
    spans = []
    end_ns = start_ns
    for phase in Phase:
        if phase not in account.phases_ns:
            continue
        begin_ns, end_ns = end_ns, end_ns + account.phases_ns[phase]
        spans.append(Span(phase.value, _hash(identity, phase, length=16), root_id, begin_ns, end_ns, attributes))
    root = Span(ROOT, root_id, "", start_ns, end_ns, attributes)
    return Trace(_hash(identity, "trace", length=32), (root, *spans))


def _attributes(account: Account) -> Mapping[str, Attribute]:
    return {
        "phalanx.job": account.job,
        "phalanx.job.uid": account.uid,
        "phalanx.generation": account.generation,
        "phalanx.rung": account.rung,
        "phalanx.cause": account.cause,
        "phalanx.ledger": account.ledger,
        "phalanx.ranks": account.ranks[:MAX_RANKS],
        "phalanx.ranks.lost": len(account.ranks),
        "phalanx.steps_lost": account.steps_lost,
        "phalanx.restore_step": account.restore_step,
        "phalanx.restore_source": account.restore_source,
        "phalanx.overtaken": account.overtaken,
    }


def _hash(identity: str, part: str, *, length: int) -> str:
    return hashlib.sha256(f"{identity}/{part}".encode()).hexdigest()[:length]
