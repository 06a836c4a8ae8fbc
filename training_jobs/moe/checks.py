"""The checks of results (docs/numbers.md) as this trainer uses them: which tensors are alike where, and what a step is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from agents.rank import WorkloadRefused
from agents.rank.checks import Exchange, ReplicaCheck, ReplicaSet, StepReplay
from agents.rank.checks.flip import Flip
from training_jobs.moe.config import TrainConfig
from training_jobs.moe.state import TrainState


class Exchanges(Protocol):
    """The groups that checks talk in; `agents.rank.Groups` is one."""

    @property
    def world(self) -> Exchange:
        """All ranks."""

    @property
    def data_parallel(self) -> Exchange:
        """Ranks with the same dense part."""

    @property
    def expert_data_parallel(self) -> Exchange:
        """Ranks with the same experts."""


def replica_check(
    config: TrainConfig, state: TrainState, groups: Exchanges, again: Callable[[], object]
) -> ReplicaCheck | None:
    """The comparison of replicas that the arguments ask for; None: off, or there is no replica of anything."""
    if not config.check_every:
        return None
    routers = tuple(router.bias for router in state.routers)
    dense, experts = state.dense, state.experts
    sets = (
        ReplicaSet(
            "the dense part",
            groups.data_parallel,
            (dense.values, dense.exp_avg, dense.exp_avg_sq, *routers, state.counter, state.loss),
            (dense.gradients,),
        ),
        ReplicaSet(
            "the experts",
            groups.expert_data_parallel,
            (experts.values, experts.exp_avg, experts.exp_avg_sq),
            (experts.gradients,),
        ),
    )
    return ReplicaCheck(groups.world, sets, every=config.check_every, again=again)


def step_replay(
    config: TrainConfig,
    state: TrainState,
    groups: Exchanges,
    work: Callable[[int], None],
    replicas: ReplicaCheck | None,
) -> StepReplay | None:
    """The second computation of sampled steps that the arguments ask for; None: off."""
    if not config.replay_rate:
        return None
    every = StepReplay.every(config.replay_rate)
    results = (state.dense.gradients, state.experts.gradients)
    return StepReplay(
        groups.world,
        groups.expert_data_parallel,
        every=every,
        work=work,
        results=results,
        offset=config.seed,
        compare_state=(lambda: replicas.after_step(state.step, now=True)) if replicas is not None else None,
    )


class Injection:
    """The negative control `flip`: one bit of this rank's tensors, at its time."""

    def __init__(self, flip: Flip, rank: int, state: TrainState) -> None:
        self._flip = flip
        self._rank = rank
        self._state = state
        layer = state.model.blocks[0] if flip.part == "dense" else next(state.model.mixtures()).experts
        self._hook = layer.register_forward_hook(lambda _module, _inputs, output: self._strike("activation", output))

    @staticmethod
    def of(config: TrainConfig, rank: int, state: TrainState) -> Injection | None:
        """None: nothing is to be flipped. Raises WorkloadRefused for text that says nothing."""
        try:
            return Injection(Flip.parse(config.flip), rank, state) if config.flip else None
        except ValueError as error:
            raise WorkloadRefused(str(error)) from error

    def remove(self) -> None:
        """It is over."""
        self._hook.remove()

    def in_memory(self) -> None:
        """Before a step: weights and moments."""
        optimizer = self._state.dense if self._flip.part == "dense" else self._state.experts
        for place, tensor in (
            ("weights", optimizer.values),
            ("exp_avg", optimizer.exp_avg),
            ("exp_avg_sq", optimizer.exp_avg_sq),
        ):
            self._strike(place, tensor)

    def in_gradients(self) -> None:
        """After a backward."""
        optimizer = self._state.dense if self._flip.part == "dense" else self._state.experts
        self._strike("gradient", optimizer.gradients[: len(optimizer.values)])

    def _strike(self, place: str, tensor: Tensor) -> None:
        self._flip.strike(place, self._flip.part, self._rank, self._state.step + 1, tensor)
