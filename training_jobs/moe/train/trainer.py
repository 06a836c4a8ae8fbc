"""The trainer, top to bottom: join, build, restore, step, save, finish; over again at every new generation."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from agents.rank import BadFile, Generation, Groups, RankContext, note
from training_jobs.moe import checkpoint, data
from training_jobs.moe.config import TrainConfig, train_config
from training_jobs.moe.hashing import state_digest
from training_jobs.moe.parallel import ExpertParallel, Layout, reduce_gradients
from training_jobs.moe.state import TrainState

FINAL_SAVE_PATIENCE_S = 600.0


def main(context: RankContext) -> None:
    """Train until `steps` are done, through as many generations as it takes."""
    config = train_config(context.args)
    make_deterministic()
    text = data.load_text(config.data_folder, config.data_bytes)
    for generation in context.generations():
        with generation:
            train(context, generation, config, text)
            return


def prepare(context: RankContext) -> None:
    """While the process is still parked: check the arguments, read the data, pay first-use costs with two steps."""
    config = train_config(context.args)
    make_deterministic()
    text = data.load_text(config.data_folder, config.data_bytes)
    trainer = Trainer(config, text, Layout(0, 1, 0, 1, 0, 1), None)
    trainer.state.initialise(config.seed)
    for _ in range(2):
        trainer.train_step()


def make_deterministic() -> None:
    """Same inputs, same bits: deterministic kernels, and one thread so that no sum is split differently."""
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms, without importing the compiler (0.6 s)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, adds nothing


def train(context: RankContext, generation: Generation, config: TrainConfig, text: Tensor) -> None:
    """One attempt. Ends by finishing the job, or by an exception that `with generation:` knows."""
    layout = Layout.of(generation, config.model)
    groups = generation.join()
    trainer = Trainer(config, text, layout, groups)
    state = trainer.state
    if generation.restore.from_scratch:
        state.initialise(config.seed)
    else:
        try:
            checkpoint.restore(state, generation.restore)
        except BadFile as bad:
            context.restore_failed(bad.file, bad.reason)
    generation.restored()

    saver = checkpoint.CheckpointSaver(state, layout, generation, config.model)
    with Metrics(config, generation) as metrics:
        while state.step < config.steps:
            started = time.monotonic()
            loss = trainer.train_step()
            sleep_until(started + config.step_floor_ms / 1000)
            context.progress(state.step, loss)
            stall_s = save_if_due(saver, state.step, generation.checkpoint_every_steps, config.steps)
            metrics.write(state.step, loss, time.monotonic() - started, stall_s)
    if not saver.wait(FINAL_SAVE_PATIENCE_S):
        note("the last checkpoint is still not written: finishing without it")
    digest = state_digest(state, groups)
    context.finish({"weights_sha256": digest, "final_loss": repr(state.loss.item()), "steps": state.step})


def save_if_due(saver: checkpoint.CheckpointSaver, step: int, every: int, last: int) -> float:
    """Save at every `every`-th step and at the last one, unless checkpoints are off; returns the stall in seconds."""
    if every and (step % every == 0 or step == last):
        saver.save()
        return saver.last_stall_s
    return 0.0


def sleep_until(moment: float) -> None:
    """Sleep until `moment` on the monotonic clock; returns at once when it has passed."""
    time.sleep(max(0.0, moment - time.monotonic()))


class Trainer:
    """State and the one step that changes it."""

    def __init__(self, config: TrainConfig, text: Tensor, layout: Layout, groups: Groups | None) -> None:
        self.config = config
        self.text = text
        self.layout = layout
        self.groups = groups
        experts = groups.expert_parallel if groups else None
        self.state = TrainState(config, ExpertParallel(experts, layout.ep_rank, layout.ep_size))

    def train_step(self) -> float:
        """Forward, backward, reduce, update; returns the loss over all replicas (nats per byte)."""
        config, state = self.config, self.state
        for optimizer in (state.dense, state.experts):
            optimizer.gradients.zero_()
        loss = state.model.loss(self.batch(state.step))
        loss.backward()  # type: ignore[no-untyped-call]
        statistics = state.dense.extra
        statistics[0] = loss.detach()
        statistics[1:] = torch.cat([router.load for router in state.routers])
        reduce_gradients(state.dense, state.experts, self.groups, self.layout.dp_size)
        state.step += 1
        lr = config.lr * min(1.0, state.step / config.warmup_steps)
        for optimizer in (state.dense, state.experts):
            optimizer.step(state.step, lr=lr, weight_decay=config.weight_decay)
        for router, load in zip(state.routers, statistics[1:].view(len(state.routers), -1), strict=True):
            router.steer(load, real_per_token=config.real_experts_per_token, rate=config.bias_rate)
            if state.step == config.drop_buffer:  # negative control
                router.bias.zero_()
        state.loss.copy_(statistics[0] / self.layout.dp_size)
        return state.loss.item()

    def batch(self, step: int) -> Tensor:
        """This rank's text for a step."""
        skipped = 1 if 0 < self.config.skip_batch <= step + 1 else 0  # negative control
        return data.batch(
            self.text,
            seed=self.config.seed,
            step=step + skipped,
            dp_rank=self.layout.dp_rank,
            rows=self.config.batch,
            sequence=self.config.sequence,
        )


class Metrics:
    """One JSON line per step, by rank 0. Steps that are done again appear again, with their generation."""

    def __init__(self, config: TrainConfig, generation: Generation) -> None:
        self._generation = generation
        self._path = Path(config.metrics) if config.metrics else generation.job_folder / "metrics.jsonl"
        self._stream: TextIO | None = None

    def __enter__(self) -> Metrics:
        if self._generation.rank == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._path.open("a", buffering=1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def write(self, step: int, loss: float, step_s: float, stall_s: float) -> None:
        """Append a step."""
        if self._stream is None:
            return
        row = {
            "step": step,
            "loss": loss,
            "wall_s": time.time(),
            "step_s": round(step_s, 6),
            "save_stall_s": round(stall_s, 6),
            "generation": self._generation.number,
        }
        self._stream.write(json.dumps(row) + "\n")
