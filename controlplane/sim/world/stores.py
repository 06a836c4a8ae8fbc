"""Checkpoint storage as it really is: which shard of which checkpoint exists and is intact, and how long reading takes.

The controller only knows what it was told. Whether a file is there and holds what its digest says is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controlplane.core import events as ev
from controlplane.core.checkpoints import ShardFile, checkpoint_id
from controlplane.core.effects import Effect
from controlplane.core.units import seconds
from controlplane.sim.world.nodes import SimNode

if TYPE_CHECKING:
    from controlplane.sim.world.gangs import Gang
    from controlplane.sim.world.site import World

SHARD_BYTES = 10


@dataclass(eq=False)
class StoredShard:
    """One rank's part of a checkpoint on storage. `sound`: the state in it is right (silent corruption writes unsound state
    under good digests). `stored_ns`: when it got there, Unix ns."""

    rank: int
    intact: bool = True
    sound: bool = True
    stored_ns: int = 0


class Stores:
    """The shared storage of a site.

    `slow`: how many times longer saving and restoring take. `saving`: jobs save every so many steps, as their
    specification says; otherwise only when told. `save_s`: until all shards of a save are on storage.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.shards: dict[str, dict[int, StoredShard]] = {}
        self.corrupt: set[str] = set()
        self.slow = 1.0
        self.saving = False
        self.save_s = 2.0
        self.stall_ns = 1_000_000
        self.torn_next = 0
        self.saves = 0

    def calm(self) -> None:
        """Storage is as fast as ever, and the next saves are whole."""
        self.slow, self.torn_next = 1.0, 0

    # -- saving -----------------------------------------------------------------------------------------------------

    def plan_save(self, gang: Gang) -> None:
        """The next save of a gang that has begun to make steps."""
        if self.saving and gang.every_steps:
            made = gang.at(self.world.now_ns)[0]
            step = (made // gang.every_steps + 1) * gang.every_steps
            self.world.kernel.at(gang.time_of(step), lambda: self._due(gang, step))

    def save_asked(self, effect: Effect) -> tuple[bool, str]:
        """Ranks were told to save now: all of them do at the next step boundary. (done, why not)."""
        gang = self.world.gangs.newest.get(effect.job)
        if gang is None or gang.generation != effect.generation or not gang.moving:
            return False, f"no rank of generation {effect.generation} makes steps here"
        self._save_at(gang, gang.at(self.world.now_ns)[0] + 1)
        return True, ""

    def _save_at(self, gang: Gang, step: int) -> None:
        """Wait for a step boundary, then save."""
        made, reached_ns = gang.at(self.world.now_ns)
        if not gang.moving:
            return
        if made < step:
            self.world.kernel.at(gang.time_of(step), lambda: self._save_at(gang, step))
            return
        members = sorted(gang.members)
        self.world.kernel.after(self.save_s * self.slow, lambda: self.save(gang, made, members, reached_ns))

    def _due(self, gang: Gang, step: int) -> None:
        if not gang.moving:
            return
        made, reached_ns = gang.at(self.world.now_ns)
        if made < step:  # it became slower meanwhile
            self.world.kernel.at(gang.time_of(step), lambda: self._due(gang, step))
            return
        members = dict(gang.members)
        delay_s = self.save_s * self.slow
        self.world.kernel.after(delay_s, lambda: self.save(gang, step, sorted(members), reached_ns))
        self.plan_save(gang)

    def save(self, gang: Gang, step: int, ranks: Sequence[int], reached_ns: int) -> None:
        """Shards reach the storage, of those ranks whose processes still live; their agents say so."""
        name = checkpoint_id(gang.job, gang.generation, step)
        kept = self.shards.setdefault(name, {})
        self.saves += 1
        torn = self.torn_next > 0
        self.torn_next -= torn
        rows = []
        for rank in ranks:
            process = gang.members.get(rank)
            if process is None or process.exit is not None:
                continue
            node = self.world.nodes[process.node]
            if not node.up:
                continue
            kept[rank] = StoredShard(rank, not torn, process not in self.world.unsound, self.world.now_ns)
            rows.append((node, self.row(gang.job, gang.generation, step, rank, reached_ns)))
        self.world.agents.shards(rows)

    def row(self, uid: str, generation: int, step: int, rank: int, reached_ns: int) -> ev.ShardRow:
        """What an agent says of a stored shard."""
        folder = f"/s/{checkpoint_id(uid, generation, step)}"
        file = ShardFile(f"r{rank}", SHARD_BYTES, "0" * 64)
        return ev.ShardRow(uid, generation, step, rank, folder, (file,), self.stall_ns, reached_ns)

    # -- reading ----------------------------------------------------------------------------------------------------

    def restore_s(self, gang: Gang) -> float:
        """How long a gang takes to read its restore point; nothing when its ranks keep what they hold."""
        if gang.keeps_state:
            return 0.0
        return self.world.timings.restore_s * (self.slow if gang.restore_id else 1.0)

    def bad_shards(self, gang: Gang) -> list[int]:
        """Ranks whose part of the restore point is missing, torn or damaged. A rank that took no part when it was written
        reads what a replica wrote that holds the same state."""
        if not gang.restore_id:
            return []
        if gang.restore_id in self.corrupt:
            return sorted(gang.members)
        kept = self.shards.get(gang.restore_id)
        if kept is None:
            return sorted(gang.members)
        held = {gang.parallel.state_of(rank): shard for rank, shard in kept.items()}
        found = ((rank, kept.get(rank) or held.get(gang.parallel.state_of(rank))) for rank in sorted(gang.members))
        return [rank for rank, shard in found if shard is None or not shard.intact]

    def restore_failed(self, gang: Gang, ranks: Iterable[int]) -> None:
        """The ranks say which file they could not use."""
        reports = []
        for rank in ranks:
            node = self.world.nodes[gang.members[rank].node]
            row = ev.RestoreFailedRow(
                gang.job, gang.generation, rank, gang.restore_id, f"r{rank}", "the digest differs"
            )
            reports.append((node, ev.NodeReport(node.name, node.boot_id, restore_failures=(row,))))
        self.world.agents.tell(reports)

    def verify(self, node: SimNode, effect: Effect) -> None:
        """Read a checkpoint back, and say what was found."""
        name = effect.items[0]
        kept = self.shards.get(name, {})
        bad = [rank for rank, shard in sorted(kept.items()) if not shard.intact]
        good = bool(kept) and not bad and name not in self.corrupt
        file, reason = ("", "") if good else (f"r{bad[0] if bad else 0}", "the digest differs")
        row = ev.CheckedRow(effect.job, name, ok=good, file=file, reason=reason)
        self.world.agents.tell([(node, ev.NodeReport(node.name, node.boot_id, checked=(row,)))])

    def sweep(self, folders: Iterable[str]) -> None:
        """Delete folders."""
        for folder in folders:
            self.shards.pop(folder.removeprefix("/s/"), None)

    def damage(self, name: str, ranks: Iterable[int] | None = None) -> None:
        """Shards of a checkpoint no longer are what their digests say; None: all of them."""
        for rank, shard in self.shards.get(name, {}).items():
            if ranks is None or rank in ranks:
                shard.intact = False

    def lose(self, name: str) -> None:
        """A checkpoint's folder is gone, and nobody has told."""
        self.shards.pop(name, None)

    def save_now(self, uid: str, step: int, ranks: Sequence[int] | None = None) -> None:
        """A save at a step of a story's choice, on storage at once."""
        gang = self.world.gangs.newest.get(uid)
        if gang is not None:
            self.save(gang, step, sorted(gang.members) if ranks is None else ranks, self.world.now_ns)

    def verify_delay_ns(self) -> int:
        """How long reading a checkpoint back takes."""
        return seconds(self.world.timings.restore_s * self.slow)
