"""Cells of the coverage table that seeds hardly ever reach, or not within six hours: each is reached here, under every checker."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.core.draft import Policy, QuarantinePolicy
from controlplane.core.spec import (
    Budget,
    JobRule,
    JobSpec,
    Match,
    Parallel,
    RestartPolicy,
    RuleAction,
    SparePolicy,
    Workload,
)
from controlplane.core.vocabulary import TERMINAL, JobState
from controlplane.sim.faults.plan import FaultPlan
from controlplane.sim.scenario import PlannedJob, Scenario
from controlplane.sim.swarm.generate import generate
from controlplane.sim.swarm.run import run_scenario
from controlplane.sim.swarm.unreached import HARDLY
from controlplane.sim.topology import Topology
from controlplane.sim.world.timings import Timings
from tests.support.world import World, spec

NODE = "node-0005"
JOB = JobSpec("moe", Workload("m"), 4, parallel=Parallel(dp=4), spares=SparePolicy(warm_nodes=1))
SITE = Scenario(
    topology=Topology(racks_per_super_pod=2, nodes_per_rack=3, accelerators=2),
    jobs=(PlannedJob(JOB, at_s=10.0),),
    duration_s=1_200.0,
    settle_s=900.0,
    timings=Timings(park_s=20.0, rendezvous_s=30.0, step_s=15.0),
)
ILL = FaultPlan("node_code", NODE, at_s=100.0, duration_s=900.0, parameters=(("incurable", 1),))
CURED = replace(ILL, duration_s=30.0, parameters=())
RELEASE = FaultPlan("release", at_s=400.0)
THRIFTY = replace(JOB, restart_policy=RestartPolicy(user=Budget(1, 3_600_000, 50)))
SHORT_TRIALS = Policy(quarantine=QuarantinePolicy(trial_ms=600_000))

SCENARIOS: dict[str, Scenario] = {
    "job PLACING > CANCELLED": replace(SITE, faults=(FaultPlan("cancel", "moe", at_s=15.0),)),
    "job STARTING > CANCELLED": replace(SITE, faults=(FaultPlan("cancel", "moe", at_s=45.0),)),
    "job PLACING > FAILED": replace(
        SITE, jobs=(PlannedJob(THRIFTY, at_s=10.0),), faults=(FaultPlan("broken_start", "moe", at_s=1.0, duration_s=600.0),)
    ),
    "service QUARANTINED > IN_SERVICE": replace(SITE, faults=(ILL, RELEASE)),
    "service QUARANTINED > DRAINING": replace(
        SITE, faults=(ILL, FaultPlan("drain", NODE, at_s=300.0, duration_s=600.0), RELEASE)
    ),
    "service VALIDATING > IN_SERVICE": replace(
        SITE, faults=(FaultPlan("agent_deaf", NODE, at_s=90.0, duration_s=900.0), CURED, RELEASE)
    ),
    "service PROBATION > IN_SERVICE": replace(SITE, policy=SHORT_TRIALS, faults=(CURED,)),
}  # fmt: skip


@pytest.mark.parametrize("cell", SCENARIOS)
def test_it_is_reached_under_every_checker(cell: str) -> None:
    result = run_scenario(replace(SCENARIOS[cell], name=cell), 1)
    assert result.clean, result.text
    assert result.coverage.get(cell), sorted(result.coverage)


def test_every_cell_that_seeds_hardly_reach_is_played_here() -> None:
    assert set(HARDLY) == set(SCENARIOS)


def test_no_trial_of_a_seed_ends_within_it() -> None:
    for scenario in map(generate, range(1, 20)):
        assert scenario.policy.quarantine.trial_ms > 1_000 * (scenario.duration_s + scenario.settle_s)


@pytest.mark.parametrize("state", [JobState.STARTING, JobState.RUNNING])
def test_a_loss_is_decided_about_in_another_state(state: JobState) -> None:
    """Whatever the verdict is, also FAIL: by then the job is RECOVERING."""
    world = World(nodes=4)
    world.timings.rendezvous_s = 5.0
    hopeless = RestartPolicy(job_rules=(JobRule(Match(), RuleAction.FAIL),))
    world.submit(replace(spec("moe", 4), restart_policy=hopeless))
    world.run_until(lambda: world.job("moe").state is state)
    assert world.kill_rank("moe", 0)
    seen = [state]

    def ended() -> bool:
        now = world.job("moe").state
        seen.extend([now] if now is not seen[-1] else [])
        return now in TERMINAL

    world.run_until(ended)
    assert seen == [state, JobState.RECOVERING, JobState.FAILED]
