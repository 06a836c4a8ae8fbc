"""A plain DDP script as a Phalanx job, whole: data, model, steps, saves, restores."""

import hashlib
import time

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from agents.rank import BadFile, Generation, InterruptibleProcessGroup, RankContext, describe_files, verify_files

DATA = torch.randn(4096, 16, generator=torch.Generator().manual_seed(0))  # made before the process is parked


def main(context: RankContext) -> None:
    """Train through as many generations as it takes."""
    for generation in context.generations():
        with generation:  # ends the attempt when a peer is lost; the loop then takes the next one
            train(context, generation)
            return


def train(context: RankContext, generation: Generation) -> None:
    """One attempt."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 16))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    group = InterruptibleProcessGroup(generation.join().world, generation)
    step = restore(context, generation, net, optimizer)
    model = DistributedDataParallel(net, process_group=group, find_unused_parameters=True)
    for step in range(step + 1, int(context.args.get("steps", 200)) + 1):  # noqa: B020  goes on where the restore ends
        rows = DATA[torch.arange(32) * generation.world_size + generation.rank + step * 7 & 4095]
        loss = nn.functional.mse_loss(model(rows), rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        time.sleep(float(context.args.get("step_floor_ms", 0)) / 1000)  # time to break something
        context.progress(step, loss.item())
        if generation.save_due(step):  # the same answer on every rank
            save(generation, step, {"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    weights = b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values())
    context.finish({"steps": step, "weights_sha256": hashlib.sha256(weights).hexdigest()})


def save(generation: Generation, step: int, state: object) -> None:
    """Rank 0 writes, every rank reports; a store that is full or away costs this checkpoint and nothing else."""
    begun, files, folder = time.monotonic(), [], generation.step_folder(step)
    try:
        if generation.rank == 0:
            (folder / "model").mkdir(parents=True)
            torch.save(state, folder / "model" / "state.pt")
            files = describe_files(folder, "model")
    except (OSError, RuntimeError) as error:
        generation.save_failed(step, str(error))
    else:
        generation.shard_written(step, files, save_stall_s=time.monotonic() - begun, step_reached_at=begun)


def restore(context: RankContext, generation: Generation, net: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load what the generation starts from; its step."""
    point = generation.restore
    if not point.from_scratch:
        try:
            verify_files(point, ["model"])
        except BadFile as bad:
            context.restore_failed(bad.file, bad.reason)  # never returns: an older checkpoint comes
        state = torch.load(point.folder / "model" / "state.pt", weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
    return point.step
