"""A rank's state in memory: told where it lies, this keeps two versions of it, and starts a generation from what is held.

    keeper = StateKeeper(context, parts)              # once for a state; its tensors keep their storage
    for generation in context.generations():
        with generation:
            groups = generation.join()
            held = keeper.restore(generation, groups)   # in place where this process holds the step
            if held.missing: ...                        # read those parts from generation.restore, or initialise
            keeper.hold(step)
            ...
            with keeper.updating(step): optimizer.step()

Nothing of it ever fails a step: without room in memory the state is kept where it is, and a restart reads shared storage.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from phalanx.v1 import local_pb2

from agents.memory.places import disk_path, fetched_path, own_path, own_paths
from agents.memory.state_file import Layout, Line, NotAState, Phase, StateFile, Version, Word, layout_key
from agents.rank.context import RankContext
from agents.rank.generation import Generation, Groups
from agents.rank.group import Group
from agents.rank.link import note

ALIGN = 64
"""Bytes; each tensor of a slot begins at a multiple."""
FETCH_LOOK_S = 0.002
PARTNER_PATIENCE_S = 0.5
"""A step waits so long at most for the partner to hold the one before; then it goes on, with weaker protection for a while."""
PARTNER_LOOK_S = 0.0005
MAX_OTHERS = 64
"""Files of other processes of the job on this node that are looked at."""


@dataclass(frozen=True, slots=True)
class Part:
    """Tensors that the members of one group hold alike.

    Args:
        name: for people.
        tensors: live, contiguous, of one process; they keep their storage for the keeper's life.
        replicas: the group, `data_parallel` or `expert_data_parallel`. Of one member: nobody else holds the part.
    """

    name: str
    tensors: Mapping[str, torch.Tensor]
    replicas: str = "data_parallel"


@dataclass(frozen=True, slots=True)
class Held:
    """What a generation starts from in memory. `sources`: of each part that is loaded, where it came from; `missing`: parts that
    nobody holds at the step."""

    step: int
    sources: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


class StateKeeper:
    """Keeps one state. Not thread-safe; what it does in the background it waits for itself."""

    def __init__(
        self, context: RankContext, parts: Sequence[Part], describe: str = "", *, enabled: bool = True
    ) -> None:
        """`describe`: what else a state must have in common to be taken for this one, an architecture for example. Not `enabled`:
        nothing is kept, and every generation starts from files."""
        self._context = context
        self._enabled = enabled
        self._parts = tuple(parts)
        self._describe = describe
        self._file: StateFile | None = None
        self._views: list[list[torch.Tensor]] = []
        self._live: list[torch.Tensor] = []
        self._unique: frozenset[str] = frozenset()
        self._shape: tuple[object, ...] = ()
        self._reserved = False
        self._step = -1
        self._generation = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="phalanx-keep")
        self._staging: Future[None] | None = None
        self.every = 1
        """Steps between two versions."""
        self.stall_s = 0.0
        """How long the last `updating` waited before it began."""
        self.copy_s = 0.0
        """How long the last version took to be copied and digested, beside the step."""

    @property
    def step(self) -> int:
        """Step after which the state of this process is whole; -1: it is being changed, or was left half changed."""
        return self._step

    # A generation begins

    def restore(self, generation: Generation, groups: Groups) -> Held:
        """Bring the state to the step at which the generation starts, from what is held in memory.

        Collective: all ranks call it. Parts that are `missing` must be loaded from `generation.restore` (or initialised when
        that is from scratch), then `hold` called. Raises GenerationChanged, also where nobody holds a part and no file has it.
        """
        self.settle()
        assignment = generation.assignment
        step, held_step = assignment.memory_step, self._step
        source = "this process" if step and step == held_step else ""
        if not source:
            self._step = -1
            self._mark(0, Phase.NOTHING)
        if step and not source and self._load_own(step):
            source = "this process's memory"
        self._adopt(generation, groups)
        self._generation = generation.number
        if not step:
            self._forget_after(generation.restore.step)
            return Held(generation.restore.step, missing=tuple(part.name for part in self._parts))
        source = source or self._load(generation, step)
        self._forget_after(step)
        found = {part.name: source for part in self._parts if source and (source != _COPY or part.name in self._unique)}
        missing = self._share(groups, found)
        if missing and step != generation.restore.step:
            generation.restore_failed(", ".join(missing), f"nobody holds it of step {step}", memory=True)
        if found and not missing:
            note(f"generation {generation.number}: step {step} from {_told(found)}")
        return Held(step, found, missing)

    def hold(self, step: int) -> None:
        """The state is whole, and that after `step`."""
        self._step = step
        self._mark(step, Phase.DONE)

    # Steps

    @contextmanager
    def updating(self, step: int) -> Iterator[None]:
        """Around everything that changes the state from that of `step` - 1 to that of `step`."""
        begun = time.monotonic()
        with self._context.phase("checkpoint"):
            self.settle()
            self._await_partner(step - 1)
        self.stall_s = time.monotonic() - begun
        self._step = -1
        self._mark(step, Phase.OPTIMIZER)
        yield
        self.hold(step)
        if self._file is not None and self._views and step % self.every == 0:
            self._staging = self._thread.submit(self._stage, step, self._generation)

    def close(self) -> None:
        """Wait for what is being copied, and let go of the memory; the file stays."""
        self.settle()
        self._thread.shutdown()
        if self._file is not None:
            self._views = []
            self._file.close()
            self._file = None

    # Inside

    def settle(self) -> None:
        """Wait for the version that is being copied: from then on the state may be changed."""
        staging, self._staging = self._staging, None
        if staging is not None:
            staging.result()

    def _stage(self, step: int, generation: int) -> None:
        """Copy the state of a step into the older slot; on the thread."""
        begun = time.monotonic()
        file = self._file
        assert file is not None  # only submitted with one
        if not self._reserved:  # here, because it takes its time and nothing waits for it
            try:
                file.reserve()
            except OSError as error:
                note(f"this rank's state is not kept in memory: {error.strerror}")
                self._views = []
                return
            self._reserved = True
        slot = file.begin()
        with torch.no_grad():
            torch._foreach_copy_(self._views[slot], self._live)
        file.finish(slot, step, generation)
        self.copy_s = time.monotonic() - begun
        taken = local_pb2.LocalRequest(snapshot=local_pb2.SnapshotTaken(generation=generation, step=step))
        self._context.send(("snapshot",), lambda _now: taken, acknowledged=False)

    def _await_partner(self, step: int) -> None:
        """Let nobody go on to a step after the next while the partner lacks the one before: what a node takes with it is then one
        step behind at most."""
        file = self._file
        if file is None or not self._unique or not file.get(Word.PARTNERS) or step % self.every or step < 1:
            return
        if file.find(step) is None:
            return
        end = time.monotonic() + PARTNER_PATIENCE_S
        while file.get(Word.PARTNER_STEP) < step and file.get(Word.PARTNERS):
            if time.monotonic() > end:
                file.put(Word.PARTNERS, 0)  # until the agent has brought one: a partner that is away stops nobody twice
                note(f"no partner holds step {step} after {PARTNER_PATIENCE_S:g} s: going on with weaker protection")
                return
            time.sleep(PARTNER_LOOK_S)

    def _adopt(self, generation: Generation, groups: Groups) -> None:
        """A file for this rank and these groups; the one that there is when they are the same."""
        assignment = generation.assignment
        sizes = {part.name: _group(groups, part).size for part in self._parts}
        shape = (assignment.rank, assignment.memory_folder, tuple(sizes.items()))
        if shape == self._shape:
            return
        self._shape = shape
        self._unique = frozenset(name for name, size in sizes.items() if size == 1)
        order = sorted(self._parts, key=lambda part: part.name not in self._unique)
        self._live = [tensor for part in order for tensor in part.tensors.values()]
        if self._file is not None:
            self._views = []
            self._file.close()
            self._file = None
        if assignment.memory_folder is None or not self._enabled:
            return
        layout = self._layout(order)
        path = own_path(assignment.memory_folder, self._context.host_id)
        try:
            if layout.file_bytes > assignment.memory_bytes:
                raise OSError(errno.ENOSPC, _too_large(layout.file_bytes, assignment.memory_bytes))  # noqa: TRY301
            self._file = StateFile.create(path, layout, assignment.rank, reserved=False)
        except OSError as error:
            note(f"this rank's state is not kept in memory: {error.strerror or error}")
            return
        self._views = [self._slot_views(slot, self._file) for slot in (0, 1)]
        self._reserved = False

    def _layout(self, order: Sequence[Part]) -> Layout:
        sizes = {True: 0, False: 0}
        words = [self._describe]
        for part in order:
            for name, tensor in part.tensors.items():
                sizes[part.name in self._unique] += _aligned(tensor)
                words.append(f"{part.name}/{name} {tensor.dtype} {[*tensor.shape]}")
        return Layout(layout_key(sorted(words)), sizes[True], sizes[False])

    def _slot_views(self, slot: int, file: StateFile, *, unique_only: bool = False) -> list[torch.Tensor]:
        """The slot's memory in the types and shapes of the live tensors."""
        views: list[torch.Tensor] = []
        places = [(file.unique(slot), True)] + ([] if unique_only else [(file.shared(slot), False)])
        for place, unique in places:
            at = 0
            for part in self._parts:
                if (part.name in self._unique) != unique:
                    continue
                for tensor in part.tensors.values():
                    size = tensor.numel() * tensor.element_size()
                    flat = torch.frombuffer(place[at : at + size], dtype=tensor.dtype) if size else torch.empty(0)
                    views.append(flat.view(tensor.shape))
                    at += _aligned(tensor)
        return views

    def _load_own(self, step: int) -> bool:
        """Load the step from this process's own file, before another layout may take its place."""
        own = self._file
        if own is None or (version := own.find(step)) is None or not own.intact(version):
            return False
        self._take(own, version)
        return True

    def _load(self, generation: Generation, step: int) -> str:
        """Load the step from a file of another process; where from, "" when there is none."""
        own = self._file
        assignment = generation.assignment
        folder = assignment.memory_folder
        others = [] if folder is None else own_paths(folder, assignment.job_uid)[:MAX_OTHERS]
        for path in others:
            if own is not None and path == own.path:
                continue
            if self._take_file(path, step):
                return "this node's memory"
        if self._take_stored(generation, step):
            return _DISK
        if folder is None or not assignment.fetched:
            return ""
        return _COPY if self._take_fetched(generation, folder, step) else ""

    def _take_fetched(self, generation: Generation, folder: Path, step: int) -> bool:
        """Wait for the agent to bring the state from another node."""
        path = fetched_path(folder, generation.assignment.job_uid, generation.number, generation.rank)
        failed = path.with_suffix(".failed")
        end = time.monotonic() + generation.assignment.join_timeout_s
        while not path.exists():
            generation.check()
            if failed.exists() or time.monotonic() > end:
                reason = failed.read_text() if failed.exists() else "it did not come in time"
                note(f"generation {generation.number}: no state of step {step} from another node: {reason[:300]}")
                return False
            time.sleep(FETCH_LOOK_S)
        return self._take_file(path, step)

    def _take_stored(self, generation: Generation, step: int) -> bool:
        """Load the step from the node's own disk."""
        assignment = generation.assignment
        if assignment.disk_folder is None or not assignment.line:
            return False
        return self._take_file(disk_path(assignment.disk_folder, assignment.rank), step, line=assignment.line)

    def _take_file(self, path: Path, step: int, *, line: Line | None = None) -> bool:
        """Load the step from a file of this rank; False when it is another's, or does not hold it. `line`: the file lies on a disk,
        and only what belongs to the line counts."""
        try:
            file = StateFile.open(path)
        except NotAState:
            return False
        try:
            ours = self._layout(self._parts)
            if file.get(Word.RANK) != self._shape[0] or file.layout.key != ours.key:
                return False
            if file.layout.unique_bytes != ours.unique_bytes:
                return False
            version = file.find(step)
            if version is None or (line is not None and not (version.counts(line) and file.readable(version))):
                return False
            if not file.intact(version):
                return False
            self._take(file, version)
            return True
        finally:
            file.close()

    def _take(self, file: StateFile, version: Version) -> None:
        """Copy a version into the live tensors, all that it has."""
        views = self._slot_views(version.slot, file, unique_only=not version.whole)
        with torch.no_grad():
            torch._foreach_copy_(self._live[: len(views)], views)

    def _share(self, groups: Groups, found: dict[str, str]) -> tuple[str, ...]:
        """Give parts to those replicas that lack them; the parts that nobody has."""
        missing = []
        for part in self._parts:
            group = _group(groups, part)
            holders = _holders(group, part.name in found)
            if not any(holders):
                missing.append(part.name)
            elif not all(holders):
                source = holders.index(True)
                pending = [group.broadcast(tensor, source=source, async_op=True) for tensor in part.tensors.values()]
                for operation in pending:
                    assert operation is not None  # async_op
                    operation.wait()
                found.setdefault(part.name, "a replica")
        return tuple(missing)

    def _forget_after(self, step: int) -> None:
        if self._file is not None:
            self._file.forget_after(step)

    def _mark(self, step: int, phase: Phase) -> None:
        if self._file is not None:
            self._file.mark(step, phase)


_COPY = "another node"
_DISK = "this node's disk"


def _too_large(needed: int, room: int) -> str:
    return f"its {needed >> 20} MiB do not fit the {room >> 20} MiB that the node has for a rank"


def _told(found: Mapping[str, str]) -> str:
    sources = sorted({*found.values()})
    if len(sources) == 1:
        return sources[0]
    return ", ".join(f"{source} ({', '.join(name for name in found if found[name] == source)})" for source in sources)


def _group(groups: Groups, part: Part) -> Group:
    group = getattr(groups, part.replicas)
    assert isinstance(group, Group)
    return group


def _holders(group: Group, mine: bool) -> list[bool]:
    """Which members have it."""
    if group.size == 1:
        return [mine]
    everyone = torch.zeros(group.size, dtype=torch.int64)
    group.all_gather(everyone, torch.tensor([int(mine)]))
    return [bool(said) for said in everyone.tolist()]


def _aligned(tensor: torch.Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // ALIGN) * ALIGN
