"""The machine attacked at random: jobs, failures of every kind, operators, restarts; the invariants after every turn.

When all faults stop and everything is repaired, every job must run, have ended, or name a blocker that is true.
`PHALANX_PROPERTY_EXAMPLES` sets the number of examples (default: what CI can afford); with it, examples are random.
`PHALANX_PROPERTY_SHRINK=1` makes a failing story short (minutes).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.audit import verify
from controlplane.core.draft import Policy
from controlplane.core.health.budget import limit
from controlplane.core.health.suspicion import SuspicionPolicy
from controlplane.core.jobs import PEER_LOST_EXIT, Exit, Job
from controlplane.core.placement.gang import Blocked, place, refill_spares
from controlplane.core.placement.queue import must_yield_to
from controlplane.core.recovery.phase_times import LadderPolicy
from controlplane.core.spec import Budget, CheckpointPolicy, Elastic, RestartPolicy, SparePolicy, Timeouts
from controlplane.core.state import State
from controlplane.core.units import ms
from controlplane.core.vocabulary import JobState, NodeLiveness, RankState
from controlplane.engine.recover import load
from tests.support.world import World, spec

SHRINK = bool(os.environ.get("PHALANX_PROPERTY_SHRINK"))
EXAMPLES = int(os.environ.get("PHALANX_PROPERTY_EXAMPLES", "0"))
STEPS = 40
NODES = 5
QUIET_LIMIT_S = 240.0

POLICY = Policy(
    suspicion=SuspicionPolicy(dead_without_witness_s=30.0),
    effect_ms=15_000,
    ladder=LadderPolicy(grow_interval_ms=5_000, pause_patience_ms=12_000),
)
TIMEOUTS = Timeouts(start_ms=8_000, join_ms=6_000, stop_ms=2_000)
RESTARTS = RestartPolicy(user=Budget(3, 600_000, 50), infrastructure=Budget(60, 3_600_000), retry_step=True)

small = st.integers(0, 7)
short = st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0, 3.0, 5.0])
names = st.sampled_from(["ant", "ant", "bee", "cat"])
placed = precondition(lambda site: any(job.placed for job in site.world.state().active_jobs()))


class Site(RuleBasedStateMachine):
    """Operators, faults and time against one small site."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(NODES, accelerators=2, racks=2, policy=POLICY)
        self.submitted = 0

    # -- helpers ----------------------------------------------------------------------------------------------------

    def node(self, pick: int) -> str:
        return sorted(self.world.nodes)[pick % NODES]

    def with_job(self, pick: int, act: Callable[[Job], object], then_s: float) -> None:
        """Act on one of the placed jobs, then let time pass."""
        jobs = [job for job in self.world.state().active_jobs() if job.placed]
        act(jobs[pick % len(jobs)])
        self.world.run(then_s)

    @initialize(
        jobs=st.lists(
            st.tuples(*(st.integers(least, most) for least, most in ((1, 5), (1, 2), (0, 1), (0, 1), (0, 1)))),
            max_size=3,
        ),
        calm=st.sampled_from([0.0, 1.0, 5.0]),
    )
    def begin(self, jobs: list[tuple[int, ...]], calm: float) -> None:
        for name, numbers in zip(["ant", "bee", "cat"], jobs, strict=False):
            self.submit(name, *numbers)
        self.world.run(calm)

    # -- operators --------------------------------------------------------------------------------------------------

    @rule(
        name=names, ranks=st.integers(1, 5), width=st.integers(1, 2), warm=st.integers(0, 1), parked=st.integers(0, 1),
        least=st.integers(0, 1),
    )  # fmt: skip
    def submit(self, name: str, ranks: int, width: int, warm: int, parked: int, least: int = 0) -> None:  # noqa: PLR0917
        self.submitted += 1
        job = spec(
            name, ranks, accelerators_per_rank=width, spares=SparePolicy(warm, parked), timeouts=TIMEOUTS,
            restart_policy=RESTARTS, checkpoint=CheckpointPolicy(every_steps=5, keep=2), elastic=Elastic(least),
        )  # fmt: skip
        self.world.submit(job, f"submit-{self.submitted}")

    @placed
    @rule(job=small, grace=st.sampled_from([0, 1, 10_000]), then=short)
    def cancel(self, job: int, grace: int, then: float) -> None:
        self.with_job(job, lambda found: self.world.turn(ev.CancelJob("", found.name, "", grace)), then)

    @rule(pick=small, on=st.booleans(), then=short)
    def cordon(self, pick: int, on: bool, then: float) -> None:
        event = (
            ev.CordonNode("", self.node(pick), "operator", "look") if on else ev.UncordonNode("", self.node(pick), "")
        )
        self.world.turn(event)
        self.world.run(then)

    @rule(pick=small, on=st.booleans(), owner=st.sampled_from(["operator", "ann"]), then=short)
    def drain(self, pick: int, on: bool, owner: str, then: float) -> None:
        node = self.node(pick)
        self.world.turn(ev.DrainNode("", node, owner, "firmware") if on else ev.UncordonNode("", node, owner))
        self.world.run(then)

    @placed
    @rule(job=small, then=short)
    def restart_job(self, job: int, then: float) -> None:
        self.with_job(job, lambda found: self.world.turn(ev.RestartJob("", found.name, "")), then)

    @placed
    @rule(job=small, pick=small, owner=st.sampled_from(["ann", "ben"]), on=st.booleans())
    def pin(self, job: int, pick: int, owner: str, on: bool) -> None:
        def act(found: Job) -> None:
            names = list(found.checkpoints) or [""]
            name = names[pick % len(names)]
            pin, unpin = (
                ev.PinCheckpoint("", found.name, name, owner, "keep"),
                ev.UnpinCheckpoint("", found.name, name, owner),
            )
            self.world.turn(pin if on else unpin)

        self.with_job(job, act, 0.1)

    # -- time -------------------------------------------------------------------------------------------------------

    @rule(duration=short)
    def wait(self, duration: float) -> None:
        self.world.run(duration)

    @rule(duration=st.sampled_from([8.0, 40.0]))
    def wait_long(self, duration: float) -> None:
        self.world.run(duration, 0.4)

    # -- processes --------------------------------------------------------------------------------------------------

    @placed
    @rule(job=small, ranks=st.sets(st.integers(0, 4), min_size=1, max_size=3), lingers=st.booleans(), then=short)
    def kill(self, job: int, ranks: set[int], lingers: bool, then: float) -> None:
        def act(found: Job) -> None:
            for rank in sorted({rank % found.spec.ranks for rank in ranks}):
                self.world.kill_rank(found.uid, rank, lingers=lingers)

        self.with_job(job, act, then)

    @placed
    @rule(job=small, then=short)
    def kill_all(self, job: int, then: float) -> None:
        def act(found: Job) -> None:
            self.world.together(lambda: [self.world.kill_rank(found.uid, k) for k in range(found.spec.ranks)])

        self.with_job(job, act, then)

    @placed
    @rule(job=small, rank=small, code=st.sampled_from([1, 42, PEER_LOST_EXIT, 0]), lingers=st.booleans(), then=short)
    def fail(self, job: int, rank: int, code: int, lingers: bool, then: float) -> None:
        exit_ = Exit(observed=True, code=code, message="Traceback\nValueError: boom", group_empty=not lingers)
        self.with_job(job, lambda found: self.world.end(found.uid, rank % found.spec.ranks, exit_), then)

    @placed
    @rule(job=small, ranks=st.sets(st.integers(0, 4), min_size=1, max_size=3), then=short)
    def finish_some(self, job: int, ranks: set[int], then: float) -> None:
        self.with_job(
            job, lambda found: self.world.finish(found.uid, sorted({k % found.spec.ranks for k in ranks})), then
        )

    @placed
    @rule(job=small, then=short)
    def finish(self, job: int, then: float) -> None:
        self.with_job(job, lambda found: self.world.together(lambda: self.world.finish(found.uid)), then)

    @placed
    @rule(pick=small, index=small, then=short)
    def kill_parked(self, pick: int, index: int, then: float) -> None:
        idle = [
            (node, process)
            for node in self.world.nodes.values()
            for process in node.processes.values()
            if process.exit is None and process.rank < 0
        ]
        if idle:
            self.world.exit(*idle[(pick * 8 + index) % len(idle)], Exit(observed=True, signal=9, group_empty=True))
        self.world.run(then)

    @placed
    @rule(job=small, then=short)
    def flap(self, job: int, then: float) -> None:
        self.with_job(job, lambda found: self.world.gangs.flap(found.uid), then)

    @placed
    @rule(job=small, rank=small, then=short)
    def hang(self, job: int, rank: int, then: float) -> None:
        self.with_job(job, lambda found: self.world.hang(found.uid, rank % found.spec.ranks), then)

    @rule(name=names, on=st.booleans())
    def broken_code(self, name: str, on: bool) -> None:
        self.world.broken.pop(name, None)
        if on:
            self.world.broken[name] = "ImportError: no module named flash"

    @rule(name=names, lasts=st.sampled_from([2.0, 8.0, 20.0]))
    def jam(self, name: str, lasts: float) -> None:
        """No generation of the job comes together for a while."""
        self.world.jammed.add(name)
        self.world.run(lasts, 0.2)
        self.world.jammed.clear()

    # -- nodes ------------------------------------------------------------------------------------------------------

    @rule(pick=small, then=short)
    def destroy_or_repair(self, pick: int, then: float) -> None:
        node = self.world.nodes[self.node(pick)]
        if node.up:
            self.world.destroy(node.name)
        else:
            self.world.repair(node.name)
        self.world.run(then)

    @rule(pick=small, then=short)
    def agent(self, pick: int, then: float) -> None:
        node = self.world.nodes[self.node(pick)]
        if node.up and node.agent:
            self.world.lose_agent(node.name)
        elif node.up:
            self.world.return_agent(node.name)
        self.world.run(then)

    @rule(pick=small, then=short)
    def path(self, pick: int, then: float) -> None:
        node = self.world.nodes[self.node(pick)]
        if node.up and node.agent:
            (self.world.thaw if node.frozen else self.world.freeze)(node.name)
        self.world.run(then)

    @rule(pick=small, lasts=st.sampled_from([3.5, 6.0, 12.0]))
    def partition(self, pick: int, lasts: float) -> None:
        """Nothing of one node gets through, its raylet included, while its ranks go on; then all is whole again."""
        node = self.world.nodes[self.node(pick)]
        if node.up and node.agent and not node.frozen:
            self.world.freeze(node.name)
            self.world.set_raylet(node.name, up=False)
            self.world.run(lasts, 0.2)
            self.world.set_raylet(node.name, up=True)
            self.world.thaw(node.name)

    @rule(pick=small, then=short)
    def raylet(self, pick: int, then: float) -> None:
        node = self.world.nodes[self.node(pick)]
        if node.up:
            self.world.set_raylet(node.name, up=not node.raylet)
        self.world.run(then)

    @rule(pick=small, index=st.integers(0, 1), then=short)
    def accelerator(self, pick: int, index: int, then: float) -> None:
        node = self.world.nodes[self.node(pick)]
        if node.up:
            self.world.set_fault(node.name, index, "" if index in node.faults else "XID-79")
        self.world.run(then)

    @rule(pick=small)
    def snapshot(self, pick: int) -> None:
        self.world.snapshot(self.node(pick))

    # -- cell and controller ----------------------------------------------------------------------------------------

    @rule(then=short)
    def cell(self, then: float) -> None:
        if self.world.cell_open:
            self.world.lose_cell()
        else:
            self.world.cell_hello()
        self.world.run(then)

    @rule(stall=st.sampled_from([0.2, 2.0, 20.0]), then=short)
    def restart_controller(self, stall: float, then: float) -> None:
        self.world.restart_controller(stall)
        self.world.run(then)

    @rule(stall=st.sampled_from([0.5, 5.0]))
    def stall(self, stall: float) -> None:
        self.world.stall_controller(stall)

    @rule(times=st.integers(1, 6))
    def disk_full(self, times: int) -> None:
        self.world.journal.fail_next(times)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    @placed
    @rule(job=small, ranks=st.sampled_from([1, 2, 5, 5, 5]), then=short)
    def checkpoint(self, job: int, ranks: int, then: float) -> None:
        def act(found: Job) -> None:
            if found.state is JobState.RUNNING:
                step = self.world.soft.progress(found.uid)[0]
                self.world.checkpoint(found.uid, step, list(range(found.spec.ranks))[:ranks])

        self.with_job(job, act, then)

    @placed
    @rule(job=small, verify=st.booleans())
    def corrupt(self, job: int, verify: bool) -> None:
        def act(found: Job) -> None:
            newest = list(found.checkpoints)[-1:]
            self.world.corrupt.update(newest)
            for name in newest if verify else ():
                self.world.turn(ev.VerifyCheckpoint("", found.name, name))

        self.with_job(job, act, 0.1)

    # -- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def replay_agrees(self) -> None:
        assert load(self.world.journal).digest() == self.world.state().digest()

    @invariant()
    def budget_holds(self) -> None:
        """S9: no more working nodes are made to drain in a window than the budget allows."""
        state, budget = self.world.state(), POLICY.actions
        recent = [act for act in state.acts if act.at_ns > self.world.now_ns - ms(budget.window_ms)]
        assert len({act.node for act in recent}) <= limit(state.fleet, budget), "S9"

    def teardown(self) -> None:
        self.stop_faults()
        world = self.world
        try:
            world.run_until(lambda: not unrest(world), QUIET_LIMIT_S, tick_s=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}\nUNREST: " + "\n".join(unrest(world))) from None
        state = world.state()
        assert State.from_json(state.to_json()).digest() == state.digest()
        assert load(world.journal).digest() == state.digest()
        entries = world.journal.newest(100_000, types=("Audited",))
        links = [cast("r.Audited", r.decode(entry.type, entry.version, entry.body)).entry for entry in entries]
        assert verify(links, head=state.audit) is None

    def stop_faults(self) -> None:
        """Everything is repaired and told, nothing new happens."""
        world = self.world
        world.journal.heal()
        world.run(1.0)  # the engine finds out that it can write again; until then it refuses operators
        world.broken.clear()
        world.corrupt.clear()
        for node in world.nodes.values():
            if not node.up:
                world.repair(node.name)
            node.raylet = True
            for process in node.processes.values():
                process.obeys = process.obeys or process.generation > 0
            if node.frozen:
                world.thaw(node.name)
            if not node.agent:
                world.return_agent(node.name)
            for index in list(node.faults):
                world.set_fault(node.name, index, "")
            for owner in ("operator", "ann"):
                world.turn(ev.UncordonNode("", node.name, owner))
        world.cell_hello()
        world.cell_nodes()


