"""Each parallelism in one visible place: experts over ranks by all-to-all, replicas by one gradient all-reduce."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.rank import Generation, Group, Groups, WorkloadRefused
from agents.rank.checks import StepReplay
from training_jobs.moe.config import ModelConfig
from training_jobs.moe.optimizer import FlatAdamW


@dataclass(frozen=True, slots=True)
class Layout:
    """Which share of the work this rank has."""

    dp_rank: int
    dp_size: int
    ep_rank: int
    ep_size: int
    edp_rank: int
    edp_size: int

    @staticmethod
    def of(generation: Generation, config: ModelConfig) -> Layout:
        """Read the degrees. Raises WorkloadRefused for those that this model does not implement."""
        degrees, at = generation.degrees, generation.coordinates
        if (degrees.tp, degrees.pp, degrees.cp) != (1, 1, 1):
            raise WorkloadRefused(f"this model has dp and ep only; tp, pp and cp must be 1, not {degrees}")
        if config.experts % degrees.ep:
            raise WorkloadRefused(f"experts={config.experts} cannot be spread over ep={degrees.ep}")
        return Layout(at.dp, degrees.dp, at.ep, degrees.ep, at.edp, degrees.dp // degrees.ep)

    def among(self, groups: Groups) -> Layout:
        """The same among those that take part: who owns what of a checkpoint."""
        dense, experts = groups.data_parallel, groups.expert_data_parallel
        return Layout(dense.rank, dense.size, self.ep_rank, self.ep_size, experts.rank, experts.size)


# --- expert parallelism -----------------------------------------------------------------------------------------------


class _AllToAll(torch.autograd.Function):
    """Rows to the members that own their experts; the gradient travels the same way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, via: ExpertParallel, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        ctx.via, ctx.send, ctx.receive = via, send, receive
        return via.exchange(rows, send, receive)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.via.exchange(grads[0].contiguous(), ctx.receive, ctx.send), None, None, None


class ExpertParallel:
    """Member i of the group owns experts `i * n / size` to `(i + 1) * n / size`."""

    def __init__(self, group: Group | None, index: int, size: int) -> None:
        self.group = group
        self.index = index
        self.size = size
        self.witness: StepReplay | None = None
        """Told of all rows that are sent and received."""
        self.note_load: Callable[[float], None] | None = None
        """Told, before room is made for the rows, how many means the fullest expert here gets."""

    def exchange(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Rows by member: `send[i]` of them to member i, `receive[i]` from it."""
        assert self.group is not None
        output = rows.new_empty(sum(receive), rows.shape[1])
        if self.witness is not None:
            self.witness.witness(sent=rows)
        self.group.all_to_all_single(output, rows, receive, send)
        if self.witness is not None:
            self.witness.witness(received=output)
        return output

    @staticmethod
    def alone() -> ExpertParallel:
        """All experts here; for sampling and tests."""
        return ExpertParallel(None, 0, 1)

    def __call__(self, rows: Tensor, counts: Tensor, experts: Callable[[Tensor, Sequence[int]], Tensor]) -> Tensor:
        """Answers for `rows`, which are sorted by expert, `counts[e]` of them for global expert e."""
        if self.group is None or self.size == 1:
            return experts(rows, counts.tolist())
        ours = torch.empty_like(counts)
        self.group.all_to_all_single(ours, counts)
        per_source = ours.view(self.size, -1)  # [from member, local expert]
        send = counts.view(self.size, -1).sum(dim=1).tolist()
        receive = per_source.sum(dim=1).tolist()
        if self.note_load is not None:  # members have about as many rows each
            self.note_load(int(per_source.sum(dim=0).max()) * counts.numel() / max(1, self.size * len(rows)))
        arrived = _AllToAll.apply(rows, self, send, receive)  # type: ignore[no-untyped-call]
        local = torch.arange(per_source.shape[1]).repeat(self.size).repeat_interleave(ours)
        by_expert = torch.argsort(local, stable=True)
        answers = experts(arrived.index_select(0, by_expert), per_source.sum(dim=0).tolist())
        back = torch.empty_like(by_expert)
        back[by_expert] = torch.arange(len(by_expert))
        return _AllToAll.apply(answers.index_select(0, back), self, receive, send)  # type: ignore[no-any-return, no-untyped-call]


# --- data parallelism -------------------------------------------------------------------------------------------------


def reduce_gradients(dense: FlatAdamW, experts: FlatAdamW, groups: Groups | None, replicas: int) -> None:
    """Average gradients over the `replicas` of the batch by hand: one all-reduce per replica set, in a fixed layout.

    DDP's buckets are rebuilt after the first step of a process, so a restored run sums in another order than an
    undisturbed one (floors.md, G); these buffers never change. An expert's gradient already holds what its
    expert-parallel peers sent, so it is summed over the expert-data-parallel group only, and divided by the same
    number. The dense buffer's `extra` is summed, not averaged.
    """
    if groups is not None:
        pending = (
            groups.data_parallel.all_reduce(dense.gradients, async_op=True),
            groups.expert_data_parallel.all_reduce(experts.gradients, async_op=True),
        )
        for operation in pending:
            assert operation is not None
            operation.wait()
    dense.gradients[: len(dense.values)].div_(replicas)
    experts.gradients.div_(replicas)
