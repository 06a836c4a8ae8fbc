"""S3: what an old generation or an old epoch does changes nothing: by the journal, and by what happened in the world."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.core import records as r
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.state import State
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import Book

if TYPE_CHECKING:
    from controlplane.sim.world.gangs import Gang
    from controlplane.sim.world.nodes import SimNode
    from controlplane.sim.world.site import World


class OldWritersAreHarmless(Checker):
    """A shard counts only for the generation that is in force when it is told, and manifests are not mixed; nothing is read
    that was stored after its generation was overtaken; no agent obeys a lower epoch than before; no living process is of an
    older generation than its number was before. (What an agent says of a process that it no longer knows, because its machine
    was restarted, is that it has ended; it knows no generation of it.)"""

    invariant = "S3"
    watches = (r.ShardsReported, r.GenerationStarted)

    def __init__(self) -> None:
        self._fresh: dict[str, int] = {}
        self._overtaken_ns: dict[tuple[str, int], int] = {}
        self._epochs: dict[str, int] = {}
        self._generations: dict[str, dict[tuple[str, int], int]] = {}

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Shards as they are taken, and what a generation is told to read."""
        match seen.record:
            case r.ShardsReported(job=uid, generation=generation, checkpoint=name, shards=shards):
                current = book.jobs[uid].generation
                if generation != current:
                    whose = f"shards of {name} by rank {shards[0].rank}"
                    yield Finding(uid, f"{whose} are of generation {generation}; {current} is in force")
            case r.GenerationStarted(job=uid, restore_id=name):
                self._fresh[uid] = book.jobs[uid].generation
                line = book.jobs[uid].checkpoints.get(name)
                mixed = sorted(set(line.shards.values()) - {line.generation}) if line else []
                if mixed:
                    yield Finding(uid, f"{name} is to be restored, and holds shards of generations {mixed}")
            case _:
                return

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """Remember, in the world's time, when generations were overtaken."""
        for uid, old in self._fresh.items():
            self._overtaken_ns.setdefault((uid, old), world.now_ns)
        self._fresh.clear()
        return
        yield

    def read(self, gang: Gang, book: Book, world: World) -> Iterator[Finding]:
        """Ranks have read their restore point: every part of it was stored while its generation was in force."""
        line = book.jobs[gang.job].checkpoints.get(gang.restore_id)
        if line is None or gang.generation < book.jobs[gang.job].generation:
            return
        end_ns = self._overtaken_ns.get((gang.job, line.generation), world.now_ns)
        late = [rank for rank, kept in world.stores.shards[line.id].items() if kept.stored_ns > end_ns]
        if late:
            yield Finding(gang.job, f"{line.id} was read; ranks {late} had stored their parts after it was overtaken")

    def obeyed(self, effect: Effect, node: SimNode, epoch: int) -> Iterator[Finding]:
        """An agent has carried out an effect."""
        known = self._epochs.setdefault(node.name, epoch)
        if epoch < known:
            yield Finding(node.name, f"{node.name} obeyed {effect.kind} of epoch {epoch}, after one of epoch {known}")
        self._epochs[node.name] = max(known, epoch)
        if effect.kind is not EffectKind.APPLY_GENERATION:
            return
        generations = self._generations.setdefault(node.name, {})
        for process in node.live():
            key, generation = (process.job, process.serial), process.generation
            older = generations.get(key, 0)
            if generation < older:
                text = f"process {key[1]} of {key[0]} on {node.name} went from generation {older} back to {generation}"
                yield Finding(node.name, text)
            generations[key] = max(older, generation)
