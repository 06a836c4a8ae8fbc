"""The trainer, top to bottom: join, build, restore, step, save, finish; over again at every new generation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from agents.rank import BadFile, Generation, Groups, RankContext, StateKeeper, note
from agents.rank.checks import ReplicaCheck, StepReplay
from training_jobs.moe import checkpoint, data
from training_jobs.moe.checks import Exchanges, Injection, replica_check, step_replay
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
    kept: Kept | None = None
    for generation in context.generations():
        with generation:
            layout = Layout.of(generation, config.model)
            if kept is None or kept.trainer.layout != layout:
                kept = Kept(context, Trainer(config, text, layout))
            train(context, generation, kept)
            return


def prepare(context: RankContext) -> None:
    """While the process is still parked: check the arguments, read the data, pay first-use costs with two steps."""
    config = train_config(context.args)
    make_deterministic()
    text = data.load_text(config.data_folder, config.data_bytes)
    trainer = Trainer(config, text, Layout(0, 1, 0, 1, 0, 1))
    trainer.state.initialise(config.seed)
    for _ in range(2):
        trainer.train_step()


def make_deterministic() -> None:
    """Same inputs, same bits: deterministic kernels, and one thread so that no sum is split differently."""
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms, without importing the compiler (0.6 s)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, adds nothing


class Kept:
    """What a process keeps from one generation to the next."""

    def __init__(self, context: RankContext, trainer: Trainer) -> None:
        self.trainer = trainer
        config = trainer.config
        self.keeper = StateKeeper(context, trainer.state.parts(), repr(config.model), enabled=bool(config.memory))
        trainer.updating, trainer.settle = self.keeper.updating, self.keeper.settle
        trainer.reading, trainer.parallel.note_load = context.phase("data"), context.note_load


def restore(context: RankContext, generation: Generation, groups: Groups, kept: Kept) -> None:
    """Bring the state to the generation's start: from memory, from files, or from the seed."""
    state, held = kept.trainer.state, kept.keeper.restore(generation, groups)
    if held.missing:
        if generation.restore.from_scratch:
            state.initialise(kept.trainer.config.seed)
        else:
            try:
                checkpoint.restore(state, generation.restore, held.missing, kept.trainer.config.model)
            except BadFile as bad:
                context.restore_failed(bad.file, bad.reason)
    kept.keeper.hold(state.step)
    generation.restored()
    kept.trainer.start_checks(generation)


def train(context: RankContext, generation: Generation, kept: Kept) -> None:
    """One attempt. Ends by finishing the job, or by an exception that `with generation:` knows."""
    trainer, state, config = kept.trainer, kept.trainer.state, kept.trainer.config
    groups = generation.join()
    trainer.meet(groups, generation.shares)
    restore(context, generation, groups, kept)

    saver = checkpoint.CheckpointSaver(state, trainer.layout.among(groups), generation, config.model)
    with Metrics(config, generation) as metrics:
        while state.step < config.steps:
            started, stall_s, before = time.monotonic(), 0.0, state.step
            try:
                loss = trainer.train_step()
                sleep_until(started + config.step_floor_ms / 1000)
                context.progress(state.step, loss, trainer.gradient_norm)
                due = generation.save_due(state.step, busy=saver.busy)
                with context.phase("checkpoint"):
                    stall_s = save(trainer, saver, generation, due=due)
            finally:  # a step that is whole when the generation ends is not done again
                if kept.keeper.step > before:
                    metrics.write(state.step, state.loss.item(), time.monotonic() - started, stall_s)
    if not saver.wait(FINAL_SAVE_PATIENCE_S):
        note("the last checkpoint is still not written: finishing without it")
    digest = state_digest(state, groups)
    context.finish({"weights_sha256": digest, "final_loss": repr(state.loss.item()), "steps": state.step})


def save(trainer: Trainer, saver: checkpoint.CheckpointSaver, generation: Generation, *, due: bool) -> float:
    """Save when all ranks agree that it is time, and at the last step, unless checkpoints are off; the stall in seconds."""
    step, last = trainer.state.step, trainer.config.steps
    if not due and not (step == last and generation.checkpoint_every_steps):
        return 0.0
    trainer.check_before_save()
    saver.save(checkpoint.LAST_PATIENCE_S if step == last else 0.0)
    return saver.last_stall_s


def sleep_until(moment: float) -> None:
    """Sleep until `moment` on the monotonic clock; returns at once when it has passed."""
    time.sleep(max(0.0, moment - time.monotonic()))


