"""Runs a script that was written for torchrun. The script is the job's `main`; all it needs to add are two calls.

In the manifest: `module: agents.rank.script`, `folder: .`, `args: {script: train.py, argv: ["--steps", "300"]}`. In the script:

    from agents.rank import script as phalanx
    ...
    phalanx.step(step, loss)         # every rank, after each step
    phalanx.saved(step, path)        # every rank, after rank 0 has written its checkpoint file

`init_process_group` finds the variables that torchrun sets. Before the script starts anew, the newest checkpoint that is whole lies
at its path again, so that it loads what it would load anyway. Relative paths lie in the job's folder on shared storage. Under
torchrun itself both calls do nothing.

Such a script knows no generations: when a rank is lost all others end as well, with the code that says so, and all start anew. A
workload with `main(context)` keeps its processes (docs/writing-a-workload.md).
"""

from __future__ import annotations

import importlib
import json
import math
import os
import runpy
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from agents.rank.checkpoint_files import BadFile, describe_files, verify_files
from agents.rank.context import RankContext
from agents.rank.errors import EXIT_PEER_LOST, WorkloadRefused
from agents.rank.generation import Generation
from agents.rank.link import note

PART = "script"
PATH_FILE = "path.json"
"""Beside the saved file: where the script had written it, and reads it from."""
_LOST_PEER = ("gloo", "connection closed by peer", "connection reset by peer", "timed out waiting")


class _Run:
    """The attempt that the script is part of. `current`: of this process; None outside of Phalanx."""

    current: ClassVar[_Run | None] = None

    def __init__(self, context: RankContext, generation: Generation) -> None:
        self.context = context
        self.generation = generation
        self.ended = False

    def leave(self) -> None:
        """The generation is over while the script runs: it cannot be told. Any thread."""
        if not self.ended:
            sys.stdout.flush()
            note(
                f"generation {self.generation.number} is over, and a script cannot join the next: leaving with {EXIT_PEER_LOST}"
            )
            os._exit(EXIT_PEER_LOST)


def step(number: int, loss: float = math.nan) -> None:
    """Say that a step (counted from 1) is done. The first one makes the rank RUNNING. Does nothing outside of Phalanx."""
    if _Run.current is not None:
        _Run.current.context.progress(number, loss)


def saved(number: int, path: str | os.PathLike[str]) -> None:
    """Every rank, after rank 0 has written `path`: a copy becomes the checkpoint of step `number`, which a restart starts from.

    A copy that cannot be made is reported, and costs this checkpoint only. Does nothing outside of Phalanx.
    """
    if _Run.current is None:
        return
    generation, begun = _Run.current.generation, time.monotonic()
    folder = generation.step_folder(number)
    files = []
    try:
        if generation.rank == 0:
            (folder / PART).mkdir(parents=True)
            shutil.copyfile(path, folder / PART / "state")
            (folder / PART / PATH_FILE).write_text(json.dumps(str(Path(path).absolute())))
            files = describe_files(folder, PART)
    except OSError as error:
        generation.save_failed(number, f"{path} cannot be copied: {error}")
        return
    generation.shard_written(number, files, save_stall_s=time.monotonic() - begun, step_reached_at=begun)


def main(context: RankContext) -> None:
    """Run the script of `args` once, in the generation that this process is given."""
    script, argv = _wanted(context.args)
    generation = next(context.generations())
    groups = generation.join()
    _put_back(context, generation)
    groups.world.barrier()  # nobody reads before the file lies there
    generation.restored()
    run = _Run.current = _Run(context, generation)
    generation.on_end(run.leave)
    try:
        _carry_out(run, script, argv)
        context.finish({"script": Path(script).name})
    finally:
        run.ended = True


def _carry_out(run: _Run, script: str, argv: list[str]) -> None:
    """Run the file as `python SCRIPT ARGV` does. An error that is only a consequence of a lost peer ends the process as such."""
    os.environ.update(_variables(run.generation))
    _name_apart(run.generation)
    run.generation.job_folder.mkdir(parents=True, exist_ok=True)
    os.chdir(run.generation.job_folder)
    sys.argv = [script, *argv]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as left:
        if left.code not in (None, 0):
            raise
    except Exception as error:
        if not (run.generation.over or _is_lost_peer(error)):
            raise
        note(f"the script lost a peer: {type(error).__name__}: {str(error)[:300]}")
        raise SystemExit(EXIT_PEER_LOST) from error


def _wanted(args: dict[str, Any]) -> tuple[str, list[str]]:
    """Path of the script and its arguments.

    Raises:
        WorkloadRefused: one of them is missing or of the wrong kind.
    """
    script, argv = args.get("script"), args.get("argv", [])
    if not isinstance(script, str) or not isinstance(argv, list):
        raise WorkloadRefused(
            "args must hold `script`, the name of a file in the job's folder, and may hold `argv`, a list"
        )
    path = next((found for found in (Path(place) / script for place in sys.path) if found.is_file()), None)
    if path is None:
        raise WorkloadRefused(f"args.script: there is no file {script} in the job's folder or on the module path")
    return str(path), [str(word) for word in argv]


def _put_back(context: RankContext, generation: Generation) -> None:
    """The file of the restore point lies where the script reads it. One rank of each place writes; the others find the same."""
    point = generation.restore
    if point.from_scratch:
        return
    try:
        verify_files(point, [PART])
        path = Path(json.loads((point.folder / PART / PATH_FILE).read_text()))
    except BadFile as bad:
        context.restore_failed(bad.file, bad.reason)
        raise
    beside = path.with_name(f".{path.name}.{generation.rank}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(point.folder / PART / "state", beside)
        beside.replace(path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    note(f"{path} is that of step {point.step} again")


def _variables(generation: Generation) -> dict[str, str]:
    """What torchrun sets, with the cell's store in place of its own (see `_name_apart`)."""
    host, _, port = generation.assignment.store_address.rpartition(":")
    here = sorted(row.rank for row in generation.table)
    local = here.index(generation.rank) if generation.rank in here else 0
    return {
        "RANK": str(generation.rank), "WORLD_SIZE": str(generation.world_size),
        "LOCAL_RANK": str(local), "LOCAL_WORLD_SIZE": str(max(1, len(here))), "GROUP_RANK": "0", "ROLE_RANK": str(generation.rank),
        "MASTER_ADDR": host, "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": f"{generation.assignment.job_uid}-{generation.number}",
        "TORCHELASTIC_RUN_ID": generation.assignment.job_uid,
    }  # fmt: skip


def _name_apart(generation: Generation) -> None:
    """Give the script's own rendezvous names of this generation.

    torchrun starts a store for each attempt, and torch (as of 2.13) adds no name of the attempt to one that it is given: in the
    cell's store, which lives longer, a rank would find the addresses of the generation before. There is no public way to
    wrap a store that `init_process_group` makes from the environment.
    """
    distributed: Any = importlib.import_module("torch.distributed")  # only ranks that have joined come here

    handlers = importlib.import_module("torch.distributed.rendezvous")._rendezvous_handlers  # noqa: SLF001
    plain = handlers["env"]
    prefix = f"script/{generation.assignment.job_uid}/{generation.number}"

    def handler(url: str, **options: Any) -> Iterator[tuple[Any, int, int]]:
        for store, rank, world_size in plain(url, **options):
            yield distributed.PrefixStore(prefix, store), rank, world_size

    handlers["env"] = handler


def _is_lost_peer(error: Exception) -> bool:
    """Whether a script's error only says that somebody else has gone."""
    import torch.distributed as dist  # noqa: PLC0415  only scripts that use it come here

    text = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in _LOST_PEER)
    )
