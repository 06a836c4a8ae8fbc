"""The machine attacked at random: jobs, failures of every kind, operators, restarts; the invariants after every turn.

When all faults stop and everything is repaired, every job must run, have ended, or name a blocker that is true.
`PHALANX_PROPERTY_EXAMPLES` sets the number of examples (default: what CI can afford); with it, examples are random.
`PHALANX_PROPERTY_SHRINK=1` makes a failing story short (minutes).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controlplane.core import events as ev
from controlplane.core.draft import Policy
from controlplane.core.health.suspicion import SuspicionPolicy
from controlplane.core.jobs import PEER_LOST_EXIT, Exit, Job
from controlplane.core.placement.gang import Blocked, place, refill_spares
from controlplane.core.spec import Budget, CheckpointPolicy, RestartPolicy, SparePolicy, Timeouts
from controlplane.core.state import State
from controlplane.core.vocabulary import JobState, NodeLiveness, RankState
from controlplane.engine.recover import load
from tests.support.world import World, spec

SHRINK = bool(os.environ.get("PHALANX_PROPERTY_SHRINK"))
EXAMPLES = int(os.environ.get("PHALANX_PROPERTY_EXAMPLES", "0"))
STEPS = 40
NODES = 5
QUIET_LIMIT_S = 240.0

POLICY = Policy(suspicion=SuspicionPolicy(dead_without_witness_s=30.0), effect_ms=15_000)
TIMEOUTS = Timeouts(start_ms=8_000, join_ms=6_000, stop_ms=2_000)
RESTARTS = RestartPolicy(user=Budget(3, 600_000, 50), infrastructure=Budget(60, 3_600_000))

small = st.integers(0, 7)
short = st.sampled_from([0.1, 0.3, 0.6, 1.0, 2.5, 4.0])
names = st.sampled_from(["ant", "bee", "cat"])


class Site(RuleBasedStateMachine):
    """Operators, faults and time against one small site."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(NODES, accelerators=2, racks=2, policy=POLICY)
        self.submitted = 0

    # -- helpers ----------------------------------------------------------------------------------------------------

    def node(self, pick: int) -> str:
        return sorted(self.world.nodes)[pick % NODES]

    def active(self, name: str) -> Job | None:
        job = self.world.state().job_named(name)
        return job if job and not job.terminal else None

    def with_job(self, name: str, act: Callable[[Job], object]) -> None:
        job = self.active(name)
        if job is not None and job.placed:
            act(job)

    # -- operators --------------------------------------------------------------------------------------------------

    @rule(
        name=names, ranks=st.integers(1, 5), width=st.integers(1, 2), warm=st.integers(0, 1), parked=st.integers(0, 1)
    )
    def submit(self, name: str, ranks: int, width: int, warm: int, parked: int) -> None:
        self.submitted += 1
        job = spec(
            name, ranks, accelerators_per_rank=width, spares=SparePolicy(warm, parked), timeouts=TIMEOUTS,
            restart_policy=RESTARTS, checkpoint=CheckpointPolicy(every_steps=5, keep=2),
        )  # fmt: skip
        self.world.submit(job, f"submit-{self.submitted}")

    @rule(name=names)
    def cancel(self, name: str) -> None:
        self.world.turn(ev.CancelJob("", name, ""))

    @rule(pick=small, on=st.booleans())
    def cordon(self, pick: int, on: bool) -> None:
        event = (
            ev.CordonNode("", self.node(pick), "operator", "look") if on else ev.UncordonNode("", self.node(pick), "")
        )
        self.world.turn(event)

    @rule(name=names)
    def verify(self, name: str) -> None:
        self.with_job(name, lambda job: [self.world.turn(ev.VerifyCheckpoint("", name, c)) for c in job.checkpoints])

    # -- time -------------------------------------------------------------------------------------------------------

    @rule(duration=short)
    def wait(self, duration: float) -> None:
        self.world.run(duration)

    @rule()
    def wait_until_calm(self) -> None:
        self.world.run(8.0, 0.2)

    # -- processes --------------------------------------------------------------------------------------------------

    @rule(name=names, ranks=st.sets(st.integers(0, 4), min_size=1, max_size=3), lingers=st.booleans())
    def kill(self, name: str, ranks: set[int], lingers: bool) -> None:
        self.with_job(
            name,
            lambda job: [
                self.world.kill_rank(job.uid, k, lingers=lingers) for k in sorted(ranks) if k < job.spec.ranks
            ],
        )

    @rule(name=names)
    def kill_all(self, name: str) -> None:
        self.with_job(name, lambda job: [self.world.kill_rank(job.uid, k) for k in range(job.spec.ranks)])

    @rule(name=names, rank=small, code=st.sampled_from([1, 1, 42, PEER_LOST_EXIT, 0]), lingers=st.booleans())
    def fail(self, name: str, rank: int, code: int, lingers: bool) -> None:
        exit_ = Exit(observed=True, code=code, message="Traceback\nValueError: boom", group_empty=not lingers)
        self.with_job(name, lambda job: self.world.end(job.uid, rank % job.spec.ranks, exit_))

    @rule(name=names, ranks=st.sets(st.integers(0, 4), max_size=2))
    def finish_some(self, name: str, ranks: set[int]) -> None:
        self.with_job(name, lambda job: self.world.finish(job.uid, [k for k in sorted(ranks) if k < job.spec.ranks]))

    @rule(name=names)
    def finish(self, name: str) -> None:
        self.with_job(name, lambda job: self.world.finish(job.uid))

    @rule(pick=small, index=small)
    def kill_parked(self, pick: int, index: int) -> None:
        node = self.world.nodes[self.node(pick)]
        idle = [p for p in node.processes.values() if p.exit is None and p.rank < 0]
        if idle:
            self.world._exit(node, idle[index % len(idle)], Exit(observed=True, signal=9, group_empty=True))

    @rule(name=names, rank=small)
    def hang(self, name: str, rank: int) -> None:
        def act(job: Job) -> None:
            _, process = self.world.process(job.uid, rank % job.spec.ranks)
            if process is not None:
                process.obeys = False

        self.with_job(name, act)

    @rule(name=names, on=st.booleans())
    def broken_code(self, name: str, on: bool) -> None:
        self.world.broken.pop(name, None)
        if on:
            self.world.broken[name] = "ImportError: no module named flash"

    # -- nodes ------------------------------------------------------------------------------------------------------

    @rule(pick=small)
    def destroy(self, pick: int) -> None:
        if self.world.nodes[self.node(pick)].up:
            self.world.destroy(self.node(pick))

    @rule(pick=small)
    def repair(self, pick: int) -> None:
        if not self.world.nodes[self.node(pick)].up:
            self.world.repair(self.node(pick))

    @rule(pick=small)
    def agent(self, pick: int) -> None:
        node = self.world.nodes[self.node(pick)]
        if node.up and node.agent:
            self.world.lose_agent(node.name)
        elif node.up:
            self.world.return_agent(node.name)

    @rule(pick=small)
    def path(self, pick: int) -> None:
        node = self.world.nodes[self.node(pick)]
        if node.up and node.agent:
            (self.world.thaw if node.frozen else self.world.freeze)(node.name)

    @rule(pick=small)
    def raylet(self, pick: int) -> None:
        node = self.world.nodes[self.node(pick)]
        if node.up:
            self.world.set_raylet(node.name, up=not node.raylet)

    @rule(pick=small, index=st.integers(0, 1), code=st.sampled_from(["XID-79", ""]))
    def accelerator(self, pick: int, index: int, code: str) -> None:
        if self.world.nodes[self.node(pick)].up:
            self.world.set_fault(self.node(pick), index, code)

    @rule(pick=small)
    def snapshot(self, pick: int) -> None:
        self.world.snapshot(self.node(pick))

    # -- cell and controller ----------------------------------------------------------------------------------------

    @rule()
    def cell(self) -> None:
        if self.world.cell_open:
            self.world.lose_cell()
        else:
            self.world.cell_hello()

    @rule(stall=st.sampled_from([0.2, 2.0, 20.0]))
    def restart_controller(self, stall: float) -> None:
        self.world.restart_controller(stall)

    @rule(stall=st.sampled_from([0.5, 5.0]))
    def stall(self, stall: float) -> None:
        self.world.stall_controller(stall)

    @rule(times=st.integers(1, 6))
    def disk_full(self, times: int) -> None:
        self.world.journal.fail_next(times)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    @rule(name=names, keep=st.integers(1, 5))
    def checkpoint(self, name: str, keep: int) -> None:
        def act(job: Job) -> None:
            if job.state is JobState.RUNNING and job.clock.running_ns:
                step = self.world.soft.progress(job.uid)[0]
                self.world.checkpoint(
                    job.uid, step, list(range(job.spec.ranks))[: keep if keep < 3 else job.spec.ranks]
                )

        self.with_job(name, act)

    @rule(name=names)
    def corrupt(self, name: str) -> None:
        self.with_job(name, lambda job: self.world.corrupt.update(list(job.checkpoints)[-1:]))

    # -- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def replay_agrees(self) -> None:
        assert load(self.world.journal).digest() == self.world.state().digest()

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

    def stop_faults(self) -> None:
        """Everything is repaired and told, nothing new happens."""
        world = self.world
        world.journal._failures.clear()
        world.engine.blocked = ""
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
            world.turn(ev.UncordonNode("", node.name, "operator"))
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
            if not job.blocker or not isinstance(place(fleet, job.spec), Blocked):
                found.append(f"L1: {job.uid} is queued and would fit ({job.blocker})")
        elif job.state is not JobState.RUNNING:
            found.append(f"L1: {job.uid} is {job.state.name}: {job.blocker}")
        else:
            rows = [job.hosts.row(int(serial)) for serial in job.rank_host]
            if any(row < 0 or job.hosts.state[row] not in (RankState.RUNNING, RankState.EXITED) for row in rows):
                found.append(f"L1: {job.uid} is RUNNING, its ranks are not: {job.hosts.state[rows]}")
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