def unrest(world: World) -> list[str]:
    """What is not yet as it should be on a site without faults; empty when all is well."""
    state = world.state()
    fleet = state.fleet
    found = [f"effect {e.id} {e.kind} to {e.target} is outstanding" for e in state.effects.values()]
    for number, facts in enumerate(fleet.facts):
        if fleet.liveness[number] != NodeLiveness.ALIVE:
            found.append(f"L2: {facts.name} is {NodeLiveness(int(fleet.liveness[number])).name}")
        elif not fleet.schedulable()[number]:
            found.append(f"L2: {facts.name} takes no work: {facts.cordons}")
    for job in state.active_jobs():
        if job.state is JobState.QUEUED:
            patience_ns = ms(POLICY.queue_patience_ms)
            behind = must_yield_to(job, state.active_jobs(), fleet, world.now_ns, patience_ns)
            fits = not isinstance(place(fleet, job.spec), Blocked)
            if not job.blocker or (fits and behind is None):
                found.append(f"L1: {job.uid} is queued and would fit ({job.blocker})")
        elif job.state is not JobState.RUNNING:
            found.append(f"L1: {job.uid} is {job.state.name}: {job.blocker}")
        else:
            rows = [job.hosts.row(int(serial)) for serial in job.rank_host[job.present]]
            if any(row < 0 or job.hosts.state[row] not in (RankState.RUNNING, RankState.EXITED) for row in rows):
                found.append(f"L1: {job.uid} is RUNNING, its ranks are not: {job.hosts.state[rows]}")
            if not job.whole and not job.blocker:
                found.append(f"L1: {job.uid} runs without some replicas and does not say what it waits for")
            if refill_spares(fleet, job) != job.spare_nodes:
                found.append(f"L3: {job.uid} holds spares {job.spare_nodes}, could hold {refill_spares(fleet, job)}")
    return found


Site.TestCase.settings = settings(
    max_examples=EXAMPLES or 60,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    derandomize=not EXAMPLES,
    phases=(Phase.generate, Phase.shrink) if SHRINK else (Phase.generate,),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestSite = pytest.mark.timeout(0)(Site.TestCase)
