"""One large synchronous job on a whole site, in columns: what the figures of effective training time are taken on.

Every decision comes from the real `core.Machine` through the real `engine.turn`. This module plays the rest: nodes that
fail and are repaired, agents that tell of it, ranks that stop together and meet again, spares that warm up. Quiet time
costs nothing: steps and beats are closed forms, and the machine is ticked only when `core.due` says that it could decide
something. Reports that are the same for many ranks are one `HostsReached`, as a relay would fold them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from controlplane.core import events as ev
from controlplane.core import invariants
from controlplane.core import records as r
from controlplane.core.draft import Policy, Refusal
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.jobs import NONE, Job, split_host_id
from controlplane.core.machine import Machine
from controlplane.core.ranges import Ranges, runs
from controlplane.core.spec import (
    HOUR_MS,
    UNLIMITED,
    Backoff,
    Budget,
    JobSpec,
    Parallel,
    RestartPolicy,
    SparePolicy,
    Timeouts,
    Workload,
)
from controlplane.core.state import State
from controlplane.core.units import NS_PER_S, seconds
from controlplane.core.vocabulary import RankState, Rung
from controlplane.engine.recover import assume
from controlplane.engine.turn import Engine, Request, TurnResult
from controlplane.sim.driving import Driver
from controlplane.sim.ettr.conduct import REPAIRED, Cause, Conduct, Survivors
from controlplane.sim.ettr.progress import Progress
from controlplane.sim.gang_agents import GangAgents
from controlplane.sim.gang_shape import Shape, Tally
from controlplane.sim.gang_soft import GangSoft
from controlplane.sim.kernel import Kernel
from controlplane.sim.tally_journal import TallyJournal

CELL = "cell-0"
FULL_CHECK = 1_000
"""Turns between two full checks of the invariants; what a turn touched is checked after every one."""
LINKS_S = 1.0
"""From a node's silence to the first broken links that others notice: a queue pair's retries."""
MARGIN_S = 60.0
"""Added to the longest phases for the job's time-outs."""


class InvariantBroken(AssertionError):
    """The real core, at size, broke an invariant: a defect; the message holds the violations and the seed."""


