"""Checkpoints: staged at a step boundary, written by a background thread, named and digested for the controller.

A checkpoint folder holds parts: `dense`, written by one of the replicas, and `experts-<first>-<last>`, each written by
one rank of its expert-data-parallel group. A part is a torch.distributed.checkpoint folder with one flat tensor per
*unit* (`dense`, `expert-3`) and a `meta.json` that says where each canonical tensor lies in it. Units rather than
tensors, because a restore is on the path of every recovery and each key costs 0.3 ms to load; per expert, so that a
restore works for any expert-parallel degree.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from agents.rank import BadFile, Generation, RestorePoint, describe_files, verify_files
from training_jobs.moe.config import ModelConfig
from training_jobs.moe.parallel import Layout
from training_jobs.moe.state import TrainState

DENSE_PART = "dense"
META_FILE = "meta.json"
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_EXPERTS_PART = re.compile(r"experts-(\d+)-(\d+)$")

LAST_PATIENCE_S = 30.0
"""The save of the last step waits so long for the one before it. Others wait for nothing: `Generation.save_due` puts them off
until no rank writes any more, so that slow storage slows no step."""

warnings.filterwarnings("ignore", message="torch.distributed is disabled", module="torch.distributed.checkpoint")


class Unit:
    """One flat staging tensor and the live tensors it mirrors."""

    def __init__(self, live: Mapping[str, Tensor]) -> None:
        self.names = list(live)
        self._live = list(live.values())
        self.flat = torch.zeros(sum(tensor.numel() for tensor in self._live))
        sizes = [tensor.numel() for tensor in self._live]
        self._views = [
            flat.view(tensor.shape) for flat, tensor in zip(torch.split(self.flat, sizes), self._live, strict=True)
        ]

    @property
    def index(self) -> list[tuple[str, list[int]]]:
        """Names and shapes in the order in which they lie in `flat`."""
        return [(name, list(tensor.shape)) for name, tensor in zip(self.names, self._live, strict=True)]

    @torch.no_grad()
    def stage(self) -> None:
        """Copy the live values into the staging tensor."""
        torch._foreach_copy_(self._views, self._live)

    @torch.no_grad()
    def unstage(self) -> None:
        """Copy the staging tensor into the live values."""
        torch._foreach_copy_(self._live, self._views)


@dataclass(frozen=True, slots=True)
class Part:
    """A folder of a checkpoint and what one rank writes into it."""

    name: str
    units: dict[str, Unit]


def dense_part(tensors: Mapping[str, Tensor]) -> Part:
    """What all data-parallel replicas hold alike."""
    return Part(DENSE_PART, {DENSE_PART: Unit(tensors)})


def experts_part(tensors: Mapping[str, Tensor]) -> Part:
    """The experts of one expert-parallel rank, a unit each."""
    by_expert: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _EXPERT.search(name)
        assert found is not None, name
        by_expert.setdefault(int(found[1]), {})[name] = tensor
    units = {f"expert-{expert}": Unit(by_expert[expert]) for expert in sorted(by_expert)}
    return Part(f"experts-{min(by_expert)}-{max(by_expert)}", units)


def owned_parts(state: TrainState, layout: Layout) -> list[Part]:
    """What this rank writes: nothing that a replica writes too, spread over the ranks.

    The dense part belongs to the first data-parallel rank; the experts of an expert-parallel rank to the *last*
    replica that holds them, so that with two replicas or more nobody writes both unless there is no one else.
    """
    parts = []
    if layout.dp_rank == 0:
        parts.append(dense_part(state.dense_tensors()))
    if layout.edp_rank == layout.edp_size - 1:
        parts.append(experts_part(state.expert_tensors()))
    return parts


class CheckpointSaver:
    """Saves one state in one generation; at most one save in flight."""

    def __init__(self, state: TrainState, layout: Layout, generation: Generation, model: ModelConfig) -> None:
        self._state = state
        self._generation = generation
        self._model = model
        self._parts = owned_parts(state, layout)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="phalanx-save")
        self._in_flight: Future[None] | None = None
        self.last_stall_s = 0.0
        self.last_step = -1

    @property
    def busy(self) -> bool:
        """Whether an earlier save is still being written."""
        return self._in_flight is not None and not self._in_flight.done()

    def save(self, patience_s: float = 0.0) -> None:
        """Stage the state of this step boundary and let the thread write it. Blocks for the stall only, and for `patience_s` while
        an earlier save is being written."""
        reached = time.monotonic()
        if not self.wait(patience_s):
            self._generation.save_failed(self._state.step, "the save before is still being written")
            return
        for part in self._parts:
            for unit in part.units.values():
                unit.stage()
        self.last_step = self._state.step
        self.last_stall_s = time.monotonic() - reached
        self._in_flight = self._thread.submit(self._write, self._state.step, self.last_stall_s, reached)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the save in flight; False when it is not done in time. Raises GenerationChanged."""
        deadline = time.monotonic() + timeout_s
        while self._in_flight is not None and not self._in_flight.done():
            self._generation.check()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def _write(self, step: int, stall_s: float, reached: float) -> None:
        """On the thread. A failure is reported, what was written goes, and training goes on without this checkpoint."""
        folder = self._generation.step_folder(step)
        try:
            files = []
            for part in self._parts:
                if self._generation.over:
                    return
                write_part(folder, part, step, self._model)
                files += describe_files(folder, part.name)
        except (OSError, RuntimeError, CheckpointException) as error:
            self._generation.save_failed(step, f"{type(error).__name__}: {str(error)[-300:]}")
            for part in self._parts:  # on a full disk it is what keeps the next one from being written
                shutil.rmtree(folder / part.name, ignore_errors=True)
            return
        self._generation.shard_written(step, files, save_stall_s=stall_s, step_reached_at=reached)


