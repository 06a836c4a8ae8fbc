"""Liveness, after faults have stopped and everything was repaired, and the stated time has passed: L1 to L4.

Judged by the world's truth: what a node is, not what the controller thinks it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from controlplane.core import records as r
from controlplane.core.effects import Effect
from controlplane.core.health.book import position_of
from controlplane.core.state import State
from controlplane.core.sweeping.hangs import hang_limit_ns
from controlplane.core.units import ms, seconds
from controlplane.core.vocabulary import JobState, NodeLiveness, NodeService
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import RULES, Book
from controlplane.sim.checkers.lines import JobLine
from controlplane.sim.world.peace import OPERATORS

if TYPE_CHECKING:
    from controlplane.sim.world.nodes import SimNode
    from controlplane.sim.world.site import World

SERVING = frozenset({NodeService.IN_SERVICE, NodeService.PROBATION})

NO_DEVICE = -1
"""Position of what belongs to a node as a whole."""

MAX_WAITING = 64
"""Effects that may be outstanding on a site at peace; verifications of checkpoints come and go."""

OVERDUE_S = 900.0
"""An effect that is outstanding so long after its deadline will never end; our own lag moves deadlines by minutes at most."""


def whole(node: SimNode) -> bool:
    """Whether nothing is wrong with a node, nor with the path to it."""
    return node.up and node.agent and node.raylet and node.link.up and node.link.down and not node.faults


def serves(node: SimNode, book: Book) -> bool:
    """Whether work may go there: whole, and no operator has a reason against it."""
    number = book.numbers.get(node.name)
    return number is not None and whole(node) and not book.nodes[number].cordons


def released_later(node: SimNode, world: World) -> list[str]:
    """Entities of a node against which a fault that came too often is still held, as the catalogue's release timer says."""
    now_ns = world.leader.clock_ns()
    standing = world.state().health.on(node.name)
    return [fault.note.entity for fault in standing if fault.note.held and fault.note.until_ns > now_ns]


def held_devices(node: SimNode, world: World) -> int:
    """Whole devices of a node that are out until a release timer ends: a fault came too often."""
    return len({position_of(entity) for entity in released_later(node, world)} - {NO_DEVICE})


def room(world: World, book: Book, *, ours: JobLine | None = None) -> dict[str, int]:
    """Free devices by node: of those that serve, not held by a rank, not held back for another job, not held by a timer."""
    free = {
        node.name: node.accelerators - held_devices(node, world) for node in world.nodes.values() if serves(node, book)
    }
    for job in book.active():
        for number, positions in job.places:
            name = book.nodes[number].name if number >= 0 else ""
            if name in free:
                free[name] -= len(positions)
        if job is not ours:
            for number in job.spares:
                free.pop(book.nodes[number].name, None)
    return free


