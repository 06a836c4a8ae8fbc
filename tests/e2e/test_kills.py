"""Real processes, real signals; every story ends with the weights of the undisturbed run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from phalanx.v1 import checkpoint_pb2, types_pb2

from cli.commands.fault import Target, flip_byte
from tests.e2e.site import ENDED, RunningSite, poll

pytestmark = pytest.mark.e2e


def test_processes_of_ranks(site: RunningSite, reference: str) -> None:
    """The training process, its rank host, its actor, rank 0, and all ranks at once, in one training."""
    site.submit("kills")
    site.running("kills", step=25)

    before = site.warm("kills")
    survivors = {rank: pid for rank, pid in site.pids("kills").items() if rank != 2}
    site.kill("kills", 2)
    after = site.recovered("kills", before)
    assert {r.rank: r.pid for r in after.ranks if r.rank != 2} == survivors, "survivors keep their processes"
    assert after.recoveries[-1].rung == "RESTART_RANK"

    before = site.running("kills")
    site.kill("kills", 3, Target.HOST)
    after = site.recovered("kills", before)
    assert next(r.pid for r in after.ranks if r.rank == 3) != next(r.pid for r in before.ranks if r.rank == 3)

    before = site.running("kills")
    site.kill("kills", 1, Target.ACTOR)
    site.running("kills", step=site.job("kills").step + 5)
    assert site.job("kills").generation == before.generation, "a rank outlives its Ray actor"

    before = site.running("kills")
    site.kill("kills", 0)
    site.recovered("kills", before)

    before = site.running("kills")
    killed = set(site.pids("kills").values())
    for rank in range(4):
        site.kill("kills", rank)
    for _ in range(4):  # deaths that are heard of one after the other make several recoveries
        before = site.recovered("kills", before)
        left = killed & {rank.pid for rank in before.ranks}
        if not left:
            break
    assert not left, "all four were replaced"

    job = site.finished("kills")
    assert job.result["weights_sha256"] == reference
    assert all(recovery.steps_lost <= 1 for recovery in job.recoveries), "all that was lost is in memory somewhere"


def test_what_stands_by_is_refilled_after_each_of_several_recoveries(site: RunningSite) -> None:
    """Each of four kills is met by a process that stands by, and so many stand by again; then a drain takes the spare node's."""
    site.submit("refilled", "training_jobs.examples.counter", ranks=2, every=50, steps=100_000, step_floor_ms=20)
    whole = [1, 2]  # one beside the ranks, and on the spare node as many as there are ranks on this one
    before = site.standing_by("refilled", whole)
    for rank in (0, 1, 1, 0):
        parked = {host.pid for host in before.parked}
        site.kill("refilled", rank)
        before = site.recovered("refilled", before)
        assert next(one.pid for one in before.ranks if one.rank == rank) in parked, "it was met warm"
        before = site.standing_by("refilled", whole)
    assert before.generation == 5

    (node,) = {rank.node for rank in before.ranks}
    parked = {host.pid for host in before.parked if host.node != node}
    site.phalanx("drain", node, "--reason", "its spare takes over", "--yes")
    after = site.recovered("refilled", before)
    assert {rank.pid for rank in after.ranks} == parked
    after = site.standing_by("refilled", whole)
    assert node not in {host.node for host in after.parked}
    site.phalanx("uncordon", node)
    site.phalanx("cancel", "refilled", "--yes")
    poll(lambda: site.job("refilled").state in ENDED, "it has ended")


