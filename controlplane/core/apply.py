"""Records into state: the only place where anything changes, the same in life and in replay. Decides nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from controlplane.core import records as r
from controlplane.core.applying.checkpoints import (
    checkpoint_state,
    cleared,
    committed,
    expired,
    numbers_suspected,
    pin,
    saving,
    scrub_started,
    shards,
    suspected,
    verified,
)
from controlplane.core.applying.fleet import (
    accelerators,
    controller_started,
    cordons,
    journal_restored,
    liveness,
    membership,
    node,
    node_registered,
    nodes_registered,
    note_act,
    retired,
)
from controlplane.core.applying.hangs import judged as hang_judged
from controlplane.core.applying.hangs import suspected as hang_suspected
from controlplane.core.applying.health import canary, health, stragglers
from controlplane.core.applying.hosts import (
    host_ended,
    hosts_forgotten,
    hosts_lost,
    hosts_observed,
    hosts_reached,
    hosts_requested,
    unbind,
)
from controlplane.core.applying.identity import identity
from controlplane.core.applying.jobs import (
    ended,
    moved,
    placed,
    replicas_dropped,
    reserve,
    set_job_state,
    submitted,
    unplaced,
)
from controlplane.core.applying.recovery import (
    decided,
    generation,
    join_failed,
    ranks_lost,
    reached,
    reblamed,
    rung_failed,
)
from controlplane.core.applying.validation import validation
from controlplane.core.audit import Head
from controlplane.core.checkpoints import Pin
from controlplane.core.columns import put
from controlplane.core.fleet import Cordon
from controlplane.core.health.shadow import Hit, with_cordon, with_hit
from controlplane.core.state import MAX_ANSWERS, Answered, Cell, State
from controlplane.core.vocabulary import (
    CheckpointState,
    NodeService,
)


def apply(state: State, record: r.Record, at_ns: int) -> None:
    """Change a working state as the record says. `at_ns`: the record's time, Unix nanoseconds.

    Raises:
        IllegalTransition: the record contradicts the transition tables (a defect).
    """
    state.advance_ledger(at_ns)
    state.revision += 1
    state.at_ns = at_ns
    _apply(state, record, at_ns)


def _apply(state: State, record: r.Record, at_ns: int) -> None:  # noqa: PLR0915 - one arm per record type
    match record:
        case r.ControllerStarted():
            controller_started(state, record)
        case r.NodeRegistered():
            node_registered(state, record)
        case r.NodesRegistered():
            nodes_registered(state, record)
        case r.NodeSessionChanged():
            fleet, number = node(state, record.node)
            fleet.session = put(fleet.session, number, record.open)
            if fleet.facts[number].boot_id != record.boot_id:  # else 6,250 rows would be copied for nothing
                fleet.set_facts(number, replace(fleet.facts[number], boot_id=record.boot_id))
        case r.LivenessChanged():
            liveness(state, record, at_ns)
        case r.AcceleratorsChanged():
            accelerators(state, record)
        case r.NodeCordoned():
            fleet, number = node(state, record.node)
            note_act(state, number, at_ns, drain=record.drain)
            kept = tuple(c for c in fleet.facts[number].cordons if c.owner != record.owner)
            cordons(state, fleet, number, (*kept, Cordon(record.owner, record.reason, record.items, record.drain)))
            state.shadows = with_cordon(state.shadows, record.node, record.owner, at_ns)
        case r.CanaryReleased() | r.CanaryEnded():
            canary(state, record, at_ns)
        case r.StragglersFound() | r.StragglersGone():
            stragglers(state, record, at_ns)
        case r.FaultShadowed():
            hit = Hit(record.node, record.entity, record.level, at_ns)
            state.shadows = with_hit(state.shadows, record.vendor, record.code, hit)
        case r.NodeUncordoned():
            fleet, number = node(state, record.node)
            kept = tuple(c for c in fleet.facts[number].cordons if c.owner != record.owner)
            cordons(state, fleet, number, kept)
        case r.NodeDrained():
            fleet, number = node(state, record.node)
            fleet.service = put(fleet.service, number, NodeService.OUT_OF_SERVICE)
        case r.NodeRetired():
            retired(state, record)
        case r.PolicyChanged():
            state.policy = record
        case r.CellSessionChanged():
            state.cells[record.cell] = Cell(
                record.cell, record.open, record.boot_id, record.incarnation, record.store_address
            )
        case r.CellMembershipChanged():
            membership(state, record, at_ns)
        case r.JobSubmitted():
            submitted(state, record, at_ns)
        case r.JobPlaced():
            placed(state, record)
        case r.JobUnplaced():
            unplaced(state, record)
        case r.RanksMoved():
            moved(state, record)
        case r.SparesChanged():
            job = state.own_job(record.job)
            reserve(state, job, record.nodes)
        case r.SparesWanted():
            job = state.own_job(record.job)
            job.spares_wanted, job.spares_reason = record.nodes, record.reason
            state.note_stock()
        case r.CheckpointIntervalSet():
            job = state.own_job(record.job)
            job.every_steps, job.interval_reason = record.every_steps, record.reason
        case r.JobStateChanged():
            job = state.own_job(record.job)
            if job.state is not record.state:
                set_job_state(job, record.state)
            job.blocker = record.blocker
        case r.HostsRequested():
            hosts_requested(state, record, at_ns)
        case r.HostsObserved():
            hosts_observed(state, record)
        case r.HostsReached():
            hosts_reached(state, record)
        case r.HostsLost():
            hosts_lost(state, record, at_ns)
        case r.HostEnded():
            host_ended(state, record, at_ns)
        case r.HostsForgotten():
            hosts_forgotten(state, record)
        case r.StartFailed():
            job = state.own_job(record.job)
            if record.serial >= job.failed_below:
                job.failed_starts += 1
                job.failed_below = job.next_host
            job.last_error = record.message
        case r.RanksLost():
            ranks_lost(state, record, at_ns)
        case r.RecoveryDecided():
            decided(state, record, at_ns)
        case r.NodeJudged():
            state.own_job(record.job)  # what follows from it has records of its own
        case r.SurvivorsGivenUp():
            job = state.own_job(record.job)
            unbind(job, list(record.ranks), [int(job.rank_host[rank]) for rank in record.ranks])
        case r.GenerationStarted():
            generation(state, record, at_ns)
        case r.GenerationReached():
            reached(state, record, at_ns)
        case r.JoinFailed():
            join_failed(state, record)
        case r.HangSuspected():
            hang_suspected(state, record, at_ns)
        case r.HangJudged():
            hang_judged(state, record)
        case r.RungFailed():
            rung_failed(state, record.job, record.rung, record.nodes)
        case r.ReplicasDropped():
            replicas_dropped(state, record)
        case r.ShardsReported():
            shards(state, record)
        case r.CheckpointCommitted():
            committed(state, record, at_ns)
        case r.CheckpointVerified():
            verified(state, record, at_ns)
        case r.ScrubStarted():
            scrub_started(state, record, at_ns)
        case r.SaveAsked() | r.SaveEnded() | r.SavesFailing() | r.SavesRecovered():
            saving(state, record, at_ns)
        case r.CheckpointPoisoned():
            checkpoint_state(state, record.job, record.checkpoint, CheckpointState.POISONED, record.reason)
        case r.CorruptionSuspected():
            suspected(state, record)
        case r.NumbersSuspected():
            numbers_suspected(state, record)
        case r.CorruptionCleared():
            cleared(state, record)
        case r.CheckpointPinned():
            pin(state, record, (Pin(record.owner, record.reason),))
        case r.CheckpointUnpinned():
            pin(state, record, ())
        case r.JournalRestored():
            journal_restored(state, record)
        case r.Audited():
            state.audit = Head(record.entry.number, record.entry.digest)
        case r.CheckpointsExpired():
            expired(state, record)
        case r.JobEnding():
            job = state.own_job(record.job)
            job.ending, job.end_reason, job.result = record.state, record.reason, record.result
            job.last_step = record.step
        case r.JobEnded():
            ended(state, record, at_ns)
            state.stragglers = state.stragglers.without(record.job)
        case r.EffectsIssued():
            for effect in record.effects:
                state.effects[effect.id] = effect
            state.next_effect += len(record.effects)
        case r.EffectsFinished():
            for effect_id in record.ids:
                state.effects.pop(effect_id, None)
        case r.TokenCreated() | r.TokenSpent() | r.CertificateIssued() | r.IdentityRevoked() | r.IdentityReinstated():
            state.identity = identity(state.identity, record, at_ns)
        case (
            r.DetectorDegraded() | r.DetectorRestored() | r.LinksReported() | r.FaultsReported() | r.FaultsJudged()
            | r.SourcesReported() | r.NodeQuarantined() | r.ActRefused() | r.ChecksStarted() | r.ChecksFailed()
            | r.TrialStarted() | r.TrialPassed() | r.NodeReleased()
        ):  # fmt: skip
            health(state, record, at_ns)
        case r.PairsAwaited() | r.ValidationStarted() | r.PairsStarted() | r.PairAnswered() | r.ValidationEnded():
            validation(state, record, at_ns)
        case r.IncidentReblamed():
            reblamed(state, record)
        case r.RequestAnswered():
            state.answers[record.request_id] = Answered(record.answer, record.command)
            while len(state.answers) > MAX_ANSWERS:
                state.answers.pop(next(iter(state.answers)))
        case _:
            assert_never(record)