def fits(world: World, book: Book, job: JobLine, ranks: int) -> bool:
    """Whether that many ranks of a job would find places now."""
    width = job.spec.accelerators_per_rank
    return sum(count // width for count in room(world, book, ours=job).values()) >= ranks


def held_by_work(number: int, world: World, book: Book) -> bool:
    """Whether jobs that run on a node, and would leave it, have no room elsewhere: nobody stops them for its checks."""
    for job in book.active():
        here = sum(place == number for place, _ in job.places)
        if job.state is JobState.RUNNING and here and not fits(world, book, job, here):
            return True
    return False


def hang_due(uid: str, world: World) -> bool:
    """Whether a hang of a job must have been noticed: the stated time is many of its own steps, and steps may be slow."""
    soft = world.leader.soft
    quiet_ns = world.leader.clock_ns() - soft.progress(uid)[1]
    policy = world.machine.policy
    return quiet_ns > hang_limit_ns(policy, soft.step_time_ns(uid)) + 2 * ms(policy.hang_gather_ms)


class EveryJobKnowsWhy(Checker):
    """L1: a job runs, or has ended with a reason, or names its blocker, and what it names is so."""

    invariant = "L1"

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """Who waits for something that only others can give says what it is, at any time."""
        for job in book.active():
            if job.state in (JobState.QUEUED, JobState.SUSPENDED) and not job.blocker:
                yield Finding(job.uid, f"{job.uid} is {job.state.name} and names no blocker")

    def settled(self, book: Book, world: World) -> Iterator[Finding]:
        """Each job by its state, and against the processes that really are there."""
        waiting = [job for job in book.active() if job.state is JobState.QUEUED]
        for job in book.jobs.values():
            if job.ended:
                if not job.end_reason:
                    yield Finding(job.uid, f"{job.uid} ended {job.state.name} without a reason")
            elif job.state is JobState.RUNNING:
                yield from self._runs(job, book, world)
            elif not job.blocker:
                yield Finding(job.uid, f"{job.uid} is {job.state.name} and names no blocker")
            elif job.state is JobState.QUEUED:
                if job is waiting[0] and fits(world, book, job, job.spec.ranks):
                    yield Finding(job.uid, f"{job.uid} is the first in the queue and would fit; it says: {job.blocker}")
            elif job.state is JobState.SUSPENDED:
                if job.ruled and job.ruled in job.blocker:
                    continue  # only an operator may let it go on
                yield from self._suspended(job, book, world)
            else:
                yield Finding(job.uid, f"{job.uid} is still {job.state.name}: {job.blocker}")

    @staticmethod
    def _runs(job: JobLine, book: Book, world: World) -> Iterator[Finding]:
        for rank, serial in enumerate(job.hosts):
            if serial < 0:
                continue
            name = book.nodes[job.places[rank][0]].name
            process = world.nodes[name].processes.get((job.uid, serial))
            hangs = process is not None and process.exit is None and process.generation == job.generation
            if hangs and not hang_due(job.uid, world):
                continue
            if process is None or not process.works or process.generation != job.generation:
                text = f"{job.uid} is RUNNING, and rank {rank} (process {serial} on {name}) does not work"
                yield Finding(job.uid, text)
                return

    @staticmethod
    def _suspended(job: JobLine, book: Book, world: World) -> Iterator[Finding]:
        homeless = sum(
            1 for number, _ in job.places if number >= 0 and not serves(world.nodes[book.nodes[number].name], book)
        )
        if fits(world, book, job, homeless):
            text = f"{job.uid} is SUSPENDED, and its {homeless} ranks without a place would fit; it says: {job.blocker}"
            yield Finding(job.uid, text)


class NodesAreWhatTheyAre(Checker):
    """L2: a dead node is out of service, a whole one is back in. Only what waits for an operator, a release timer that still
    runs, or work that has no room elsewhere keeps a whole node out; whatever the controller did by itself has ended. A node
    rule's cordon waits for an operator, and operators have taken back those that stood when the faults stopped."""

    invariant = "L2"
    watches = (r.NodeCordoned,)

    def __init__(self) -> None:
        self._ruled: set[str] = set()

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Remember which nodes rules have cordoned since the faults stopped."""
        record = seen.record
        if isinstance(record, r.NodeCordoned) and record.owner == RULES:
            self._ruled.add(record.node)
        return iter(())

    def quiet(self, book: Book) -> None:
        """Operators have a look at all that rules have cordoned so far."""
        self._ruled.clear()

    def settled(self, book: Book, world: World) -> Iterator[Finding]:
        """Each node as it is against what is believed of it."""
        fleet = world.state().fleet
        for node in world.nodes.values():
            number = book.numbers.get(node.name)
            if number is None:
                yield Finding(node.name, f"{node.name} never registered")
                continue
            line, service = book.nodes[number], NodeService(int(fleet.service[number]))
            if not node.up and line.liveness is NodeLiveness.ALIVE:
                yield Finding(node.name, f"{node.name} is dead, and believed ALIVE")
            asked = RULES in line.cordons and node.name in self._ruled
            if not whole(node) or asked or line.cordons.keys() & set(OPERATORS):
                continue
            if line.cordons:
                if not released_later(node, world) and not held_by_work(number, world, book):
                    owners, why = ", ".join(sorted(line.cordons)), line.away or "nobody says why"
                    yield Finding(node.name, f"{node.name} is whole, and cordoned by {owners}: {why}")
                continue
            if line.liveness is not NodeLiveness.ALIVE:
                yield Finding(node.name, f"{node.name} is whole, and believed {line.liveness.name}")
            elif service not in SERVING:
                yield Finding(node.name, f"{node.name} is whole and nobody's cordon is on it, and it is {service.name}")
            elif not (line.session and line.member):
                yield Finding(
                    node.name, f"{node.name} is whole: session {line.session}, member of the cell {line.member}"
                )


class SparesComeBack(Checker):
    """L3: a running job holds the spares that it wants, or there is no node to hold."""

    invariant = "L3"

    def settled(self, book: Book, world: World) -> Iterator[Finding]:
        """Count what is held, and what could be."""
        for job in book.active():
            short = job.spec.spares.warm_nodes - len(job.spares)
            if job.state is not JobState.RUNNING or short <= 0:
                continue
            counts: dict[int, int] = {}
            for number, _ in job.places:
                counts[number] = counts.get(number, 0) + 1
            needed = max(counts.values()) * job.spec.accelerators_per_rank
            own = {book.nodes[number].name for number in counts}
            could = sorted(
                name
                for name, free in room(world, book).items()
                if free >= needed and name not in own and free // job.spec.accelerators_per_rank
            )
            if could:
                text = (
                    f"{job.uid} holds {len(job.spares)} of {job.spec.spares.warm_nodes} spare nodes; {could[0]} is free"
                )
                yield Finding(job.uid, text)


class NothingGrows(Checker):
    """L4: no queue holds what nobody will ever take out."""

    invariant = "L4"

    def __init__(self) -> None:
        self._due_ns: dict[str, int] = {}

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """Effects end, answered or not; counted in the world's time, for the controller's clock may jump."""
        for effect in after.effects.values():
            due_ns = world.now_ns + effect.deadline_ns - after.at_ns + seconds(OVERDUE_S)
            yield from self._late([effect] if self._due_ns.setdefault(effect.id, due_ns) < world.now_ns else [])
        if len(self._due_ns) > MAX_WAITING:
            self._due_ns = {name: due_ns for name, due_ns in self._due_ns.items() if name in after.effects}

    def settled(self, book: Book, world: World) -> Iterator[Finding]:
        """Effects and the inbox."""
        state, now_ns = world.state(), world.leader.clock_ns()
        yield from self._late([effect for effect in state.effects.values() if effect.deadline_ns < now_ns])
        if len(state.effects) > MAX_WAITING:
            yield Finding("effects", f"{len(state.effects)} effects are outstanding")
        leader = world.control.leader
        if leader is not None and leader.waits_ns > seconds(leader.turn_s):
            text = f"{leader.inbox} events wait in the inbox, for longer than a turn takes"
            yield Finding("inbox", text)

    @staticmethod
    def _late(late: Sequence[Effect]) -> Iterator[Finding]:
        if late:
            first = late[0]
            text = f"{len(late)} effects are past their deadline and outstanding, {first.kind} to {first.target} among them"
            yield Finding(first.id, text)