def write_part(folder: Path, part: Part, step: int, model: ModelConfig) -> None:
    """Write one staged part. Raises OSError or CheckpointException."""
    target = folder / part.name
    target.mkdir(parents=True, exist_ok=True)
    meta = {
        "step": step,
        "model": asdict(model),
        "units": {name: unit.index for name, unit in part.units.items()},
    }
    (target / META_FILE).write_text(json.dumps(meta))
    writer = FileSystemWriter(target, single_file_per_rank=True, sync_files=False, thread_count=1)
    save({name: unit.flat for name, unit in part.units.items()}, storage_writer=writer, no_dist=True)


def restore(
    state: TrainState,
    point: RestorePoint,
    kinds: Collection[str] = (DENSE_PART, "experts"),
    model: ModelConfig | None = None,
) -> None:
    """Load what this rank holds, all or one of the kinds, from files whose digests were checked first. Raises BadFile.

    The layout that wrote it does not matter: any number of replicas, any expert-parallel degree. The model does.
    """
    parts = [dense_part(state.dense_tensors())] if DENSE_PART in kinds else []
    if "experts" in kinds:
        parts.append(experts_part(state.expert_tensors()))
    units = {name: unit for part in parts for name, unit in part.units.items()}
    names = parts_needed({file.path.split("/", 1)[0] for file in point.files}, units)
    verify_files(point, names)
    missing = set(units)
    for name in names:
        step, loaded = read_part(point.folder, name, units, model)
        missing -= loaded
        if step != point.step:
            raise BadFile(f"{name}/{META_FILE}", f"holds step {step}, the manifest says {point.step}")
    if missing:
        raise BadFile(point.checkpoint_id, f"no part holds {', '.join(sorted(missing))}")
    for unit in units.values():
        unit.unstage()
    state.step = point.step  # exactly: the staging tensors are float32, and exact only up to 2^24


def parts_needed(present: set[str], units: Mapping[str, Unit]) -> list[str]:
    """Of the parts that a checkpoint has, those that hold any of `units`; the dense part even when it is missing."""
    wanted = {int(name.removeprefix("expert-")) for name in units if name.startswith("expert-")}
    needed = [DENSE_PART] if DENSE_PART in units else []
    for name in sorted(present):
        found = _EXPERTS_PART.match(name)
        if found and not wanted.isdisjoint(range(int(found[1]), int(found[2]) + 1)):
            needed.append(name)
    return needed


def read_part(
    folder: Path, part: str, units: Mapping[str, Unit], model: ModelConfig | None = None
) -> tuple[int, set[str]]:
    """Fill the staging tensors of those `units` that the part holds; returns its step and which they were.

    Raises BadFile when it cannot be read, is of another model than `model`, or holds other tensors than this model has.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / part / META_FILE).read_text())
        differs = "" if model is None else differences(meta["model"], asdict(model))
        if differs:
            raise BadFile(
                f"{part}/{META_FILE}",
                f"is of another model: {differs}; give the job the arguments that it was trained with",
            )
        held = {name: units[name] for name in meta["units"] if name in units}
        for name, unit in held.items():
            if not _same_index(meta["units"][name], unit.index):
                raise BadFile(f"{part}/{META_FILE}", f"{name} holds other tensors than this model has")
        reader = FileSystemReader(folder / part)
        load({name: unit.flat for name, unit in held.items()}, storage_reader=reader, no_dist=True)
    except (OSError, ValueError, KeyError, RuntimeError, CheckpointException) as error:
        raise BadFile(part, f"cannot be loaded: {type(error).__name__}: {str(error)[-300:]}") from error
    return int(meta["step"]), set(held)


def differences(stored: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Fields in which two models differ, with both values; "" when they are the same."""
    fields = [name for name in {**ours, **stored} if stored.get(name) != ours.get(name)]
    return ", ".join(
        f"{name} is {stored.get(name, 'not known')} there and {ours.get(name, 'not known')} here" for name in fields
    )


def _same_index(stored: Sequence[Sequence[Any]], ours: Sequence[tuple[str, list[int]]]) -> bool:
    return [(name, list(shape)) for name, shape in stored] == [(name, list(shape)) for name, shape in ours]
