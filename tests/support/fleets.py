"""Fleets and jobs built by hand, for tests of pure functions."""

from __future__ import annotations

import numpy as np

from controlplane.core.fleet import FREE, Accelerator, Cordon, Fleet, NodeFacts
from controlplane.core.jobs import NONE, Hosts, Job
from controlplane.core.spec import JobSpec
from controlplane.core.vocabulary import AcceleratorState, JobState, NodeLiveness, NodeService, RankState


def fleet(nodes: int, width: int = 2, racks: int = 1) -> Fleet:
    """Healthy nodes in service; node i lies in rack i * racks // nodes."""
    result = Fleet()
    for i in range(nodes):
        devices = tuple(Accelerator(f"n{i}-{k}") for k in range(width))
        number = result.add(NodeFacts(f"n{i}", labels=(("rack", f"r{i * racks // nodes}"),), accelerators=devices))
        result.set_accelerators(number, devices, (AcceleratorState.HEALTHY,) * width)
    result.service = np.full(nodes, NodeService.IN_SERVICE, dtype=np.uint8)
    result.session = np.ones(nodes, dtype=bool)
    result.cell_member = np.ones(nodes, dtype=bool)
    return result


def cordon(target: Fleet, node: int) -> None:
    target.set_facts(node, NodeFacts(f"n{node}", cordons=(Cordon("operator", "look"),)))


def spoil(target: Fleet, node: int, how: str) -> None:
    """Make a node unfit for new work in one of the ways there are."""
    match how:
        case "cordoned":
            cordon(target, node)
        case "SUSPECT" | "UNKNOWN" | "DEAD":
            target.liveness[node] = NodeLiveness[how]
        case "no session":
            target.session[node] = False
        case "no raylet":
            target.cell_member[node] = False
        case "QUARANTINED" | "DRAINING" | "JOINING":
            target.service[node] = NodeService[how]
        case "failed devices":
            target.acc_state[node] = AcceleratorState.FAILED
        case _:
            raise ValueError(how)


SPOILED = ("cordoned", "SUSPECT", "UNKNOWN", "DEAD", "no session", "no raylet", "QUARANTINED", "DRAINING", "JOINING")


def running(spec: JobSpec, places: list[tuple[int, tuple[int, ...]]], on: Fleet, spares: tuple[int, ...] = ()) -> Job:
    """A job whose ranks run at (node, positions), process serials 1, 2, ...; owns its devices and spares in `on`."""
    count = len(places)
    job = Job(spec.name, f"{spec.name}-7", 7, spec, JobState.RUNNING, 0, generation=1, spare_nodes=spares)
    job.rank_node = np.array([node for node, _ in places], dtype=np.int32)
    job.rank_acc = np.array([list(positions) for _, positions in places], dtype=np.int32)
    job.rank_host = np.arange(1, count + 1, dtype=np.int32)
    job.rank_times = np.ones((count, 4), dtype=np.int64)
    zeros = np.zeros(count, dtype=np.int32)
    job.hosts = Hosts(
        job.rank_host.copy(), job.rank_node.copy(), np.full(count, RankState.RUNNING, dtype=np.uint8),
        np.arange(count, dtype=np.int32), np.ones(count, dtype=np.int32), zeros, zeros,
        np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.uint8),
    )  # fmt: skip
    on.acc_owner[job.rank_node[:, None], job.rank_acc] = job.serial
    on.reserved[list(spares)] = job.serial
    return job


def lose(job: Job, *ranks: int) -> None:
    """The processes of these ranks have ended, nothing is left of them."""
    rows = list(ranks)
    job.rank_host[rows] = NONE
    job.hosts.state[rows] = RankState.EXITED
    job.hosts.empty[rows] = 1
    job.hosts.rank[rows] = NONE


__all__ = ["FREE", "SPOILED", "cordon", "fleet", "lose", "running", "spoil"]
