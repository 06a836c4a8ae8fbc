"""`plain.py` as a Phalanx job: the same model, data and optimizer; survives the deaths of its ranks, to the last bit."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from itertools import islice

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from agents.rank import BadFile, Generation, InterruptibleProcessGroup, RankContext, describe_files, verify_files

VOCABULARY, WIDTH, LENGTH = 64, 64, 32


class CharModel(nn.Module):
    """Embedding, GRU, dropout, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.rnn = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Logits of the next character at every place."""
        hidden, _ = self.rnn(self.embedding(text))
        logits: torch.Tensor = self.head(self.dropout(hidden))
        return logits


def make_data() -> TensorDataset:
    """Synthetic text: every third letter of the alphabet, from a random start."""
    start = torch.randint(0, VOCABULARY, (2048, 1), generator=torch.Generator().manual_seed(0))
    return TensorDataset((start + 3 * torch.arange(LENGTH + 1)) % VOCABULARY)


DATA = make_data()  # in the module: there before the process is parked, so no recovery waits for it


def main(context: RankContext) -> None:
    """Train through as many generations as it takes."""
    torch.set_num_threads(1)
    for generation in context.generations():
        with generation:  # ends the attempt when a peer is lost; the loop then takes the next one
            train(context, generation)
            return


def train(context: RankContext, generation: Generation) -> None:
    """One attempt: join, build, restore, step, save, finish."""
    steps = int(context.args.get("steps", 300))
    groups = generation.join()
    torch.manual_seed(0)
    net = CharModel()
    optimizer = torch.optim.AdamW(net.parameters(), lr=float(context.args.get("lr", 1e-3)))
    step = restore(context, generation, net, optimizer)
    group = InterruptibleProcessGroup(groups.world, generation)
    model = DistributedDataParallel(net, process_group=group, find_unused_parameters=True)

    texts = batches(generation, step, int(context.args.get("batch_size", 16)))
    while step < steps:
        with context.phase("data"):  # what is in no phase is the rank's own compute
            text = next(texts)
        torch.manual_seed(context.seed("dropout", step, generation.rank))  # the step's own, also after a restore
        loss = nn.functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        time.sleep(float(context.args.get("step_floor_ms", 0)) / 1000)  # so that there is time to break something
        step += 1
        context.progress(step, loss.item())
        if generation.rank == 0 and step % 10 == 0:
            print(f"step {step} loss {loss.item():.4f}", flush=True)  # noqa: T201  read it with `phalanx logs`
        if generation.save_due(step):
            save(generation, step, net, optimizer)
    context.finish({"steps": step, "weights_sha256": digest(net)})


def batches(generation: Generation, step: int, batch_size: int) -> Iterator[torch.Tensor]:
    """This rank's batches from `step` on, without end: which they are depends on the step only, not on who restarted."""
    sampler: DistributedSampler[TensorDataset] = DistributedSampler(DATA, generation.world_size, generation.rank)
    loader = DataLoader(DATA, batch_size=batch_size, sampler=sampler)
    while True:
        epoch, done = divmod(step, len(loader))
        sampler.set_epoch(epoch)
        for (text,) in islice(loader, done, None):
            yield text
            step += 1


def save(generation: Generation, step: int, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Rank 0 writes, every rank reports: the checkpoint counts when all have."""
    reached, files = time.monotonic(), []
    folder = generation.step_folder(step)
    try:
        if generation.rank == 0:
            (folder / "model").mkdir(parents=True)
            state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, folder / "model" / "state.pt")
            files = describe_files(folder, "model")
    except (OSError, RuntimeError) as error:
        generation.save_failed(step, str(error))
        return
    generation.shard_written(step, files, save_stall_s=time.monotonic() - reached, step_reached_at=reached)


def restore(context: RankContext, generation: Generation, net: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Loads what the generation starts from; returns its step."""
    if generation.restore.from_scratch:
        return 0
    try:
        verify_files(generation.restore, ["model"])
    except BadFile as bad:
        context.restore_failed(bad.file, bad.reason)  # never returns: an older checkpoint comes
    state = torch.load(generation.restore.folder / "model" / "state.pt", weights_only=True)
    net.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def digest(net: nn.Module) -> str:
    """SHA-256 of the weights: equal in a run that was killed and in one that was not."""
    sha = hashlib.sha256()
    for tensor in net.state_dict().values():
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()
