"""What would happen if part of a running site were lost: the real decisions on the site's own state, in virtual time.

The exported state goes through the real `engine.turn` and `core.Machine` under the site's own limits. Lost nodes fall silent
at once; everything else obeys. How long phases take is measured on the site's own finished recoveries where there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.export import Export
from controlplane.core.health.standstill import Stacks
from controlplane.core.health.stragglers import Standing, StragglerPolicy
from controlplane.core.jobs import NONE, Exit, Job, split_host_id
from controlplane.core.machine import Machine
from controlplane.core.ranges import Ranges, runs
from controlplane.core.recovery.restore_point import Copies
from controlplane.core.softstate import StepTimes
from controlplane.core.spec import Parallel
from controlplane.core.state import State
from controlplane.core.units import NS_PER_S, seconds
from controlplane.core.vocabulary import JobState, Phase, RankState
from controlplane.engine.turn import Engine, Request
from controlplane.sim.driving import Driver
from controlplane.sim.ettr import phases as phases_file
from controlplane.sim.kernel import Kernel
from controlplane.sim.prompt import PromptController
from controlplane.sim.tally_journal import TallyJournal

LIMIT_S = 900.0
"""Virtual time after which a plan ends, whatever is still open."""
MEMBERSHIP_S = 5.0
"""From a node's silence until the cell says that its raylet is gone."""
RECENT = 20
"""Finished recoveries whose phases are looked at."""


Told = Callable[[float, int, int], None]
"""How far a plan is: virtual seconds since the loss, jobs that are settled, jobs that lost ranks."""


