"""What the soak does to a site: every kind of failure that this machine can really have, one function each."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phalanx.v1 import types_pb2

from cli.commands.fault import Target, flip_byte
from cli.errors import CliError
from cli.supervisor import control
from cli.supervisor.layout import CONTROLLER_UNIT, STORE_UNIT, agent_unit
from cli.supervisor.ray_cell import AGENT_UNIT, GCS_UNIT, HEAD_UNIT, raylet_unit
from tests.e2e.site import RunningSite, poll

READABLE = (types_pb2.CHECKPOINT_STATE_COMMITTED, types_pb2.CHECKPOINT_STATE_VERIFIED)
BACK_S = 180.0
MOST_AT_ONCE = 3
"""Nodes of five that may be destroyed at once: the others have room for the job."""
STALL_S = (0.5, 6.0)
"""How long something is frozen: shorter and longer than a lease of three seconds."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One kind of failure.

    Attributes:
        name: as it is printed.
        weight: how often it comes, beside the others.
        strike: does it, and returns what was hit in words.
    """

    name: str
    weight: int
    strike: Callable[[RunningSite, str, random.Random], str]


def of_rank(what: Target, count: int = 1, first: int | None = None) -> Callable[[RunningSite, str, random.Random], str]:
    """SIGKILL to a part of `count` ranks, of rank `first` on; None: of any."""

    def strike(site: RunningSite, job: str, rng: random.Random) -> str:
        ranks = len(site.job(job).ranks)
        chosen = rng.sample(range(ranks), count) if first is None else list(range(first, first + count))
        for rank in chosen:
            with suppress(CliError, ProcessLookupError):  # the first blow may have taken it along
                site.kill(job, rank, what)
        return f"ranks {chosen}" if count > 1 else f"rank {chosen[0]}"

    return strike


def stalled_rank(site: RunningSite, job: str, rng: random.Random) -> str:
    """SIGSTOP to a training process, for less than a hang."""
    rank = rng.choice(list(site.job(job).ranks))
    seconds = rng.uniform(*STALL_S)
    with suppress(ProcessLookupError):
        os.kill(rank.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(rank.pid, signal.SIGCONT)
    return f"rank {rank.rank} for {seconds:.1f} s"


def stopped_controller(site: RunningSite, _job: str, rng: random.Random) -> str:
    """SIGSTOP to the controller."""
    seconds = rng.uniform(*STALL_S)
    control.call(site.site.run, {"command": "stop_process", "name": CONTROLLER_UNIT, "seconds": seconds})
    time.sleep(seconds)
    return f"for {seconds:.1f} s"


def of_unit(unit: str) -> Callable[[RunningSite, str, random.Random], str]:
    """SIGKILL to one process of the site; it comes back."""

    def strike(site: RunningSite, _job: str, _rng: random.Random) -> str:
        restarts = site.units()[unit]["restarts"]
        site.kill_unit(unit)
        site.unit_back(unit, restarts)
        return unit

    return strike


def of_node(unit: Callable[[str], str]) -> Callable[[RunningSite, str, random.Random], str]:
    """SIGKILL to a process that a node of the job has."""

    def strike(site: RunningSite, job: str, rng: random.Random) -> str:
        node = rng.choice(_nodes_of(site, job))
        return of_unit(unit(node))(site, job, rng)

    return strike


def destroyed_node(site: RunningSite, job: str, rng: random.Random) -> str:
    """A node of the job with its memory, disk, sockets and processes; a new machine takes its place once the job runs."""
    node = rng.choice(_nodes_of(site, job))
    _replace(site, job, [node])
    return node


def corrupt_shard(site: RunningSite, job: str, _rng: random.Random) -> str:
    """A flipped byte in the newest checkpoint; all nodes of the job go, and with them what is in memory: it has to be read."""
    found = [checkpoint for checkpoint in site.checkpoints(job) if checkpoint.state in READABLE]
    nodes = _nodes_of(site, job)
    if not found or len(nodes) > MOST_AT_ONCE:
        return "nothing: no checkpoint yet, or the job is on too many nodes"
    newest = max(found, key=lambda one: (one.step, one.generation))
    with suppress(CliError, OSError):  # it may be deleted while we look
        flip_byte(Path(newest.folder))
    _replace(site, job, nodes)
    return f"{newest.id}, then {', '.join(nodes)} destroyed"


def power_cut(site: RunningSite, job: str, _rng: random.Random) -> str:
    """All nodes of the job lose their power, and have it again; no other may take the ranks. Their disks are what is left."""
    before, nodes = site.running(job), _nodes_of(site, job)
    others = sorted(site.nodes().keys() - {*nodes})
    site.phalanx("cordon", *others, "--reason", "the job waits for its own machines")
    try:
        for node in nodes:
            site.phalanx("inject", "destroy-node", node, "--keep-disk")
        for node in nodes:
            site.phalanx("inject", "restart-node", node)
        site.recovered(job, before)
    finally:
        site.phalanx("uncordon", *others)
    for node in nodes:
        poll(lambda name=node: site.nodes()[name].cell_member, f"{node} is in the cell again", BACK_S)
    return ", ".join(nodes)


def _nodes_of(site: RunningSite, job: str) -> list[str]:
    return sorted({rank.node for rank in site.job(job).ranks if rank.node})


def _replace(site: RunningSite, job: str, nodes: list[str]) -> None:
    before = site.running(job)
    for node in nodes:
        site.phalanx("inject", "destroy-node", node)
    site.recovered(job, before)
    for node in nodes:
        site.phalanx("inject", "restart-node", node)
        poll(lambda name=node: site.nodes()[name].cell_member, f"{node} is in the cell again", BACK_S)


def _burn(until: float) -> None:
    while time.monotonic() < until:
        pass


def starved(_site: RunningSite, _job: str, rng: random.Random) -> str:
    """Three processes per core that only burn."""
    seconds = rng.uniform(3, 8)
    spawn = multiprocessing.get_context("spawn")
    hogs = [spawn.Process(target=_burn, args=(time.monotonic() + seconds,)) for _ in range(3 * (os.cpu_count() or 1))]
    for hog in hogs:
        hog.start()
    for hog in hogs:
        hog.join(seconds + 30)
    return f"for {seconds:.1f} s"


BLOWS = (
    Blow("process", 6, of_rank(Target.PROCESS)),
    Blow("process of rank 0", 2, of_rank(Target.PROCESS, 1, 0)),
    Blow("two processes", 3, of_rank(Target.PROCESS, 2)),
    Blow("all processes", 1, of_rank(Target.PROCESS, 4, 0)),
    Blow("rank host", 3, of_rank(Target.HOST)),
    Blow("actor", 1, of_rank(Target.ACTOR)),
    Blow("node destroyed", 4, destroyed_node),
    Blow("rank stalls", 2, stalled_rank),
    Blow("controller stops", 2, stopped_controller),
    Blow("controller killed", 3, of_unit(CONTROLLER_UNIT)),
    Blow("node agent", 2, of_node(agent_unit)),
    Blow("raylet", 1, of_node(raylet_unit)),
    Blow("cell agent", 1, of_unit(AGENT_UNIT)),
    Blow("cell head", 1, of_unit(HEAD_UNIT)),
    Blow("GCS", 1, of_unit(GCS_UNIT)),
    Blow("store", 1, of_unit(STORE_UNIT)),
    Blow("corrupt shard", 2, corrupt_shard),
    Blow("power cut", 2, power_cut),
    Blow("processor starved", 1, starved),
)
LEAKS = (Blow("process", 1, lambda site, job, rng: of_rank(Target.PROCESS, 1, rng.randrange(1, 4))(site, job, rng)),)
"""Only processes, never that of rank 0: it lives through all recoveries, and is watched."""
