"""A character model as one writes it for torchrun. Two calls make it a Phalanx job as well: `phalanx.step`, `phalanx.saved`.

torchrun --nproc-per-node 2 train.py --steps 300
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from agents.rank import script as phalanx

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


def main() -> None:
    """Train, and save every so often."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("checkpoint.pt"))
    args = parser.parse_args()

    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = DistributedDataParallel(CharModel())
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    data = make_data()
    sampler: DistributedSampler[TensorDataset] = DistributedSampler(data, world_size, rank)
    loader = DataLoader(data, batch_size=args.batch_size, sampler=sampler)

    step = 0
    if args.out.exists():
        state = torch.load(args.out)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]

    while step < args.steps:
        sampler.set_epoch(step // len(loader))
        for (text,) in loader:
            loss = nn.functional.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            phalanx.step(step, loss.item())
            if rank == 0 and step % 10 == 0:
                print(f"step {step} loss {loss.item():.4f}", flush=True)  # noqa: T201  a script talks on stdout
            if rank == 0 and step % args.save_every == 0:
                state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                torch.save(state, args.out)
            if step % args.save_every == 0:
                phalanx.saved(step, args.out)
            if step == args.steps:
                break
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