def _untold(virtual_s: float, settled: int, touched: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds, and where they come from."""

    seconds: float
    source: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A job that loses ranks, and what the controller would do about it.

    `back_s`: seconds from the loss to the next step; None: not within the limit. `spares`: nodes that take ranks. `waits`:
    what a job waits for that does not come back.
    """

    job: str
    ranks: int
    rung: str
    reason: str
    tried: tuple[str, ...]
    moved: int
    spares: tuple[str, ...]
    state: str
    steps_lost: int
    restore_step: int
    detect_s: float | None
    decide_s: float | None
    back_s: float | None
    waits: str


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of the site afterwards: nodes that take work, and warm spares held for jobs."""

    nodes: int
    free_accelerators: int
    spares: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a plan. `untouched`: jobs without ranks on what is lost."""

    nodes: tuple[str, ...]
    accelerators: int
    jobs: tuple[Lost, ...]
    untouched: tuple[str, ...]
    remaining: Remaining
    durations: Mapping[str, Duration]

    @property
    def recovers(self) -> bool:
        """Whether every job that loses ranks makes steps again within the limit."""
        return all(job.back_s is not None for job in self.jobs)


class NothingLost(ValueError):
    """A selector names no node of the site; the message says what there is instead."""


def select(state: State, key: str, value: str) -> tuple[int, ...]:
    """Numbers of the nodes that `key=value` names: `node`, or any label that nodes carry (rack, switch, power, superpod).

    Raises:
        NothingLost: no node has it.
    """
    facts = state.fleet.facts
    if key == "node":
        number = state.fleet.number(value)
        found: tuple[int, ...] = () if number is None else (number,)
        known = [fact.name for fact in facts]
    else:
        found = tuple(number for number, fact in enumerate(facts) if fact.label(key) == value)
        known = sorted({label for fact in facts if (label := fact.label(key))})
    if found:
        return found
    if not known:
        keys = sorted({name for fact in facts for name, _ in fact.labels} | {"node"})
        raise NothingLost(f"no node has a label {key}; there are {', '.join(keys)}")
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    raise NothingLost(f"there is no {key} {value}; there are {', '.join(known[:8])}{more}")


_FALLBACK = {
    Phase.START: ("announce", "spare_ready.warm"),
    Phase.RENDEZVOUS: ("rebuild_communicators.affected_groups",),
    Phase.RESTORE: ("fetch_state.memory_peer",),
}


def measured(export: Export) -> dict[str, Duration]:
    """Durations of the phases that only ranks can show, by name: medians of the site's recent recoveries."""
    finished = [
        recovery
        for job in export.state.jobs.values()
        for recovery in job.recoveries[-RECENT:]
        if not recovery.overtaken
    ]
    table = phases_file.load()
    found = {"process": Duration(table["spare_ready.cold"], "published: a process from nothing to parked")}
    for phase, names in _FALLBACK.items():
        times = [recovery.phases_ns[phase] for recovery in finished if phase in recovery.phases_ns]
        if times:
            found[phase] = Duration(median(times) / NS_PER_S, f"median of {len(times)} recoveries of this site")
        else:
            found[phase] = Duration(sum(table[name] for name in names), "no recovery measured yet: " + ", ".join(names))
    steps = [known.step_time_s for known in export.progress.values() if known.step_time_s > 0]
    if steps:
        found[Phase.FIRST_STEP] = Duration(median(steps), "the step time of this site's jobs")
    else:
        found[Phase.FIRST_STEP] = Duration(0.0, "no job has told a step time")
    return found


class PlanSoft(PromptController):
    """Beats and steps of a site of which part fell silent at `lost_ns`; jobs on the rest go on."""

    def __init__(self, export: Export, kernel: Kernel, lost: Sequence[int]) -> None:
        super().__init__(export.at_ns - seconds(1.0))
        self._export, self._kernel = export, kernel
        self._lost = np.array(sorted(lost), dtype=np.int64)
        self.stopped: set[str] = set()

    def last_beat_ns(self, size: int) -> np.ndarray:
        """See `core.softstate.SoftState`."""
        beats = np.full(size, self._kernel.now_ns, dtype=np.int64)
        beats[self._lost[self._lost < size]] = self._export.at_ns
        return beats

    def progress(self, job_uid: str) -> tuple[int, int]:
        """See `core.softstate.SoftState`."""
        known = self._export.progress.get(job_uid)
        if known is None:
            return 0, 0
        return known.step, self._export.at_ns if job_uid in self.stopped else self._kernel.now_ns

    def step_time_ns(self, job_uid: str) -> int:
        """See `core.softstate.SoftState`."""
        known = self._export.progress.get(job_uid)
        return seconds(known.step_time_s) if known and known.step_time_s > 0 else 0

    def step_times(self, job_uid: str) -> StepTimes:
        """See `core.softstate.SoftState`. Nothing is learned: a hang takes the time that it takes without."""
        return StepTimes()

    def stacks(self, effect_id: str) -> Stacks:
        """See `core.softstate.SoftState`. Nobody is there to answer."""
        return Stacks.none()

    def copies(self, job_uid: str) -> Copies:
        """See `core.softstate.SoftState`. Nobody is there to ask: a plan counts on checkpoints of the journal only."""
        return Copies.none()

    def node_progress_ns(self, job_uid: str, node: int) -> int:
        """See `core.softstate.SoftState`."""
        return self.progress(job_uid)[1]

    def slow_ranks(self, job_uid: str, ranks: int, parallel: Parallel, policy: StragglerPolicy) -> Standing | None:
        """See `core.softstate.SoftState`. Nobody tells phase times here."""
        return None


@dataclass(slots=True)
class _Account:
    """What was decided about one job."""

    ranks: int
    step: int
    decided: r.RecoveryDecided | None = None
    moved: tuple[int, ...] = ()
    onto: tuple[int, ...] = ()
    detected_ns: int = 0
    decided_ns: int = 0
    restore_step: int = 0
    back_ns: int = 0


class _Site:
    """The exported site as it goes on without what was lost."""

    def __init__(
        self, export: Export, lost: frozenset[int], durations: Mapping[str, Duration], told: Told = _untold
    ) -> None:
        state, self.told = export.state, told
        self.export, self.lost, self.durations = export, lost, durations
        self.kernel = Kernel()
        self.kernel.now_ns = export.at_ns
        self.accounts: dict[str, _Account] = {}
        self.soft = PlanSoft(export, self.kernel, sorted(lost))
        self.engine = Engine(Machine(export.policy), TallyJournal(), self.soft, self._submitted, state)
        self.driver = Driver(self.kernel, self.engine, export.policy, lambda: self.turn(ev.Tick()))
        for job in state.active_jobs():
            hit = int(np.isin(job.rank_node, list(self.lost)).sum())
            if hit:
                step, _ = self.soft.progress(job.uid)
                self.accounts[job.uid] = _Account(hit, max(step, job.restore_step))
                self.soft.stopped.add(job.uid)

    def turn(self, *events: ev.Event) -> bool:
        """One real turn; True when it wrote anything."""
        result = self.engine.turn([Request(event) for event in events], self.kernel.now_ns)
        for record in result.records:
            self._read(record)
        if result.records:
            self.driver.stir()
        return bool(result.records)

    def _read(self, record: r.Record) -> None:
        account = self.accounts.get(getattr(record, "job", ""))
        if account is None:
            return
        match record:
            case r.RanksLost():
                account.detected_ns, account.back_ns = account.detected_ns or self.kernel.now_ns, 0
            case r.RecoveryDecided():
                account.decided, account.decided_ns = record, self.kernel.now_ns
            case r.RanksMoved():
                account.moved, account.onto = record.ranks, record.nodes
            case r.GenerationStarted():
                account.restore_step = record.restore_step
            case r.GenerationReached() if record.phase is Phase.FIRST_STEP:
                account.back_ns = self.kernel.now_ns
            case _:
                pass

    def drive(self) -> None:
        """Until every job that lost ranks makes steps, or nothing more can happen within the limit."""
        self.kernel.after(MEMBERSHIP_S, self._membership)
        driver = self.driver
        driver.stir()
        driver.run(self.export.at_ns + seconds(LIMIT_S), until=self._settled)

    def _settled(self) -> bool:
        """Every touched job runs again or has ended, and the lost nodes are known to be lost."""
        if self.kernel.now_ns <= self.export.at_ns + seconds(MEMBERSHIP_S):
            return False
        state = self.engine.state
        settled = sum(self._rests(state.jobs[uid], account) for uid, account in self.accounts.items())
        self.told((self.kernel.now_ns - self.export.at_ns) / NS_PER_S, settled, len(self.accounts))
        return settled == len(self.accounts)

    def _rests(self, job: Job, account: _Account) -> bool:
        return account.back_ns > 0 or job.terminal or job.state is JobState.SUSPENDED

    def _membership(self) -> None:
        """The cell says that the lost raylets are gone."""
        state = self.engine.state
        cell = state.cell()
        if cell is not None and cell.open:
            gone = tuple((state.fleet.name(node), False) for node in sorted(self.lost))
            self.turn(ev.CellReport(cell.name, cell.boot_id, nodes=gone))

    def _submitted(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self.kernel.after(0.0, partial(self._perform, effect))

    def _perform(self, effect: Effect) -> None:
        if effect.id not in self.engine.state.effects:
            return
        match effect.kind:
            case EffectKind.START_HOSTS:
                self.turn(ev.EffectDone(effect.id, ok=True, message=""))
                delay_s = self.durations["process"].seconds
                self.kernel.after(delay_s, lambda: self._parked(effect.job, effect.items))
            case EffectKind.APPLY_GENERATION:
                self._assemble(effect.job, effect.generation)
            case EffectKind.FENCE_HOSTS:
                self._fence(effect)
            case _:
                if not effect.node or self.engine.state.fleet.number(effect.node) not in self.lost:
                    self.turn(ev.EffectDone(effect.id, ok=True, message=""))

    def _fence(self, effect: Effect) -> None:
        fleet = self.engine.state.fleet
        number = fleet.number(effect.node)
        if number is None or number in self.lost:
            return
        exit_ = Exit(observed=True, signal=9, sender="agent", group_empty=True)
        rows = tuple(
            ev.HostRow(parts[0], parts[1], RankState.EXITED, NONE, 0, since_ns=self.kernel.now_ns, exit=exit_)
            for parts in map(split_host_id, effect.items)
            if parts is not None
        )
        report = ev.NodeReport(effect.node, fleet.facts[number].boot_id, hosts=rows)
        self.turn(report, ev.EffectDone(effect.id, ok=True, message=""))

    def _parked(self, uid: str, items: Sequence[str]) -> None:
        job = self.engine.state.jobs.get(uid)
        if job is None or job.terminal:
            return
        serials = np.array([parts[1] for parts in map(split_host_id, items) if parts], dtype=np.int32)
        rows = job.hosts.rows(serials)
        rows = rows[rows != NONE]
        there = ~np.isin(job.hosts.node[rows], list(self.lost))
        self._reached(job, RankState.PARKED, NONE, runs(job.hosts.serial[rows[there]]), generation=0)

    def _assemble(self, uid: str, generation: int) -> None:
        stages = (
            (self.durations[Phase.START].seconds, RankState.JOINING, 0),
            (self.durations[Phase.RENDEZVOUS].seconds, RankState.RESTORING, 1),
            (self.durations[Phase.RESTORE].seconds, RankState.RESTORING, 2),
            (self.durations[Phase.FIRST_STEP].seconds, RankState.RUNNING, 3),
        )
        delay_s = 0.0
        for duration_s, state, column in stages:
            delay_s += duration_s
            self.kernel.after(delay_s, self._stage(uid, generation, state, column))

    def _stage(self, uid: str, generation: int, state: RankState, column: int) -> Callable[[], None]:
        def reach() -> None:
            job = self.engine.state.jobs.get(uid)
            if job is None or job.terminal or job.generation != generation:
                return
            if not np.isin(job.rank_node, list(self.lost)).any():
                self._reached(job, state, column, ((1, job.next_host),), generation=generation)

        return reach

    def _reached(self, job: Job, state: RankState, column: int, serials: Ranges, *, generation: int) -> None:
        if serials:
            self.turn(ev.HostsReached("plan", job.uid, generation, state, serials, self.kernel.now_ns, column))


def _lost(site: _Site, uid: str, account: _Account) -> Lost:
    job, fleet = site.engine.state.jobs[uid], site.engine.state.fleet
    begun_ns, decided = site.export.at_ns, account.decided

    def since(moment_ns: int) -> float | None:
        return (moment_ns - begun_ns) / NS_PER_S if moment_ns else None

    comes_back = account.back_ns > 0
    return Lost(
        job=job.name,
        ranks=account.ranks,
        rung=str(decided.rung) if decided else "",
        reason=decided.reason if decided else "",
        tried=decided.tried if decided else (),
        moved=len(account.moved),
        spares=tuple(sorted({fleet.name(node) for node in account.onto})),
        state=job.state.name,
        steps_lost=max(0, account.step - account.restore_step) if account.back_ns else 0,
        restore_step=account.restore_step,
        detect_s=since(account.detected_ns),
        decide_s=since(account.decided_ns),
        back_s=since(account.back_ns) if comes_back else None,
        waits="" if comes_back else job.end_reason or job.blocker,
    )


def plan(export: Export, lost: Sequence[int], told: Told = _untold) -> Verdict:
    """What losing these nodes, all at once and without a word, would lead to. `told` hears how far it is."""
    fleet = export.state.fleet
    durations = measured(export)
    site = _Site(export, frozenset(lost), durations, told)
    site.drive()
    after = site.engine.state
    free = after.fleet.schedulable()[:, None] & after.fleet.usable_accelerators() & (after.fleet.acc_owner < 0)
    jobs = after.active_jobs()
    return Verdict(
        nodes=tuple(fleet.name(node) for node in sorted(lost)),
        accelerators=int(np.count_nonzero(fleet.acc_state[sorted(lost)])),
        jobs=tuple(_lost(site, uid, account) for uid, account in site.accounts.items()),
        untouched=tuple(job.name for job in export.state.active_jobs() if job.uid not in site.accounts),
        remaining=Remaining(
            int(np.count_nonzero(after.fleet.schedulable())),
            int(np.count_nonzero(free)),
            {job.name: len(job.spare_nodes) for job in jobs},
        ),
        durations=durations,
    )