class Gang:
    """A site with one job. `now`, faults and the end of a run are the caller's; see `ettr.run`."""

    def __init__(self, shape: Shape, conduct: Conduct, *, seed: int = 0, policy: Policy | None = None) -> None:
        self.shape, self.conduct = shape, conduct
        self.kernel = Kernel(seed)
        self.journal = TallyJournal()
        self.policy = policy or Policy()
        self.tally = Tally()
        self.progress = Progress(conduct.saving)
        self.silent_ns = np.zeros(shape.size, dtype=np.int64)
        self.broken: dict[int, Cause] = {}
        self.away: set[int] = set()
        self.repair_s: Callable[[Cause], float] = lambda cause: 0.0
        self.repaired: Callable[[int], None] = lambda node: None
        self._agents = GangAgents(shape)
        self._attempt = 0
        self._witnesses: list[int] = []
        self._halted_ns = 0
        self._halted_by = Cause.PROCESS
        self._last_step = (0, 0)
        self._begun_ns = 0
        self._last_tick_ns = 0
        machine = Machine(self.policy)
        state = assume(self.journal, machine, State(), epoch=1, version="sim", now_ns=self.kernel.now_ns)
        self.engine = Engine(machine, self.journal, GangSoft(self), self._submitted, state)
        self.uid = ""
        self._driver = Driver(self.kernel, self.engine, self.policy, self._tick, self._stepping)

    # What is asked of it

    @property
    def job(self) -> Job:
        """The job as the controller knows it."""
        return self.engine.state.jobs[self.uid]

    def bring_up(self) -> None:
        """Register all nodes, submit the job, and wait until it makes steps. Time counts from there."""
        names = [self._agents.name(node) for node in range(self.shape.size)]
        self.turn(ev.NodesJoined(tuple(self._agents.hello(node) for node in range(self.shape.size))))
        self.turn(ev.CellHello(CELL, "1", "ray-1", "127.0.0.1:1", tuple((name, True) for name in names)))
        self.turn(ev.SubmitJob("submit", self._spec()))
        self.uid = next(iter(self.engine.state.jobs))
        self._driver.run(self.kernel.now_ns + seconds(self._longest_s() * 4), until=lambda: self.progress.running)
        if not self.progress.running:
            raise RuntimeError(f"the job did not start: {self.job.state.name}, {self.job.blocker}")
        self._begun_ns = self.kernel.now_ns

    def run(self, duration_s: float) -> None:
        """Let time pass from the start of the job on; call it once."""
        self._driver.run(self._begun_ns + seconds(duration_s))

    def after_start(self, delay_s: float, action: Callable[[], object]) -> None:
        """Plan something for a time after the start of the job."""
        self.kernel.at(self._begun_ns + seconds(delay_s), action)

    def productive_share(self) -> float:
        """Work that a failure now would leave, over the time since the job first ran."""
        elapsed_s = (self.kernel.now_ns - self._begun_ns) / NS_PER_S
        return self.progress.productive_s(self.kernel.now_ns) / elapsed_s if elapsed_s else 0.0

    def strike(self, nodes: Sequence[int], cause: Cause) -> None:
        """Nodes fail now, together."""
        fresh = [node for node in nodes if node not in self.broken and node not in self.away]
        if not fresh:
            self.tally.unmet += 1
            return
        self.tally.strikes[cause] = self.tally.strikes.get(cause, 0) + 1
        holds = set(self.job.nodes())
        self.broken.update(dict.fromkeys(fresh, cause))
        self._driver.stir()
        if holds & set(fresh) and cause is not Cause.FALSE_ALARM:
            self._halt(cause)
        evident_s = self.conduct.detect_s[cause] + self.conduct.decide_s
        if cause is Cause.SILENCE:  # the controller convicts by itself, a lease after the last beat that it heard
            early_s = max(0.0, evident_s - self.policy.suspicion.lease_s)
            self.silent_ns[fresh] = self.kernel.now_ns + seconds(early_s)
            self.kernel.after(early_s, self._driver.stir)
            self.kernel.after(min(LINKS_S, early_s), lambda: self._links_break(fresh))
            for node in fresh:
                self._leave(node, cause)
        else:
            self.kernel.after(evident_s, lambda: self._tell(fresh, cause))

    def strike_rank(self, rank: int, cause: Cause) -> None:
        """The node that holds a rank fails now; nothing happens while the rank has no place."""
        node = int(self.job.rank_node[rank])
        self.strike([node] if node != NONE else [], cause)

    # Turns and time

    def turn(self, *events: ev.Event) -> TurnResult:
        """One real turn, and the checks that belong to it."""
        before = self.engine.state
        refused: list[Refusal] = []
        requests = [Request(event, lambda a: refused.append(a) if isinstance(a, Refusal) else None) for event in events]
        result = self.engine.turn(requests, self.kernel.now_ns)
        if refused:
            raise RuntimeError(f"the controller refused what this world says: {refused[0].message}")
        self.tally.turns += 1
        if result.records:
            self._driver.stir()
            self._read(result)
            self._check(before, self.engine.state)
        return result

    def _stepping(self) -> tuple[str, ...]:
        return (self.uid,) if self.progress.running else ()

    def _check(self, before: State, after: State) -> None:
        found = invariants.check_turn(before, after)
        if self.tally.turns % FULL_CHECK == 0:
            found += invariants.check(after)
        if found:
            raise InvariantBroken("\n".join([f"seed {self.kernel.seed}, turn {self.tally.turns}", *found]))

    def _tick(self) -> bool:
        self.tally.ticks += 1
        return bool(self.turn(ev.Tick()).records)

    def _read(self, result: TurnResult) -> None:
        for record in result.records:
            if isinstance(record, r.RecoveryDecided):
                rung = str(record.rung)
                self.tally.rungs[rung] = self.tally.rungs.get(rung, 0) + 1

    # What nodes and ranks do

    def last_step(self) -> tuple[int, int]:
        """(newest finished step, when), also while the job stands."""
        return self.progress.step(self.kernel.now_ns) if self.progress.running else self._last_step

    def _halt(self, cause: Cause) -> None:
        self._attempt += 1
        if self.progress.running:
            self._last_step = self.progress.step(self.kernel.now_ns)
            self._halted_ns, self._halted_by = self.kernel.now_ns, cause
            self.tally.lost_steps += self.progress.halt(self.kernel.now_ns)

    def _tell(self, nodes: Sequence[int], cause: Cause) -> None:
        """The evidence of a failure reaches the controller."""
        here = [node for node in nodes if self.broken.get(node) is cause and node not in self.away]
        events: list[ev.Event] = []
        if cause is Cause.FALSE_ALARM and set(self.job.nodes()) & set(here):
            self._halt(cause)
        if cause in REPAIRED or cause is Cause.FALSE_ALARM:
            events += [self._agents.broken(node, cause) for node in here]
        else:
            events += [self._exits(node, self._bound(node)[:1] or self._coming(node)) for node in here]
        if self.conduct.survivors is Survivors.EXIT:
            events += [self._exits(node, self._bound(node)) for node in self.job.nodes() if node not in here]
        for node in here:
            if cause in REPAIRED or cause is Cause.FALSE_ALARM:
                self._leave(node, cause)
            else:
                self.broken.pop(node, None)
        told = [event for event in events if not isinstance(event, ev.NodeReport) or event.hosts or event.accelerators]
        if told:
            self.turn(*told)

    def _links_break(self, gone: Sequence[int]) -> None:
        """Two nodes that worked with the silent ones say that their links to them are broken."""
        names = tuple(self._agents.name(node) for node in gone)
        held = np.flatnonzero(self.job.per_node())
        peers = held[(self.silent_ns[held] == 0) & ~np.isin(held, list(self.broken))]
        self._witnesses = peers[:: max(1, len(peers) - 1)][:2].tolist()
        self.turn(*(self._agents.links(node, names) for node in self._witnesses))

    def _links_mend(self) -> None:
        """Nobody works with what is gone any more."""
        told = [node for node in self._witnesses if self.talks(node)]
        self._witnesses = []
        if told:
            self.turn(*(self._agents.links(node, ()) for node in told))

    def _leave(self, node: int, cause: Cause) -> None:
        self.away.add(node)
        self.kernel.after(self.repair_s(cause), partial(self._return, node, cause))

    def _return(self, node: int, cause: Cause) -> None:
        self.away.discard(node)
        self.broken.pop(node, None)
        self.silent_ns[node] = 0
        self._agents.boot(node)
        self.turn(self._agents.hello(node))
        if cause in REPAIRED:
            self.repaired(node)

    def _bound(self, node: int) -> list[int]:
        """Serials of the processes that hold ranks on a node."""
        hosts = self.job.hosts
        found: list[int] = hosts.serial[(hosts.node == node) & (hosts.rank != NONE) & hosts.live()].tolist()
        return found

    def _coming(self, node: int) -> list[int]:
        """Serials of the processes without a rank on a node."""
        hosts = self.job.hosts
        found: list[int] = hosts.serial[(hosts.node == node) & (hosts.rank == NONE) & hosts.live()].tolist()
        return found

    def _exits(self, node: int, serials: Sequence[int], sender: str = "") -> ev.NodeReport:
        return self._agents.exits(self.uid, node, self.kernel.now_ns, serials, sender)

    # What the controller asks for

    def _submitted(self, effects: Sequence[Effect]) -> None:
        self.kernel.after(0.0, partial(self._perform, tuple(effects)))

    def _perform(self, effects: Sequence[Effect]) -> None:
        """What one turn asked for is answered in one batch, as the edge drains its inbox."""
        answers: list[ev.Event] = []
        for effect in effects:
            if effect.id in self.engine.state.effects:
                answers += self._answers(effect)
        if answers:
            self.turn(*answers)

    def _answers(self, effect: Effect) -> list[ev.Event]:
        done = ev.EffectDone(effect.id, ok=True, message="")
        if effect.kind is EffectKind.APPLY_GENERATION:
            self._assemble(effect.generation)
            return []
        if effect.kind is EffectKind.START_HOSTS:
            serials = [split_host_id(item)[1] for item in effect.items]  # type: ignore[index] # ours
            self.kernel.after(self.conduct.start_s, lambda: self._parked(serials))
            return [done]
        node = self._agents.number(effect.node) if effect.node else NONE
        if node != NONE and not self.talks(node):
            return []
        if effect.kind is EffectKind.FENCE_HOSTS:
            parts = [split_host_id(item) for item in effect.items]
            return [
                self._agents.exits(
                    self.uid,
                    node,
                    self.kernel.now_ns,
                    [part[1] for part in parts if part and part[0] == self.uid],
                    "agent",
                ),
                done,
            ]
        return [done]

    def _parked(self, serials: Sequence[int]) -> None:
        """Processes that started on living nodes stand at the barrier."""
        if self.uid not in self.engine.state.jobs:
            return
        hosts = self.job.hosts
        rows = hosts.rows(np.array(serials, dtype=np.int32))
        rows = rows[rows != NONE]
        there = np.array([self.talks(int(node)) for node in hosts.node[rows]], dtype=np.bool_)
        ready = runs(hosts.serial[rows[there]]) if len(rows) else ()
        if ready:
            self._reached(RankState.PARKED, NONE, ready, generation=0)

    def _assemble(self, generation: int) -> None:
        """The ranks of a generation meet, step by step; a failure among them, or a newer generation, ends the try."""
        self._attempt += 1
        attempt, conduct = self._attempt, self.conduct
        if self.progress.running:
            self._last_step = self.progress.step(self.kernel.now_ns)
            self._halted_ns, self._halted_by = self.kernel.now_ns, Cause.FALSE_ALARM
            self.tally.lost_steps += self.progress.halt(self.kernel.now_ns)
        self.tally.generations += 1
        if self.job.restore_step != self.progress.kept:
            text = f"generation {generation} restores step {self.job.restore_step}, step {self.progress.kept} is held"
            raise InvariantBroken(f"seed {self.kernel.seed}: {text}")
        self._links_mend()
        groups_s = conduct.whole_s if self._whole() else conduct.affected_s
        stages: tuple[tuple[float, RankState, int], ...] = (
            (conduct.announce_s + conduct.join_s, RankState.JOINING, 0),
            (groups_s, RankState.RESTORING, 1),
            (conduct.fetch_s, RankState.RESTORING, 2),
        )
        self._stage(attempt, generation, stages)

    def _whole(self) -> bool:
        """Whether no rank of the present generation kept its process."""
        incident = self.job.incident
        return incident is None or incident.rung == Rung.RESTART_JOB

    def _stage(self, attempt: int, generation: int, stages: tuple[tuple[float, RankState, int], ...]) -> None:
        (delay_s, state, column), later = stages[0], stages[1:]

        def reach() -> None:
            if not self._on_the_way(attempt, generation):
                return
            self._reached(state, column, self._gang(), generation=generation)
            if later:
                self._stage(attempt, generation, later)
            else:
                self._resume(attempt, generation)

        self.kernel.after(delay_s, reach)

    def _on_the_way(self, attempt: int, generation: int) -> bool:
        if attempt != self._attempt or self.job.generation != generation:
            return False
        held = self.job.per_node()
        return not any(held[node] for node in self.broken if node < len(held))

    def _resume(self, attempt: int, generation: int) -> None:
        now = self.kernel.now_ns
        if self._halted_ns:
            down = (now - self._halted_ns) / NS_PER_S
            self.tally.down_s[self._halted_by] = self.tally.down_s.get(self._halted_by, 0.0) + down
        self.progress.start(now)

        def first_step() -> None:
            if self._on_the_way(attempt, generation):
                self._reached(RankState.RUNNING, 3, self._gang(), generation=generation)

        self.kernel.after(self.conduct.saving.step_s, first_step)

    def _gang(self) -> Ranges:
        """One run that holds every process of the generation; others in it are of none, and are passed over."""
        first, last = int(self.job.rank_host.min()), int(self.job.rank_host.max())
        return ((first, last - first + 1),)

    def _reached(self, state: RankState, column: int, serials: Ranges, *, generation: int) -> None:
        self.turn(ev.HostsReached("gang", self.uid, generation, state, serials, self.kernel.now_ns, column))

    def talks(self, node: int) -> bool:
        """Whether the node's agent can say and hear anything."""
        return int(self.silent_ns[node]) == 0

    def _longest_s(self) -> float:
        conduct = self.conduct
        detect = max(conduct.detect_s.values())
        phases = (conduct.start_s, conduct.whole_s, conduct.affected_s, conduct.join_s, conduct.fetch_s)
        return detect + sum(phases) + conduct.announce_s + MARGIN_S

    def _spec(self) -> JobSpec:
        ranks = self.shape.nodes * self.shape.ranks_per_node
        limit = int(self._longest_s() * 1_000)
        return JobSpec(
            "gang", Workload("simulated"), ranks,
            accelerators_per_rank=self.shape.accelerators // self.shape.ranks_per_node,
            parallel=Parallel(dp=ranks),
            spares=SparePolicy(self.conduct.warm_nodes, self.conduct.parked_per_node),
            restart_policy=RestartPolicy(
                user=Budget(UNLIMITED, HOUR_MS), infrastructure=Budget(UNLIMITED, HOUR_MS), backoff=Backoff(0)
            ),
            timeouts=Timeouts(start_ms=limit * 2, join_ms=limit),
        )  # fmt: skip
