"""One sentence for people per record, and which records are bookkeeping that nobody asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from controlplane.core import records as r
from controlplane.core.audit import AuditEntry
from controlplane.core.health.standstill import Verdict
from controlplane.core.jobs import NONE
from controlplane.core.observing.losses import describe_exit
from controlplane.core.ranges import Ranges, expand
from controlplane.core.recovery.restore_point import source
from controlplane.core.state import State
from controlplane.core.units import to_s
from controlplane.core.vocabulary import AcceleratorState, JobState, Rung, SaveWord
from controlplane.rpc.narrate_health import narrate_health, stragglers_text

SHOWN = 8
"""Names in a sentence before it says how many more there are."""

HIDDEN: frozenset[str] = frozenset(
    kind.__name__ for kind in (
        r.EffectsIssued, r.RequestAnswered, r.HostsObserved, r.HostsReached, r.HostsForgotten, r.ShardsReported,
    )
)  # fmt: skip
"""Bookkeeping: left out of listings. `EffectsFinished` is shown when something failed."""

VISIBLE: tuple[str, ...] = tuple(name for name in r.TYPES if name not in HIDDEN)


@dataclass(frozen=True, slots=True)
class Names:
    """Names for the numbers in records. `host_nodes`: node number by serial, by job uid, as far as known."""

    state: State
    host_nodes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    def node(self, number: int) -> str:
        """Name of a node number."""
        fleet = self.state.fleet
        return fleet.name(number) if 0 <= number < fleet.size else f"node number {number}"

    def nodes(self, numbers: Sequence[int]) -> str:
        """Names of node numbers, each once."""
        return listed([self.node(number) for number in sorted(set(numbers))])

    def job(self, uid: str) -> str:
        """Name of a job; of one that is no longer listed, from its uid."""
        job = self.state.jobs.get(uid)
        return job.name if job else uid.rpartition("-")[0] or uid

    def host_node(self, uid: str, serial: int) -> str:
        """ " on NODE" where a process runs or ran, "" when nobody knows."""
        number = self.host_nodes.get(uid, {}).get(serial)
        return f" on {self.node(number)}" if number is not None else ""


def shown(record: r.Record) -> bool:
    """Whether a listing shows the record."""
    if isinstance(record, r.EffectsFinished):
        return not record.ok and "superseded" not in record.message
    return type(record).__name__ not in HIDDEN


def listed(names: Sequence[object]) -> str:
    """A few names and how many more."""
    text = ", ".join(str(name) for name in names[:SHOWN])
    return text + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def ranks_text(ranks: Sequence[int]) -> str:
    """`rank 3` or `ranks 1, 2`."""
    return f"rank{'s' * (len(ranks) != 1)} {listed(sorted(ranks))}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"


def _numbered(serials: Ranges) -> str:
    """`processes 1-49600, 49604`."""
    runs = [str(first) if count == 1 else f"{first}-{first + count - 1}" for first, count in serials]
    return f"process{'es' * (runs != runs[:1] or '-' in runs[0])} {listed(runs)}"


def narrate(record: r.Record, names: Names) -> str:
    """The sentence. What a record says is past; names are those of the state at hand."""
    match record:
        case (
            r.ControllerStarted() | r.NodeRegistered() | r.NodesRegistered() | r.NodeSessionChanged() | r.LivenessChanged()
            | r.AcceleratorsChanged() | r.NodeCordoned() | r.NodeUncordoned() | r.CellSessionChanged()
            | r.CellMembershipChanged() | r.NodeDrained() | r.NodeRetired()
            | r.PolicyChanged()
        ):  # fmt: skip
            return _fleet(record)
        case (
            r.JobSubmitted() | r.JobPlaced() | r.RanksMoved() | r.SparesChanged() | r.JobStateChanged() | r.JobEnding()
            | r.SparesWanted() | r.CheckpointIntervalSet()
            | r.JobEnded() | r.GenerationStarted() | r.GenerationReached() | r.JoinFailed() | r.JobUnplaced()
        ):  # fmt: skip
            return _job(record, names)
        case (
            r.HostsRequested() | r.HostsObserved() | r.HostsReached() | r.HostsLost() | r.HostEnded() | r.HostsForgotten()
            | r.StartFailed() | r.RanksLost() | r.RecoveryDecided() | r.SurvivorsGivenUp() | r.NodeJudged()
            | r.RungFailed() | r.ReplicasDropped() | r.HangSuspected() | r.HangJudged()
            | r.NumbersSuspected()
        ):  # fmt: skip
            return _process(record, names)
        case (
            r.ShardsReported() | r.CheckpointCommitted() | r.CheckpointVerified() | r.CheckpointPoisoned()
            | r.CheckpointsExpired() | r.CheckpointPinned() | r.CheckpointUnpinned()
            | r.CorruptionSuspected() | r.CorruptionCleared()
            | r.SaveAsked() | r.SaveEnded() | r.SavesFailing() | r.SavesRecovered() | r.ScrubStarted()
        ):  # fmt: skip
            return _checkpoint(record, names)
        case r.StragglersFound() | r.StragglersGone():
            return f"{names.job(record.job)}: {stragglers_text(record)}"
        case r.EffectsIssued():
            return f"to do: {listed([f'{effect.kind} at {effect.target}' for effect in record.effects])}"
        case r.EffectsFinished():
            outcome = "done" if record.ok else "not answered in time" if record.expired else f"failed: {record.message}"
            return f"{_counted(len(record.ids), 'order')} to agents ({listed(record.ids)}): {outcome}"
        case r.JournalRestored():
            return "the journal was restored from a backup; every running job makes a new generation"
        case r.Audited():
            return _audited(record.entry)
        case r.RequestAnswered():
            return f"request {record.request_id} was answered"
        case r.TokenCreated() | r.TokenSpent() | r.CertificateIssued() | r.IdentityRevoked() | r.IdentityReinstated():
            return _identity(record)
        case (
            r.DetectorDegraded() | r.DetectorRestored() | r.LinksReported() | r.FaultsReported() | r.FaultsJudged()
            | r.SourcesReported() | r.NodeQuarantined() | r.ActRefused() | r.ChecksStarted() | r.ChecksFailed()
            | r.TrialStarted() | r.TrialPassed() | r.NodeReleased() | r.IncidentReblamed()
            | r.FaultShadowed() | r.PairsAwaited() | r.ValidationStarted() | r.PairsStarted() | r.PairAnswered()
            | r.ValidationEnded() | r.CanaryReleased() | r.CanaryEnded()
        ):  # fmt: skip
            return narrate_health(record)
        case _:
            assert_never(record)


Fleet = (
    r.ControllerStarted | r.NodeRegistered | r.NodesRegistered | r.NodeSessionChanged | r.LivenessChanged
    | r.AcceleratorsChanged | r.NodeCordoned | r.NodeUncordoned | r.CellSessionChanged | r.CellMembershipChanged | r.NodeDrained
    | r.NodeRetired | r.PolicyChanged
)  # fmt: skip


def _fleet(record: Fleet) -> str:
    match record:
        case r.ControllerStarted():
            return f"controller {record.version} took the lead with epoch {record.epoch}"
        case r.NodeRegistered():
            count = _counted(len(record.accelerators), "accelerator")
            return f"{record.node} registered with {count} at {record.address} (agent {record.version})"
        case r.NodesRegistered():
            return f"{_counted(len(record.nodes), 'node')} registered and connected: {listed([n.node for n in record.nodes])}"
        case r.NodeSessionChanged():
            return f"the agent of {record.node} " + (
                "connected" if record.open else f"lost its session: {record.reason}"
            )
        case r.LivenessChanged():
            return f"{listed(record.nodes)} {_are(len(record.nodes))} {record.liveness.name}: {record.reason}"
        case r.AcceleratorsChanged():
            parts = [
                f"accelerator {row.index} is {AcceleratorState(row.state).name}"
                + (f" ({row.device.fault_code})" if row.device.fault_code else "")
                for row in record.rows
            ]
            return f"on {record.node} {listed(parts)}"
        case r.NodeCordoned():
            return f"{record.owner} {'drains' if record.drain else 'cordoned'} {record.node}: {record.reason}"
        case r.NodeUncordoned():
            return f"{record.owner} removed its cordon from {record.node}"
        case r.NodeDrained():
            return f"{record.node} is drained: no process of a job is left there"
        case r.NodeRetired():
            return f"{record.node} was retired: {record.reason}"
        case r.PolicyChanged():
            return "the site's policy " + (f"changed: {listed(record.changes)}" if record.changes else "was noted")
        case r.CellSessionChanged():
            store = (
                f"; its rendezvous store is at {record.store_address}" if record.store_address else "; it has no store"
            )
            return f"cell {record.cell} " + (
                f"connected{store}" if record.open else f"lost its session: {record.reason}"
            )
        case r.CellMembershipChanged():
            joined = f"{listed(record.joined)} joined" if record.joined else ""
            left = f"{listed(record.left)} left" if record.left else ""
            return f"{' and '.join(part for part in (joined, left) if part)} cell {record.cell}"
        case _:
            assert_never(record)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


JobRecord = (
    r.JobSubmitted | r.JobPlaced | r.RanksMoved | r.SparesChanged | r.JobStateChanged | r.JobEnding | r.JobEnded
    | r.SparesWanted | r.CheckpointIntervalSet
    | r.GenerationStarted | r.GenerationReached | r.JoinFailed | r.JobUnplaced
)  # fmt: skip


def _job(record: JobRecord, names: Names) -> str:
    name = record.name if isinstance(record, r.JobSubmitted) else names.job(record.job)
    match record:
        case r.JobSubmitted():
            return f"{name} was submitted: {record.spec.ranks} ranks of {record.spec.workload.module}"
        case r.JobPlaced():
            spares = f", warm spares {names.nodes(record.spares)}" if record.spares else ""
            return f"{name} was placed on {names.nodes(record.nodes)}{spares}"
        case r.JobUnplaced():
            return f"{name} queues again: {record.reason}"
        case r.RanksMoved():
            return f"{ranks_text(record.ranks)} of {name} moved to {names.nodes(record.nodes)}"
        case r.SparesWanted():
            return f"{_counted(record.nodes, 'warm spare')} to be held for {name}: {record.reason}"
        case r.CheckpointIntervalSet():
            return f"{name} saves every {_counted(record.every_steps, 'step')} from its next generation on: {record.reason}"
        case r.SparesChanged():
            return f"warm spares of {name}: {names.nodes(record.nodes) or 'none'}"
        case r.JobStateChanged():
            return f"{name} is {record.state.name}" + (f": {record.blocker}" if record.blocker else "")
        case r.JobEnding():
            return f"{name} is ending as {record.state.name}: {record.reason}"
        case r.JobEnded():
            tail = "" if record.state is JobState.SUCCEEDED else f": {record.reason}"
            return f"{name} {record.state.name}{tail}"
        case r.GenerationStarted():
            tiers = [(entry.tier, entry.ranks) for entry in record.sources]
            kept = record.keeps_state
            origin = "what its ranks hold" if kept else source(record.restore_id, record.restore_step, tiers)
            small = f" with {_counted(record.participants, 'rank')}" if record.participants else ""
            ranks = expand(record.changed_ranks).tolist()
            changed = f", new processes for {ranks_text(ranks)}" if ranks else ""
            passed = "".join(f"; passed over {reason}" for reason in record.passed_over)
            start = f"{name} starts generation {record.generation}{small} from step {record.restore_step}"
            return f"{start} ({origin}{passed}){changed}"
        case r.GenerationReached():
            return f"all ranks of generation {record.generation} of {name} have passed {record.phase.value}"
        case r.JoinFailed():
            laggards = f": {ranks_text(record.laggards)} did not come" if record.laggards else ""
            return f"generation {record.generation} of {name} did not come to run in time{laggards}"
        case _:
            assert_never(record)


ProcessRecord = (
    r.HostsRequested | r.HostsObserved | r.HostsReached | r.HostsLost | r.HostEnded | r.HostsForgotten | r.StartFailed
    | r.RanksLost | r.RecoveryDecided | r.SurvivorsGivenUp | r.NodeJudged | r.RungFailed
    | r.ReplicasDropped | r.HangSuspected | r.HangJudged
    | r.NumbersSuspected
)  # fmt: skip


def _process(record: ProcessRecord, names: Names) -> str:
    name = names.job(record.job)
    match record:
        case r.HostsRequested():
            return f"{_counted(len(record.serials), 'process')} of {name} requested on {names.nodes(record.nodes)}"
        case r.HostsObserved():
            return f"{_counted(len(record.rows), 'process')} of {name} changed on {names.nodes(record.nodes)}"
        case r.HostsReached():
            return f"{record.state.name}, says {record.source}: {_numbered(record.serials)} of {name}"
        case r.HostsLost():
            return f"lost with their nodes: {_numbered(record.serials)} of {name}"
        case r.HostEnded():
            who = f"rank {record.rank} of {name}" if record.rank != NONE else f"process {record.serial} of {name}"
            where = names.host_node(record.job, record.serial)
            if record.exit.finished:
                return f"{who} finished{where}"
            if not record.exit.observed:
                return f"{who}{where} {describe_exit(record.exit)}"
            left = ", nothing of it is left" if record.rank == NONE and record.exit.group_empty else ""
            return f"{who} {describe_exit(record.exit)}{where}{left}"
        case r.HostsForgotten():
            return f"{_counted(len(record.serials), 'ended process')} of {name} put away"
        case r.StartFailed():
            where = names.host_node(record.job, record.serial)
            return f"process {record.serial} of {name}{where} ended before it held a rank: {_last_line(record.message)}"
        case r.RanksLost():
            if not record.lost:
                return f"{name} cannot go on: {record.cause}"
            lost = [entry.rank for entry in record.lost]
            return f"{name} lost {ranks_text(lost)} at step {record.step}: {record.cause}"
        case r.RecoveryDecided():
            charge = f", charged to {record.blame}" if record.charged else ""
            by = f" by {record.rule}" if record.rule.startswith("jobRules") else ""
            return f"recovery of {name}: {record.rung} ({_MEANS[record.rung]}){by}, because {record.reason}{charge}"
        case r.NodeJudged():
            done = f"{record.action} because {record.reason}" if record.action else "nothing is done"
            return f"the node rules of {name} judged {record.node}: {done}"
        case r.HangSuspected():
            asked = "its agents are asked where its ranks stand"
            return f"{name} has made no step for {to_s(record.limit_ns):.3g} s: {asked}"
        case r.HangJudged():
            return f"{_STANDSTILL[record.verdict].format(name)}: {record.reason}"
        case r.RungFailed():
            return f"the way back of {name} has failed: {record.reason}"
        case r.NumbersSuspected():
            left = f"; batches of steps {record.skip.first} to {record.skip.last} are left out" if record.skip else ""
            done = (
                f"steps from {record.first_step} on do not count{left}"
                if record.acted
                else "only noted: no rule asks for more"
            )
            return f"numbers of {name} are off: {record.reason} ({done})"
        case r.ReplicasDropped():
            return f"{name} goes on without {_counted(len(record.replicas), 'replica')} ({listed(record.replicas)})"
        case r.SurvivorsGivenUp():
            return f"{name} gives up {ranks_text(record.ranks)}: all processes start anew"
        case _:
            assert_never(record)


_STANDSTILL: Mapping[Verdict, str] = {
    Verdict.ODD: "ranks of {} hang",
    Verdict.STUCK: "{} hangs, and none of its ranks is to blame",
    Verdict.MOVING: "{} makes no step, but works",
    Verdict.UNCLEAR: "{} makes no step, and nobody can be blamed",
    Verdict.OVER: "{} is not looked at any more",
}

_MEANS: Mapping[Rung, str] = {
    Rung.RETRY_STEP: "every rank keeps its state and does the step again",
    Rung.ROLLBACK: "every rank keeps its process and restores",
    Rung.RESTART_RANK: "new processes in the same place, the others stay",
    Rung.REPLACE_RANK: "new processes in another place, the others stay",
    Rung.SHRINK: "the replicas for which there is no room leave, the others go on",
    Rung.GROW: "replicas come back",
    Rung.RESTART_JOB: "all processes anew",
    Rung.SUSPEND: "wait until there is room",
    Rung.FAIL: "no further try",
}

CheckpointRecord = (
    r.ShardsReported | r.CheckpointCommitted | r.CheckpointVerified | r.CheckpointPoisoned | r.CheckpointsExpired
    | r.CheckpointPinned | r.CheckpointUnpinned | r.CorruptionSuspected | r.CorruptionCleared
    | r.SaveAsked | r.SaveEnded | r.SavesFailing | r.SavesRecovered | r.ScrubStarted
)  # fmt: skip


def _checkpoint(record: CheckpointRecord, names: Names) -> str:
    name = names.job(record.job)
    match record:
        case r.ShardsReported():
            ranks = [shard.rank for shard in record.shards]
            return f"{ranks_text(ranks)} of {name} wrote {'its part' if len(ranks) == 1 else 'their parts'} of {record.checkpoint}"
        case r.CheckpointCommitted():
            return f"checkpoint of {name} at step {record.step} is complete"
        case r.CheckpointVerified():
            return f"checkpoint {record.checkpoint} of {name} was read back: every digest is right"
        case r.CheckpointPoisoned():
            return f"checkpoint {record.checkpoint} of {name} will not be restored: {record.reason}"
        case r.CheckpointPinned():
            return f"{record.owner} pinned checkpoint {record.checkpoint} of {name}: {record.reason}"
        case r.CheckpointUnpinned():
            return f"{record.owner} took its pin from checkpoint {record.checkpoint} of {name}"
        case r.CorruptionSuspected():
            return (
                f"results of {name} are suspect from step {record.first_step} on: {record.reason}; "
                "checkpoints written since are not restored until that is cleared"
            )
        case r.CorruptionCleared():
            return f"{record.by} cleared the suspicion against results of {name}: {record.reason}"
        case r.SaveAsked() | r.SaveEnded() | r.SavesFailing() | r.SavesRecovered():
            return _saving(record, name)
        case r.ScrubStarted():
            return f"{record.node} reads checkpoint {record.checkpoint} of {name} back again"
        case r.CheckpointsExpired():
            return f"{_counted(len(record.checkpoints), 'checkpoint')} of {name} expired: {listed(record.checkpoints)}"
        case _:
            assert_never(record)


def _saving(record: r.SaveAsked | r.SaveEnded | r.SavesFailing | r.SavesRecovered, name: str) -> str:
    match record:
        case r.SaveAsked():
            return f"{name} saves before it is stopped on purpose: {record.cause}"
        case r.SaveEnded():
            off = f"; the restart is off: {record.dropped}" if record.dropped else ""
            return f"{name}: {record.outcome}{'' if record.step != NONE else ', goes on'}{off}"
        case r.SavesFailing():
            how = "waits for the one before" if record.word is SaveWord.SLOW else "failed"
            return f"the save of {name} at step {record.step} {how}: rank {record.rank}: {record.reason}"
        case r.SavesRecovered():
            return f"{name} saves again: step {record.step} is complete"
        case _:
            assert_never(record)


IdentityRecord = r.TokenCreated | r.TokenSpent | r.CertificateIssued | r.IdentityRevoked | r.IdentityReinstated


def _identity(record: IdentityRecord) -> str:
    who = f"{record.kind}/{record.name}"
    match record:
        case r.TokenCreated():
            return f"a join token was made for {who}"
        case r.TokenSpent():
            return f"{who} joined with its token"
        case r.CertificateIssued():
            how = "made outside of a controller" if record.how == "outside" else f"issued ({record.how})"
            return f"certificate {record.serial[:8]} of {who} was {how}"
        case r.IdentityRevoked():
            return f"{who} was revoked: {record.reason}"
        case r.IdentityReinstated():
            return f"{who} was reinstated: it may get certificates again"
        case _:
            assert_never(record)


def _audited(link: AuditEntry) -> str:
    """Who gave what for what, and what it is since. Addresses and digests are in the audit list."""
    who = link.actor.split("/", 3)[-1] if link.actor.startswith("spiffe://") else link.actor
    after = json.loads(link.after or "{}")
    pairs = after.items() if isinstance(after, dict) else (("", after),)
    facts = ", ".join(f"{name} {_plain(value)}".strip() for name, value in pairs if value not in ("", None))
    return f"{who} ({link.role.lower()}) gave {link.action} for {link.subject}" + (f": {facts[:200]}" if facts else "")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "no output"
