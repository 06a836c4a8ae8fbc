"""Complete a prompt with a checkpoint, without any cluster: `python -m training_jobs.moe.sample --checkpoint FOLDER`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from agents.rank import BadFile
from training_jobs.moe.checkpoint import DENSE_PART, META_FILE, Part, dense_part, experts_part, parts_needed, read_part
from training_jobs.moe.config import ModelConfig, TrainConfig
from training_jobs.moe.model import LanguageModel
from training_jobs.moe.parallel import ExpertParallel
from training_jobs.moe.state import TrainState


def load_model(folder: Path) -> tuple[LanguageModel, int]:
    """The whole model of a checkpoint folder (`.../step-<n>`) and its step. Raises BadFile."""
    try:
        sizes = json.loads((folder / DENSE_PART / META_FILE).read_text())["model"]
        config = ModelConfig(**sizes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadFile(f"{DENSE_PART}/{META_FILE}", f"cannot be read: {error}") from error
    state = TrainState(TrainConfig(config), ExpertParallel.alone())
    parts: list[Part] = [dense_part(state.dense_tensors()), experts_part(state.expert_tensors())]
    units = {name: unit for part in parts for name, unit in part.units.items()}
    missing = set(units)
    for name in parts_needed({path.name for path in folder.iterdir()}, units):
        missing -= read_part(folder, name, units)[1]
    if missing:
        raise BadFile(str(folder), f"no part holds {', '.join(sorted(missing))}")
    for unit in units.values():
        unit.unstage()
    return state.model.eval(), state.step


@torch.no_grad()
def complete(model: LanguageModel, prompt: bytes, *, length: int, temperature: float, seed: int) -> bytes:
    """`length` more bytes, drawn at `temperature` (0: the most likely one); the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.tensor([list(prompt)], dtype=torch.int64)
    for _ in range(length):
        logits = model(text)[0, -1]
        text = torch.cat([text, _draw(logits, temperature, generator).view(1, 1)], dim=1)
    return bytes(text[0].tolist())


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature <= 0:
        return logits.argmax()
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training_jobs.moe.sample", description=__doc__)
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="FOLDER", help="folder of one step")
    parser.add_argument("--prompt", default="def ", help="text to go on from (default: %(default)r)")
    parser.add_argument("--length", type=int, default=200, help="bytes to add (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0: always the most likely byte")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not options.prompt:
        parser.error("--prompt must not be empty")
    try:
        model, step = load_model(options.checkpoint)
    except BadFile as bad:
        sys.stderr.write(f"checkpoint {options.checkpoint}: {bad}\n")
        return 2
    text = complete(
        model,
        options.prompt.encode(),
        length=options.length,
        temperature=options.temperature,
        seed=options.seed,
    )
    sys.stderr.write(f"checkpoint of step {step}\n")
    sys.stdout.write(text.decode(errors="replace") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
