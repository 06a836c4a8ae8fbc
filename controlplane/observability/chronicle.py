"""One log line per decision, with its reason; what happens thousands of times without a decision has none.

Whoever only has the log can follow a recovery: the keys are those of every other line (job, uid, node, generation), and
`revision` leads to the journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from controlplane.core import records as r
from controlplane.core.health.canaries import Outcome
from controlplane.core.jobs import Job, Recovery
from controlplane.core.ranges import expand
from controlplane.core.state import State
from controlplane.core.units import to_s
from controlplane.core.vocabulary import NodeLiveness, Phase

SHOWN = 16
"""Nodes or ranks that are named in a line before it only says how many."""

SILENT: frozenset[str] = frozenset(
    kind.__name__
    for kind in (
        # bookkeeping
        r.EffectsIssued, r.EffectsFinished, r.RequestAnswered, r.HostsRequested, r.HostsObserved, r.HostsReached,
        r.HostsForgotten, r.ShardsReported, r.CheckpointVerified, r.CheckpointsExpired, r.SurvivorsGivenUp,
        # told by another line: the controller's start, sessions by the edge, ends by `ranks_lost` and `job_ended`, moves by
        # `recovery_decided` and `generation_started`, commands by `command_accepted`, certificates by the edge
        r.ControllerStarted, r.NodeSessionChanged, r.CellSessionChanged, r.HostEnded, r.HostsLost, r.JobPlaced, r.RanksMoved,
        r.SparesChanged, r.CheckpointPinned, r.CheckpointUnpinned, r.TokenCreated, r.TokenSpent, r.CertificateIssued,
        r.IdentityRevoked, r.IdentityReinstated,
    )
)  # fmt: skip
"""Types without a line. Every other one has one; `GenerationReached` only for the first step."""

log = structlog.get_logger(__name__)

Line = tuple[str, str, Mapping[str, Any]]
"""Level, event, fields."""


def tell(records: Iterable[r.Record], state: State) -> None:
    """Log the decisions among durable records."""
    for record in records:
        line = describe(record)
        if line is not None:
            level, event, fields = line
            uid, node = r.subject(record)
            job = state.jobs.get(uid)
            about: dict[str, Any] = {"revision": state.revision}
            if job:
                about |= {"job": job.name, "uid": uid, "generation": job.generation}
            if node:
                about["node"] = node
            getattr(log, level)(event, **{**about, **fields})


def tell_recovery(job: Job, recovery: Recovery) -> None:
    """Log the account of a recovery that ended, or that a further fault overtook."""
    phases = {str(phase): round(to_s(ns), 3) for phase, ns in recovery.phases_ns.items()}
    log.info(
        "recovery_overtaken" if recovery.overtaken else "recovery_finished",
        job=job.name,
        uid=job.uid,
        generation=recovery.generation,
        rung=recovery.rung,
        cause=recovery.cause,
        ranks=some(recovery.ranks),
        steps_lost=recovery.steps_lost,
        phases_s=phases,
        total_s=round(sum(phases.values()), 3),
    )


def describe(record: r.Record) -> Line | None:
    """Level, event and fields for a record; None for bookkeeping and for what other lines tell already."""
    match record:
        case r.LivenessChanged():
            level = "info" if record.liveness is NodeLiveness.ALIVE else "warning"
            fields = {"nodes": some(record.nodes), "liveness": record.liveness.name, "reason": record.reason}
            return level, "liveness_changed", {**fields, "evidence": some(record.evidence)}
        case r.NodeRegistered():
            return "info", "node_registered", {"version": record.version, "accelerators": len(record.accelerators)}
        case r.NodesRegistered():
            return "info", "nodes_registered", {"nodes": some([node.node for node in record.nodes])}
        case r.NodeCordoned():
            return "info", "node_cordoned", {"owner": record.owner, "reason": record.reason}
        case r.NodeUncordoned():
            return "info", "node_uncordoned", {"owner": record.owner}
        case r.JournalRestored():
            return "warning", "journal_restored", {"skipped": record.skipped}
        case r.NodeDrained():
            return "info", "node_drained", {}
        case r.NodeRetired():
            return "info", "node_retired", {"reason": record.reason}
        case r.PolicyChanged():
            return "info", "policy_changed", {"changes": some(record.changes), "fault_table": record.fault_table}
        case r.AcceleratorsChanged():
            faults = [f"{row.index}: {row.device.fault_code}" for row in record.rows if row.device.fault_code]
            level = "warning" if faults else "info"
            return (
                level,
                "accelerators_changed",
                {"positions": some(row.index for row in record.rows), "faults": some(faults)},
            )
        case r.Audited():
            entry = record.entry
            return "info", "command_accepted", {
                "number": entry.number, "caller": entry.actor, "role": entry.role, "peer": entry.peer, "action": entry.action,
                "subject": entry.subject, "request_id": entry.request_id,
            }  # fmt: skip
        case r.CellMembershipChanged():
            return "info", "cell_membership_changed", {
                "cell": record.cell, "joined": some(record.joined), "left": some(record.left),
            }  # fmt: skip
        case _:
            return _of_health(record) or _of_job(record)


def _of_health(record: r.Record) -> Line | None:
    """What is believed of hardware, and what was done about it."""
    match record:
        case r.DetectorDegraded():
            return "warning", "detection_degraded", {"reasons": some(record.reasons)}
        case r.DetectorRestored():
            return "info", "detection_restored", {"after_ms": record.after_ms}
        case r.FaultsReported() | r.FaultsJudged():
            faults = [f"{note.entity} {note.code}: {note.level.name}, {note.assertion.name}" for note in record.notes]
            event = "faults_reported" if isinstance(record, r.FaultsReported) else "faults_judged"
            return "warning", event, {"faults": some(faults)}
        case r.SourcesReported():
            broken = [f"{source.name}: {source.reason}" for source in record.unreadable]
            return "warning" if broken else "info", "sources_reported", {"unreadable": some(broken)}
        case r.LinksReported():
            return "warning" if record.broken else "info", "links_reported", {"broken": some(record.broken)}
        case r.NodeQuarantined():
            fields = {"reason": record.reason, "fault_level": record.level.name, "evidence": some(record.evidence)}
            return "warning", "node_quarantined", fields
        case r.ChecksStarted():
            return "info", "checks_started", {}
        case r.ChecksFailed():
            return "warning", "checks_failed", {"reason": record.reason}
        case r.PairsAwaited():
            return "info", "pairs_awaited", {"reason": record.reason}
        case r.ValidationStarted():
            return "info", "validation_started", {"waiting": some(record.waiting), "lent": some(record.lent)}
        case r.PairsStarted():
            return "info", "pairs_started", {"pairs": some(f"{one} and {other}" for one, other in record.pairs)}
        case r.PairAnswered():
            found = record.answer
            return "info", "pair_answered", {"peer": found.peer, "word": found.word.name, "reason": found.text}
        case r.ValidationEnded():
            fields = {"cleared": some(record.cleared), "suspects": some(record.suspects), "bad": some(record.convicted)}
            return "warning" if record.convicted else "info", "validation_ended", fields
        case r.TrialStarted():
            return "info", "trial_started", {"reason": record.reason}
        case r.TrialPassed():
            return "info", "trial_passed", {}
        case r.NodeReleased():
            return "info", "node_released", {"reason": record.reason}
        case r.CanaryReleased():
            return "info", "canary_released", {"canary": record.number}
        case r.CanaryEnded():
            return "warning" if record.outcome is Outcome.MISSED else "info", "canary_ended", {
                "canary": record.number, "outcome": record.outcome.value, "after_ms": record.after_ms, "reason": record.reason,
            }  # fmt: skip
        case r.StragglersFound():
            return (
                "warning",
                "stragglers_found",
                {"ranks": some(one.text for one in record.found), "nodes": some(record.nodes)},
            )
        case r.StragglersGone():
            return "info", "stragglers_gone", {"ranks": some(record.ranks), "reason": record.reason}
        case r.FaultShadowed():
            return "info", "fault_shadowed", {
                "vendor": record.vendor, "code": record.code, "entity": record.entity, "would_be": record.level.name,
            }  # fmt: skip
        case r.ActRefused():
            return "warning", "act_refused", {"act": record.act, "reason": record.reason}
        case r.IncidentReblamed():
            return "warning", "incident_reblamed", {
                "ranks": some(record.ranks), "ledger": record.blame.value, "reason": record.reason,
            }  # fmt: skip
        case _:
            return None


def _of_job(record: r.Record) -> Line | None:
    match record:
        case r.JobSubmitted():
            return "info", "job_submitted", {"ranks": record.spec.ranks}
        case r.JobStateChanged():
            return "info", "job_state_changed", {"state": record.state.name, "blocker": record.blocker}
        case r.JobUnplaced():
            return "info", "job_unplaced", {"reason": record.reason}
        case r.RanksLost():
            return "warning", "ranks_lost", {
                "ranks": some([lost.rank for lost in record.lost]), "cause": record.cause, "step": record.step,
                "evidence": some([lost.evidence for lost in record.lost]),
            }  # fmt: skip
        case r.RecoveryDecided():
            return "info", "recovery_decided", {
                "rung": record.rung.value, "reason": record.reason, "ranks": some(record.ranks),
                "ledger": record.blame.value, "charged": record.charged, "tried": record.tried, "rule": record.rule,
            }  # fmt: skip
        case r.NodeJudged():
            return (
                "info",
                "node_judged",
                {"rules": some(record.rules), "action": record.action, "reason": record.reason},
            )
        case r.HangSuspected():
            return "warning", "hang_suspected", {"limit_s": round(to_s(record.limit_ns), 1)}
        case r.HangJudged():
            return "warning", "hang_judged", {
                "verdict": record.verdict.value, "reason": record.reason, "ranks": some(record.ranks),
                "groups": some([f"{group.count} at {group.where}" for group in record.groups]),
            }  # fmt: skip
        case r.RungFailed():
            return "warning", "rung_failed", {"rung": record.rung.value, "reason": record.reason}
        case r.NumbersSuspected():
            return "error" if record.acted else "warning", "numbers_suspected", {
                "kind": record.kind.value, "first_step": record.first_step, "last_step": record.last_step,
                "reason": record.reason, "acted": record.acted, "skipped": record.skip is not None,
            }  # fmt: skip
        case r.ReplicasDropped():
            return "warning", "replicas_dropped", {"replicas": some(record.replicas)}
        case r.GenerationStarted():
            return "info", "generation_started", {
                "generation": record.generation, "changed_ranks": some(expand(record.changed_ranks).tolist()),
                "restore_id": record.restore_id, "restore_step": record.restore_step,
            }  # fmt: skip
        case r.GenerationReached():
            if record.phase is not Phase.FIRST_STEP:
                return None
            return "info", "generation_running", {"generation": record.generation}
        case r.JoinFailed():
            return "warning", "join_failed", {"generation": record.generation, "laggards": some(record.laggards)}
        case r.StartFailed():
            return "warning", "start_failed", {"host_id": f"{record.job}-{record.serial}", "reason": record.message}
        case r.CheckpointCommitted():
            return "info", "checkpoint_committed", {"checkpoint": record.checkpoint, "step": record.step}
        case r.CheckpointPoisoned():
            return "error", "checkpoint_poisoned", {"checkpoint": record.checkpoint, "reason": record.reason}
        case r.SparesWanted():
            return "info", "spares_wanted", {"nodes": record.nodes, "reason": record.reason}
        case r.CheckpointIntervalSet():
            return "info", "checkpoint_interval_set", {"every_steps": record.every_steps, "reason": record.reason}
        case r.SaveAsked():
            return "info", "save_asked", {"cause": record.cause, "restart": record.restart}
        case r.SaveEnded():
            return "info", "save_ended", {"step": record.step, "outcome": record.outcome, "dropped": record.dropped}
        case r.SavesFailing():
            return "warning", "saves_failing", {
                "step": record.step, "rank": record.rank, "how": record.word.value, "reason": record.reason,
            }  # fmt: skip
        case r.SavesRecovered():
            return "info", "saves_recovered", {"step": record.step}
        case r.ScrubStarted():
            return "info", "scrub_started", {"checkpoint": record.checkpoint}
        case r.CorruptionSuspected():
            return "error", "corruption_suspected", {"first_step": record.first_step, "reason": record.reason}
        case r.CorruptionCleared():
            return "info", "corruption_cleared", {"by": record.by, "reason": record.reason}
        case r.JobEnding():
            return "info", "job_ending", {"state": record.state.name, "reason": record.reason, "step": record.step}
        case r.JobEnded():
            return "info", "job_ended", {"state": record.state.name, "reason": record.reason}
        case _:
            return None


def some(items: Iterable[Any]) -> list[Any]:
    """The first few, and how many more."""
    found = list(items)
    return found if len(found) <= SHOWN else [*found[:SHOWN], f"and {len(found) - SHOWN} more"]
