"""Random histories of a small site: what can happen, one after the other, the same in every world that is told of it."""

from __future__ import annotations

import os
from collections.abc import Callable

from hypothesis import strategies as st

from controlplane.core import events as ev
from controlplane.core.draft import Policy
from controlplane.core.health.suspicion import SuspicionPolicy
from controlplane.core.jobs import Exit
from controlplane.core.recovery.phase_times import LadderPolicy
from controlplane.core.spec import Budget, CheckpointPolicy, Elastic, RestartPolicy, SparePolicy, Timeouts
from tests.support.world import World, spec

EXAMPLES = int(os.environ.get("PHALANX_PROPERTY_EXAMPLES", "0"))
NODES = 5
CALM_S = 70.0
POLICY = Policy(
    suspicion=SuspicionPolicy(dead_without_witness_s=30.0),
    effect_ms=15_000,
    queue_patience_ms=20_000,
    ladder=LadderPolicy(pause_patience_ms=9_000, grow_interval_ms=7_000),
)
TIMEOUTS = Timeouts(start_ms=8_000, join_ms=6_000, stop_ms=2_000)
RESTARTS = RestartPolicy(user=Budget(3, 60_000, 50), infrastructure=Budget(60, 3_600_000), retry_step=True)


Act = tuple[str, int, int, float]
KINDS = (
    "submit", "kill", "fail", "hang", "jam", "node", "agent", "path", "raylet", "device", "drain", "cordon", "cell",
    "restart", "stall", "save", "cancel", "broken", "flap", "wait",
)  # fmt: skip
acts = st.tuples(
    st.sampled_from(KINDS),
    st.integers(0, 7),
    st.integers(0, 7),
    st.sampled_from([0.1, 0.3, 1.0, 3.5, 12.0]),
)


def act(world: World, what: str, pick: int, other: int) -> None:
    """One thing that happens; picks that name nothing do nothing."""
    name = sorted(world.nodes)[pick % NODES]
    node = world.nodes[name]
    jobs = [job for job in world.state().active_jobs() if job.placed]
    job = jobs[pick % len(jobs)] if jobs else None
    rank = other % job.spec.ranks if job else 0

    def on(held: bool, first: Callable[[str], object], second: Callable[[str], object]) -> None:
        (first if held else second)(name)

    match what:
        case "submit":
            wanted = spec(
                "abc"[other % 3], 1 + pick % 5, spares=SparePolicy(pick % 2, other % 2), timeouts=TIMEOUTS,
                restart_policy=RESTARTS, checkpoint=CheckpointPolicy(every_steps=0),
                elastic=Elastic(other % 2),
            )  # fmt: skip
            world.turn(ev.SubmitJob("", wanted))
        case "flap" if job:
            world.gangs.flap(job.uid)
        case "kill" if job:
            world.kill_rank(job.uid, rank, lingers=other > 5)
        case "fail" if job:
            world.end(job.uid, rank, Exit(observed=True, code=1, message="boom", group_empty=True))
        case "hang" if job:
            world.hang(job.uid, rank)
        case "jam" if job:
            world.jammed ^= {job.name}
        case "broken" if job:
            world.broken[job.name] = "ImportError"
        case "node":
            on(node.up, world.destroy, world.repair)
        case "agent" if node.up:
            on(node.agent, world.lose_agent, world.return_agent)
        case "path" if node.up and node.agent:
            on(node.link.up, world.freeze, world.thaw)
        case "raylet" if node.up:
            world.set_raylet(name, up=not node.raylet)
        case "device" if node.up:
            world.set_fault(name, other % 2, "" if other % 2 in node.faults else "XID-79")
        case "drain":
            world.turn(ev.DrainNode("", name, "operator", "look") if other % 2 else ev.UncordonNode("", name, ""))
        case "cordon":
            world.turn(ev.CordonNode("", name, "ann", "look") if other % 2 else ev.UncordonNode("", name, "ann"))
        case "cell":
            world.lose_cell() if world.cell_open else world.cell_hello()
        case "restart":
            world.restart_controller(0.5 * (1 + other))
        case "stall":
            world.stall_controller(0.5 * (1 + other))
        case "save" if job and job.state.name == "RUNNING":
            world.checkpoint(job.uid, world.soft.progress(job.uid)[0])
        case "cancel" if job and other == 0:
            world.turn(ev.CancelJob("", job.name, ""))
        case _:
            pass


def first_difference(dense: list[str], due: list[str]) -> str:
    """The first record that one of them has and the other has not, or has later."""
    at = next((k for k, (a, b) in enumerate(zip(dense, due, strict=False)) if a != b), min(len(dense), len(due)))
    return "\n".join(["", *dense[max(0, at - 8) : at], "DENSE:", *dense[at : at + 3], "DUE:", *due[at : at + 3]])