def test_processes_around_the_ranks(site: RunningSite, reference: str) -> None:
    """Raylet, node agent, cell agent, GCS and controller die; ranks go on, and are still recovered."""
    site.submit("around")
    job = site.running("around", step=10)
    node = job.ranks[0].node
    pids = site.pids("around")

    units = site.units()
    for unit in (f"raylet-{node}", f"agent-{node}", "cell-agent"):
        name = next(u for u in units if u == unit or u.endswith(unit) or _same(u, unit))
        before = units[name]["restarts"]
        site.kill_unit(name)
        site.unit_back(name, before)
        site.running("around", step=site.job("around").step + 3)
        assert site.pids("around") == pids, f"ranks live on without {name}"

    poll(lambda: site.nodes()[node].cell_member and site.nodes()[node].session_open, "the node is whole again")
    current = site.running("around")
    site.kill_unit("cell-agent" if "cell-agent" in units else next(u for u in units if "cell" in u))
    site.kill("around", 3)
    site.recovered("around", current)

    gcs = next(u for u in units if "gcs" in u)
    restarts = site.units()[gcs]["restarts"]
    current = site.running("around")
    site.kill_unit(gcs)
    site.unit_back(gcs, restarts)
    poll(lambda: all(n.cell_member for n in site.nodes().values()), "the cell is whole again", 90)
    assert site.job("around").generation == current.generation, "ranks outlive the GCS"

    job = site.finished("around")
    assert job.result["weights_sha256"] == reference


def _same(unit: str, wanted: str) -> bool:
    return set(unit.replace(":", "-").replace("/", "-").split("-")) == set(wanted.split("-"))


def test_the_controller(site: RunningSite, reference: str) -> None:
    """SIGKILL of the controller in the middle of a recovery; SIGSTOP for longer than the lease."""
    site.submit("brain")
    site.running("brain", step=25)
    before = site.running("brain")
    units = site.units()
    name = next(u for u in units if "controller" in u)
    site.kill("brain", 1)
    site.kill_unit(name)
    site.unit_back(name, units[name]["restarts"])
    after = site.recovered("brain", before)

    epoch = _epoch(site)
    pids = site.pids("brain")
    revision = max(e.revision for e in site.events())
    site.phalanx("inject", "stop-controller", "--seconds", "5")
    poll(lambda: site.job("brain").step > after.step, "steps go on", 90)
    poll(lambda: all(n.session_open for n in site.nodes().values()), "sessions are open", 90)
    assert site.pids("brain") == pids
    assert _epoch(site) == epoch
    alive = types_pb2.NODE_LIVENESS_ALIVE
    poll(lambda: all(node.liveness == alive for node in site.nodes().values()), "all nodes are ALIVE", 90)
    verdicts = [e for e in site.events() if e.type == "LivenessChanged" and e.revision > revision]
    assert not [e.message for e in verdicts if json.loads(e.body_json)["liveness"] == types_pb2.NODE_LIVENESS_DEAD]

    job = site.finished("brain")
    assert job.result["weights_sha256"] == reference


def _epoch(site: RunningSite) -> int:
    from phalanx.v1 import fleet_pb2

    epoch: int = site.client.fleet.GetSite(fleet_pb2.GetSiteRequest(), timeout=30).epoch
    return epoch


def test_a_damaged_checkpoint_and_a_second_failure(site: RunningSite, reference: str) -> None:
    """A flipped byte is found at restore and the one before is used; then a rank dies while others restore."""
    site.submit("damage", memory=0)  # else nobody would read it
    site.running("damage", step=25)
    before = site.running("damage")
    known = {c.id for c in site.checkpoints("damage")}
    readable = (types_pb2.CHECKPOINT_STATE_COMMITTED, types_pb2.CHECKPOINT_STATE_VERIFIED)

    def committed() -> list[checkpoint_pb2.Checkpoint]:
        found = [c for c in site.checkpoints("damage") if c.id not in known and c.state in readable]
        return sorted(found, key=lambda c: c.step)

    poll(committed, "a checkpoint that was just committed")
    os.kill(site.pids("damage")[2], signal.SIGSTOP)  # so that no newer one comes before it is killed
    newest = committed()[-1]
    flip_byte(Path(newest.folder))
    site.kill("damage", 2)
    site.recovered("damage", before)
    poisoned = poll(
        lambda: [e for e in site.events("damage") if e.type == "CheckpointPoisoned" and newest.id in e.body_json],
        f"{newest.id} is poisoned",
        90,
    )
    assert poisoned
    after = site.running("damage")
    assert after.recoveries[-1].restore_step < newest.step, "the one before was restored"

    before = site.running("damage")
    site.kill("damage", 0)
    poll(lambda: site.job("damage").generation > before.generation, "a new generation")
    pid = next(r.pid for r in site.job("damage").ranks if r.rank == 3)
    os.kill(pid, 9)
    site.running("damage", generation=before.generation + 2)

    job = site.finished("damage")
    assert job.result["weights_sha256"] == reference


