"""The smallest workload with everything in it: counts steps together, saves its count, and survives its ranks' deaths.

The page docs/writing-a-workload.md walks through this file.
"""

from __future__ import annotations

import json
import time

import torch

from agents.rank import BadFile, Generation, RankContext, describe_files, verify_files


def main(context: RankContext) -> None:
    """Add up what the ranks say until `steps` steps are done."""
    for generation in context.generations():
        with generation:  # ends the attempt when a peer is lost; the loop then takes the next one
            count(context, generation)
            return


def count(context: RankContext, generation: Generation) -> None:
    """One attempt: join, restore, step, save, finish."""
    steps = int(context.args.get("steps", 100))
    pause_s = float(context.args.get("step_floor_ms", 0)) / 1000
    groups = generation.join()
    step, total = restore(context, generation)
    generation.restored()
    while step < steps:
        mine = torch.tensor([float(step * generation.world_size + generation.rank)], dtype=torch.float64)
        time.sleep(pause_s)
        groups.world.all_reduce(mine)
        total += int(mine)
        step += 1
        context.progress(step, loss=1.0 / step)
        if generation.save_due(step):
            save(generation, step, total)
    context.finish({"steps": step, "total": total})


def save(generation: Generation, step: int, total: int) -> None:
    """Rank 0 owns the count; every rank reports, so that the checkpoint can be committed."""
    reached = time.monotonic()
    folder = generation.step_folder(step)
    files = []
    if generation.rank == 0:
        (folder / "count").mkdir(parents=True)
        (folder / "count" / "state.json").write_text(json.dumps({"step": step, "total": total}))
        files = describe_files(folder, "count")
    generation.shard_written(step, files, save_stall_s=time.monotonic() - reached, step_reached_at=reached)


def restore(context: RankContext, generation: Generation) -> tuple[int, int]:
    """Step and total to go on from."""
    if generation.restore.from_scratch:
        return 0, 0
    try:
        verify_files(generation.restore, ["count"])
    except BadFile as bad:
        context.restore_failed(bad.file, bad.reason)
    state = json.loads((generation.restore.folder / "count" / "state.json").read_text())
    return int(state["step"]), int(state["total"])