class Trainer:
    """State and the one step that changes it. `updating(step)` is entered around what does."""

    def __init__(self, config: TrainConfig, text: Tensor, layout: Layout) -> None:
        self.config = config
        self.text = text
        self.layout = layout
        self.groups: Groups | None = None
        self.shares: tuple[int, ...] = (layout.dp_rank,)
        self.updating: Callable[[int], AbstractContextManager[None]] = lambda _step: nullcontext()
        self.settle: Callable[[], None] = lambda: None
        self.parallel = ExpertParallel(None, layout.ep_rank, layout.ep_size)
        self.state = TrainState(config, self.parallel)
        self.replicas: ReplicaCheck | None = None
        self.replay: StepReplay | None = None
        self.injection: Injection | None = None
        self.checked_at = 0
        self.reading: AbstractContextManager[None] = nullcontext()
        self.gradient_norm = 0.0
        """Of the dense part, averaged over replicas, in the last step."""
        self.skips: Callable[[int], bool] = lambda _step: False

    def meet(self, groups: Groups, shares: Sequence[int] = ()) -> None:
        """The groups of a new generation, and the shares of the batch that are this rank's in it (its own when none are named); the
        state stays."""
        self.groups = groups
        self.shares = tuple(shares) or (self.layout.dp_rank,)
        self.parallel.group = groups.expert_parallel

    def start_checks(self, generation: Generation) -> None:
        """State is loaded: begin to check results, as the arguments say."""
        if self.groups is not None:
            self.checked_at = generation.checkpoint_every_steps
            self.skips = generation.skipped
            self.guard(self.groups, generation.rank, inject=generation.number == 1)

    def guard(self, groups: Exchanges, rank: int, *, inject: bool = False) -> None:
        """Compare replicas and compute steps twice, in these groups; `inject`: the negative control `flip` is in force."""
        self.replicas = replica_check(self.config, self.state, groups, self._step)
        self.replay = step_replay(self.config, self.state, groups, self.compute, self.replicas)
        if self.groups is not None and self.groups.data_parallel.size < self.layout.dp_size:
            self.replay = None  # ranks have different numbers of shares: their gradients cannot be compared
        if self.injection is not None:
            self.injection.remove()
        self.injection = Injection.of(self.config, rank, self.state) if inject else None
        self.parallel.witness = self.replay
        if self.replicas is not None:
            self.replicas.start(self.state.step)

    def train_step(self) -> float:
        """One step; returns the loss over all replicas (nats per byte), of a step that is skipped that of the one before. What
        is about to be saved is compared first."""
        self._step()
        step = self.state.step
        if self.replicas is not None:
            self.settle()  # a comparison may take the state back and do steps again
            saved = step == self.config.steps or bool(self.checked_at and step % self.checked_at == 0)
            self.replicas.after_step(step, now=saved)
        return self.state.loss.item()

    def check_before_save(self) -> None:
        """Compare replicas at a step that is saved and was not compared: one that somebody asked for, or that was put off."""
        step, config = self.state.step, self.config
        compared = not (step % max(1, config.check_every) and step % max(1, self.checked_at)) or step == config.steps
        if self.replicas is not None and not compared:
            self.replicas.after_step(step, now=True)

    def _step(self) -> None:
        """Forward, backward, reduce, update; of a step that is skipped nothing but its number."""
        if self.skips(self.state.step + 1):
            with self.updating(self.state.step + 1):
                self.state.step += 1
            return
        if self.injection is not None:
            self.injection.in_memory()
        if self.replay is not None and not (self.replicas is not None and self.replicas.replaying):
            self.replay.compute(self.state.step + 1)
        else:
            self.compute(0)
        reduce_gradients(self.state.dense, self.state.experts, self.groups, self.layout.dp_size)
        if self.replicas is not None:
            self.replicas.before_update(self.state.step + 1)
        self.gradient_norm = self.state.dense.gradients[: len(self.state.dense.values)].norm().item()
        with self.updating(self.state.step + 1):
            self.update()

    def compute(self, shift: int) -> None:
        """Forward and backward of this rank's share of the batch, or of the rank's so many replicas on."""
        state, layout = self.state, self.layout
        for optimizer in (state.dense, state.experts):
            optimizer.gradients.zero_()
        for share in self.shares:
            loss = state.model.loss(self.batch(state.step, (share + shift * layout.ep_size) % layout.dp_size))
            loss.backward()  # type: ignore[no-untyped-call]
            state.dense.extra[0] += loss.detach()
            state.dense.extra[1:] += torch.cat([router.load for router in state.routers])
        if self.injection is not None:
            self.injection.in_gradients()

    def update(self) -> None:
        """Weights, moments and router biases from the reduced gradients and loads."""
        config, state = self.config, self.state
        statistics = state.dense.extra
        state.step += 1
        lr = config.lr * min(1.0, state.step / config.warmup_steps)
        for optimizer in (state.dense, state.experts):
            optimizer.step(state.step, lr=lr, weight_decay=config.weight_decay)
        for router, load in zip(state.routers, statistics[1:].view(len(state.routers), -1), strict=True):
            router.steer(load, real_per_token=config.real_experts_per_token, rate=config.bias_rate)
            if state.step == config.drop_buffer:  # negative control
                router.bias.zero_()
        state.loss.copy_(statistics[0] / self.layout.dp_size)

    def batch(self, step: int, dp_rank: int) -> Tensor:
        """A replica's text for a step."""
        skipped = 1 if 0 < self.config.skip_batch <= step + 1 else 0  # negative control
        with self.reading:
            return data.batch(
                self.text,
                seed=self.config.seed,
                step=step + skipped,
                dp_rank=dp_rank,
                rows=self.config.batch,
                sequence=self.config.sequence,
            )


class Metrics:
    """One JSON line per step, by the first rank that takes part. Steps that are done again appear again, with their generation."""

    def __init__(self, config: TrainConfig, generation: Generation) -> None:
        self._generation = generation
        self._path = Path(config.metrics) if config.metrics else generation.job_folder / "metrics.jsonl"
        self._stream: TextIO | None = None

    def __enter__(self) -> Metrics:
        if self._generation.rank == self._generation.participants[0]:
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
            "participants": len(self._generation.participants),
        }
        self._stream.write(json.dumps(row) + "\n")