def test_a_whole_node(site: RunningSite, reference: str) -> None:
    """Agent, raylet, rank hosts, processes, memory, disk and sockets of a node, at once."""
    site.submit("nodeloss")
    job = site.running("nodeloss", step=25)
    before = site.running("nodeloss")
    node = job.ranks[0].node
    site.phalanx("inject", "destroy-node", node)
    after = site.recovered("nodeloss", before)
    assert all(rank.node != node for rank in after.ranks)
    assert after.recoveries[-1].rung == "REPLACE_RANK"
    assert set(after.recoveries[-1].phases_s) == {
        "detect", "decide", "place", "start", "rendezvous", "restore", "first_step",
    }  # fmt: skip
    job = site.finished("nodeloss")
    assert job.result["weights_sha256"] == reference
    site.phalanx("inject", "restart-node", node)
    poll(lambda: site.nodes()[node].liveness == types_pb2.NODE_LIVENESS_ALIVE, f"{node} is back", 120)
    poll(lambda: site.nodes()[node].cell_member, f"{node} is in the cell", 120)


def test_experts_that_no_replica_holds(site: RunningSite, lone_experts: str) -> None:
    """Each rank has experts of its own: those of a killed process are in its node's memory, those of a destroyed node in its
    partner's. Nothing is read from storage, and the weights are those of an undisturbed run."""
    site.submit("unique", ep=4, every=0)
    before = site.running("unique", step=25)
    site.kill("unique", 2)
    before = site.recovered("unique", before)
    assert before.recoveries[-1].steps_lost <= 1
    poll(lambda: site.job("unique").step > before.step + 2, "two more steps, which the partners hold", 60)
    node = site.running("unique").ranks[0].node
    site.phalanx("inject", "destroy-node", node)
    after = site.recovered("unique", before)
    assert after.recoveries[-1].steps_lost <= 1
    job = site.finished("unique")
    assert job.result["weights_sha256"] == lone_experts
    started = [e.message for e in site.events("unique") if e.type == "GenerationStarted"]
    assert "memory" in started[1], started
    assert "memory" in started[-1], started
    site.phalanx("inject", "restart-node", node)
    poll(lambda: site.nodes()[node].cell_member, f"{node} is in the cell", 120)


def test_both_machines_of_a_job_lose_their_power(site: RunningSite, lone_experts: str) -> None:
    """Processes and memory are gone on every node of the job; their disks are not. Nothing was ever saved to storage, and no step
    before the last version on the disks is made again."""
    site.submit("power", ep=4, spares=False, every=0, local=5)
    before = site.running("power", step=27)
    used = sorted({rank.node for rank in before.ranks})
    idle = sorted(site.nodes().keys() - {*used})
    site.phalanx("cordon", *idle, "--reason", "no place for others")
    try:
        for node in used:
            site.phalanx("inject", "destroy-node", node, "--keep-disk")
        poll(lambda: not any(site.nodes()[node].session_open for node in used), "both nodes are away")
        for node in used:
            site.phalanx("inject", "restart-node", node)
        after = site.recovered("power", before)
    finally:
        site.phalanx("uncordon", *idle)
    recovery = after.recoveries[-1]
    assert recovery.restore_source == f"step {recovery.restore_step}: local disk 4"
    assert recovery.restore_step % 5 == 0
    assert recovery.restore_step >= 20
    assert site.finished("power").result["weights_sha256"] == lone_experts
