"""Where ranks run: S1 (never two on one accelerator) and S2 (nothing new where nothing new may go)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.core import records as r
from controlplane.core.vocabulary import NodeLiveness
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import Book, numbers
from controlplane.sim.checkers.lines import JobLine, NodeLine

if TYPE_CHECKING:
    from controlplane.sim.world.nodes import SimNode


class OneRankPerAccelerator(Checker):
    """S1 on the world's truth: at most one process that was given a rank is left on any accelerator."""

    invariant = "S1"

    def occupied(self, node: SimNode, book: Book) -> Iterator[Finding]:
        """Look at one node whenever a process there was given a rank."""
        held: dict[int, str] = {}
        for process in node.processes.values():
            if not process.generation or not process.occupies:
                continue
            who = f"{process.job}-{process.serial} of generation {process.generation}"
            for position in process.devices:
                if position in held:
                    yield Finding(node.name, f"accelerator {position} of {node.name} runs {held[position]} and {who}")
                held[position] = who


class OnlyWhereWorkMayGo(Checker):
    """S2: no rank is given a place, or a new process there, on a node that takes no work."""

    invariant = "S2"
    watches = (r.JobPlaced, r.RanksMoved, r.GenerationStarted)

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Places as they are given, and processes as they get a rank for the first time."""
        record = seen.record
        match record:
            case r.JobPlaced():
                fresh = dict(enumerate(record.nodes))
            case r.RanksMoved():
                fresh = dict(zip(record.ranks, record.nodes, strict=True))
            case r.GenerationStarted():
                fresh = _newcomers(book.jobs[record.job], record)
            case _:
                return
        for rank, number in fresh.items():
            why = _refuses(book.nodes[number]) if number >= 0 else ""
            if why:
                name, what = book.nodes[number].name, type(record).__name__
                yield Finding(name, f"{what} puts rank {rank} of {record.job} on {name}, which {why}")


def _newcomers(job: JobLine, record: r.GenerationStarted) -> dict[int, int]:
    """Node by rank, for ranks whose process held none in the generation before."""
    before = set(job.hosts)
    taken = zip(numbers(record.changed_ranks), numbers(record.hosts), strict=True)
    return {rank: job.places[rank][0] for rank, serial in taken if serial not in before}


def _refuses(node: NodeLine) -> str:
    if node.cordons:
        return f"is cordoned by {', '.join(sorted(node.cordons))}"
    if node.liveness is not NodeLiveness.ALIVE:
        return f"is {node.liveness.name}"
    return "is out of sight, whatever its ranks prove" if node.path_broken else ""
