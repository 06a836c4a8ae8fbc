"""A seed becomes a scenario: a random site, jobs, rules of restart, and faults of at least five kinds over six hours.

Everything is drawn from streams of the seed's own, so that a new kind of fault or another bound changes what seeds mean:
whoever changes that raises `SIM_VERSION`.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from controlplane.core.draft import Policy
from controlplane.core.health.budget import ActionBudget
from controlplane.core.spec import (
    Backoff,
    Budget,
    CheckpointPolicy,
    Elastic,
    JobSpec,
    Parallel,
    RestartPolicy,
    SparePolicy,
    Timeouts,
    Workload,
)
from controlplane.sim.faults import CATALOGUE
from controlplane.sim.faults.injector import RepairPlan
from controlplane.sim.faults.plan import Arrivals, FaultPlan
from controlplane.sim.kernel import stream_seed
from controlplane.sim.scenario import PlannedJob, Scenario
from controlplane.sim.swarm.rules import job_rules, node_rules
from controlplane.sim.topology import Topology
from controlplane.sim.world.timings import Timings

HOURS = 6.0
KINDS = (5, 9)
"""Fewest and most kinds of faults in a scenario."""

SITES = ((1, 4, 8), (1, 4, 8), (1, 5, 8), (1, 8, 4), (1, 9, 4), (2, 2, 8), (2, 4, 4), (2, 3, 6), (2, 4, 8))
"""Super-pods, racks in each, nodes in each: 32 to 64 nodes."""

MOST_RANKS = 24
"""Ranks of a job, where the site allows so few: a rank of several devices costs what a rank of one does."""

SAVE_EVERY_S = (300.0, 600.0, 1_800.0)
"""Time between two saves of a job while nothing goes wrong."""

RARE = frozenset(
    {
        "rack", "power", "superpod", "switch", "burst", "cell", "cell_agent", "clock_jump", "clock_drift", "lost_leadership",
        "spares_shortage", "spares_surplus", "cancel", "broken_start", "scattered_silence", "silent_corruption", "slow_fsync",
        "disk_full", "hang", "job_code",
    }
)  # fmt: skip
"""Kinds that strike once or twice in six hours; the others up to a dozen times."""

DRAWN: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "node": {"half_open": (0, 0, 1)},
    "device_code": {"incurable": (0, 0, 1)},
    "node_code": {"incurable": (0, 0, 1), "old_agent": (0, 0, 0, 1)},
    "process_kill": {"lingers": (0, 1)},
    "process_exit": {"code": (0, 1, 2, 42, 75, 16, 17, 137, 139)},
    "controller_stall": {"stall_s": (0.5, 2.0, 20.0, 200.0)},
    "clock_jump": {"forward_s": (0.0, 5.0, 3_600.0), "backward_s": (0.0, 5.0, 3_600.0)},
    "clock_drift": {"fast": (0.0, 0.001, 0.05), "slow": (0.0, 0.001, 0.05)},
    "slow_fsync": {"fsync_s": (0.05, 0.5, 3.0)},
    "uncertain_commit": {"kept": (0, 1)},
    "network_delay": {"delay_s": (0.05, 1.0, 5.0)},
    "network_reorder": {"jitter_s": (0.2, 1.0, 5.0)},
    "scattered_silence": {"share": (0.1, 0.3, 0.6, 1.0)},
    "silent_corruption": {"transient": (0, 1)},
    "spares_shortage": {"share": (0.3, 1.0)},
    "fail_slow": {"factor": (1.5, 5.0, 50.0)},
}
"""Parameters that are drawn; the others keep what their kind says."""

LENGTHS_S: tuple[float | None, ...] = (None, None, 2.0, 8.0, 40.0, 400.0)
"""How long a fault that has an end lasts; None: as long as its kind says."""


def generate(seed: int) -> Scenario:
    """The scenario of a seed."""

    def stream(name: str) -> Random:
        return Random(stream_seed(seed, f"swarm/{name}"))

    topology = _topology(stream("topology"))
    timings = _timings(stream("timings"))
    random = stream("site")
    return Scenario(
        name=f"seed-{seed}",
        topology=topology,
        jobs=_jobs(stream("jobs"), topology, timings),
        faults=_faults(stream("faults")),
        duration_s=HOURS * 3_600.0,
        settle_s=2_700.0,
        policy=Policy(
            actions=ActionBudget(share=random.choice([0.05, 0.1]), window_ms=random.choice([300_000, 900_000]))
        ),
        timings=timings,
        repairs=RepairPlan(scale=random.choice([0.002, 0.01, 0.03])),
        save_s=random.choice([2.0, 10.0, 60.0]),
    )


def _topology(random: Random) -> Topology:
    super_pods, racks, nodes = random.choice(SITES)
    return Topology(
        super_pods=super_pods,
        racks_per_super_pod=racks,
        nodes_per_rack=nodes,
        racks_per_switch=random.choice([0, 1, 2]),
        racks_per_feed=random.choice([0, 2, 4]),
        accelerators=random.choice([2, 4, 8]),
        nodes_per_relay=random.choice([0, 8, 16]),
    )


def _timings(random: Random) -> Timings:
    return Timings(
        park_s=random.choice([2.0, 20.0, 40.0]),
        rendezvous_s=random.choice([0.5, 5.0]),
        restore_s=random.choice([1.0, 10.0]),
        step_s=random.choice([2.0, 5.0, 15.0]),
        turn_s=random.choice([0.0, 0.005, 0.005, 0.05]),
    )


def _jobs(random: Random, topology: Topology, timings: Timings) -> tuple[PlannedJob, ...]:
    """Two to four jobs that together want from half of the site to a little more than all of it."""
    count = random.choice([2, 2, 3, 4])
    nodes = topology.super_pods * topology.racks_per_super_pod * topology.nodes_per_rack
    wanted = nodes * topology.accelerators * random.uniform(0.5, 1.05)
    shares = [random.uniform(0.5, 1.5) for _ in range(count)]
    jobs = []
    for number, share in enumerate(shares):
        devices = wanted * share / sum(shares)
        widths = [width for width in (1, 2, 4, 8) if width <= topology.accelerators and devices / width <= MOST_RANKS]
        width = random.choice(widths or [topology.accelerators])
        every = max(1, int(random.choice(SAVE_EVERY_S) / timings.step_s))
        jobs.append(_job(random, f"job-{number}", max(2, int(devices / width)), width, every))
    return tuple(
        PlannedJob(spec, random.choice([0.0, 0.0, 30.0, 1_800.0]), copies=random.random() < 0.3) for spec in jobs
    )


def _job(random: Random, name: str, ranks: int, width: int, every_steps: int) -> JobSpec:
    tensor = random.choice([1, 1, 2])
    replicas = max(1, ranks // tensor)
    experts = 2 if tensor == 2 and replicas % 2 == 0 else 1
    least = max(1, replicas // 2 // experts) * experts if random.random() < 0.4 else 0
    backoff = Backoff(random.choice([1_000, 5_000]), 2.0, 60_000)
    return JobSpec(
        name,
        Workload("training_jobs.moe.train"),
        replicas * tensor,
        accelerators_per_rank=width,
        parallel=Parallel(tp=tensor, dp=replicas, ep=experts),
        spares=SparePolicy(random.choice([0, 1, 2]), random.choice([0, 1])),
        checkpoint=CheckpointPolicy(
            every_steps=every_steps, keep=random.choice([1, 2, 3]), replicated=random.random() < 0.3
        ),
        restart_policy=RestartPolicy(
            collect_window_ms=random.choice([200, 2_000]),
            user=Budget(random.choice([3, 20]), 3_600_000, 50),
            infrastructure=Budget(random.choice([20, 1_000]), 24 * 3_600_000),
            backoff=backoff,
            job_rules=job_rules(random),
            node_rules=node_rules(random),
            retry_step=replicas % 2 == 0,
        ),
        timeouts=Timeouts(start_ms=120_000, join_ms=random.choice([30_000, 60_000]), stop_ms=10_000),
        priority=random.choice([0, 0, 1]),
        elastic=Elastic(least),
    )


def _faults(random: Random) -> tuple[FaultPlan, ...]:
    chosen = random.sample(sorted(CATALOGUE), random.randint(*KINDS))
    plans = [_fault(random, name) for name in chosen]
    if random.random() < 0.2:  # an operator's script that drains one node after the other
        plans += _storm(random, "drain", 3.0)
    if random.random() < 0.2:  # a new driver, with which one machine after the other says that it is not well
        plans += _storm(random, "node_code", random.choice([3.0, 20.0, 40.0]))
    return tuple(plans)


def _storm(random: Random, name: str, every_s: float) -> list[FaultPlan]:
    """Twenty faults of a kind, one after the other."""
    begin_s = random.uniform(600.0, HOURS * 3_600.0 - 1_800.0)
    return [FaultPlan(name, at_s=begin_s + every_s * number, duration_s=1_200.0) for number in range(20)]


def _fault(random: Random, name: str) -> FaultPlan:
    kind = CATALOGUE[name]
    strikes = random.uniform(1.0, 2.0) if name in RARE else random.uniform(2.0, 12.0)
    drawn = {key: random.choice(values) for key, values in DRAWN.get(name, {}).items()}
    return FaultPlan(
        name,
        per_day=strikes * 24.0 / HOURS,
        limit=30,
        duration_s=random.choice(LENGTHS_S) if kind.duration_s else None,
        arrivals=random.choice([Arrivals.POISSON, Arrivals.POISSON, Arrivals.STEPFUN]),
        parameters=tuple(sorted(drawn.items())),
    )
