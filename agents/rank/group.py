"""Collectives of one generation that end when the generation does.

Every operation is issued asynchronously and awaited in short slices, with the generation flag read between them. A
blocking wait would hang until the backend's own time-out when a peer is stopped or killed (floors.md, E and G).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from agents.rank import flight
from agents.rank.phases import PhaseClock

WAIT_SLICE = timedelta(milliseconds=10)
"""How long one wait may sleep before it reads the flag. The wait wakes at once when the operation completes, so the
slice costs nothing on the way (measured: docs/design/0004-workload.md); it bounds the time to notice a change."""


ADOPTED_LIMIT = 64
"""Works issued past this class are forgotten once they are done; looked at when there are this many."""


class Watch(Protocol):
    """What a wait has to know about its generation."""

    def check(self) -> None:
        """Raise GenerationChanged when the generation is over."""

    def peer_lost(self, group: str, error: RuntimeError) -> GenerationOver:
        """A collective failed: wait for the new generation, then return what is to be raised."""


GenerationOver = Exception


class Collectives(Protocol):
    """The part of a torch process-group backend that this module uses."""

    def allreduce(self, tensors: list[torch.Tensor], opts: Any) -> dist.Work: ...  # noqa: D102  torch's own names
    def broadcast(self, tensors: list[torch.Tensor], opts: Any) -> dist.Work: ...  # noqa: D102
    def _allgather_base(self, output: torch.Tensor, input: torch.Tensor) -> dist.Work: ...
    def _reduce_scatter_base(self, output: torch.Tensor, input: torch.Tensor, opts: Any) -> dist.Work: ...
    def alltoall_base(  # noqa: D102
        self, output: torch.Tensor, input: torch.Tensor, output_splits: list[int], input_splits: list[int]
    ) -> dist.Work: ...
    def barrier(self) -> dist.Work: ...  # noqa: D102


class Pending:
    """An operation in flight. `wait()` returns when its result is there, or raises GenerationChanged."""

    __slots__ = ("_group", "_keep", "_work")

    def __init__(self, group: Group, work: dist.Work, *keep: torch.Tensor) -> None:
        self._group = group
        self._work = work
        self._keep = keep  # the backend reads and writes these until it is done

    def wait(self) -> None:
        """Wait for the result."""
        self._group.wait(self._work)


class Group:
    """The ranks of one parallel dimension in one generation. Tensors must be contiguous and on the group's device.

    Each collective has to be called by all members in the same order. With `async_op=True` it returns a Pending whose
    result must not be touched before `wait()`.
    """

    def __init__(
        self,
        name: str,
        backend: Collectives,
        ranks: tuple[int, ...],
        global_rank: int,
        watch: Watch,
        *,
        clock: PhaseClock | None = None,
    ) -> None:
        self.name = name
        self._waiting = (clock or PhaseClock()).waiting
        self.ranks = ranks
        self.rank = ranks.index(global_rank)
        self._backend: Collectives | None = backend
        self._watch = watch
        self._open: list[dist.Work] = []
        self.flight = flight.page().slot(name, ranks)

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self.ranks)

    def all_reduce(self, tensor: torch.Tensor, *, op: str = "sum", async_op: bool = False) -> Pending | None:
        """Reduce in place over all members; `op` is sum, max or min. Bit-identical on all members and between runs."""
        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp(_REDUCE_OPS[op])
        return self._issue(self.entering("all_reduce").allreduce([tensor], options), async_op, tensor)

    def broadcast(self, tensor: torch.Tensor, *, source: int = 0, async_op: bool = False) -> Pending | None:
        """Overwrite `tensor` with that of the member with index `source`."""
        options = dist.BroadcastOptions()
        options.rootRank = source
        options.rootTensor = 0
        return self._issue(self.entering("broadcast").broadcast([tensor], options), async_op, tensor)

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor, *, async_op: bool = False) -> Pending | None:
        """Concatenate the members' tensors, in member order, into `output` (size times the elements of `tensor`)."""
        work = self.entering("all_gather")._allgather_base(output, tensor)  # noqa: SLF001 torch's only name
        return self._issue(work, async_op, output, tensor)

    def reduce_scatter(self, output: torch.Tensor, tensor: torch.Tensor, *, async_op: bool = False) -> Pending | None:
        """Sum `tensor` over all members and keep this member's share of it in `output`."""
        options = dist.ReduceScatterOptions()
        work = self.entering("reduce_scatter")._reduce_scatter_base(output, tensor, options)  # noqa: SLF001  torch's only name
        return self._issue(work, async_op, output, tensor)

    def all_to_all_single(
        self,
        output: torch.Tensor,
        tensor: torch.Tensor,
        output_splits: Sequence[int] | None = None,
        input_splits: Sequence[int] | None = None,
        *,
        async_op: bool = False,
    ) -> Pending | None:
        """Send the i-th slice of `tensor`'s first dimension to member i. Without splits the slices are equal."""
        backend = self.entering("all_to_all")
        work = backend.alltoall_base(output, tensor, list(output_splits or ()), list(input_splits or ()))
        return self._issue(work, async_op, output, tensor)

    def barrier(self, *, async_op: bool = False) -> Pending | None:
        """Wait until all members are here."""
        return self._issue(self.entering("barrier").barrier(), async_op)

    def all_gather_bytes(self, data: bytes) -> list[bytes]:
        """The members' byte strings in member order; lengths may differ. For small things outside the step."""
        lengths = torch.zeros(self.size, dtype=torch.int64)
        self.all_gather(lengths, torch.tensor([len(data)], dtype=torch.int64))
        longest = max(1, int(lengths.max()))
        mine = torch.zeros(longest, dtype=torch.uint8)
        mine[: len(data)] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
        everyone = torch.zeros(self.size * longest, dtype=torch.uint8)
        self.all_gather(everyone, mine)
        rows = everyone.view(self.size, longest)
        return [bytes(rows[index, : int(lengths[index])].tolist()) for index in range(self.size)]

    def wait(self, work: dist.Work) -> None:
        """Await a raw torch work of this group. Raises GenerationChanged instead of hanging or failing."""
        with self._waiting, self.flight:
            while not self._ended(work):
                self._watch.check()
        self._forget(work)

    def entering(self, operation: str) -> Collectives:
        """The torch backend object for one collective, which is counted. Raises GenerationChanged when the generation is over."""
        backend = self._live()
        self.flight.begin(operation)
        return backend

    def adopt(self, work: dist.Work) -> None:
        """Count a work that was issued on `backend` directly among those in flight."""
        if len(self._open) > ADOPTED_LIMIT:
            self.settled()
        self._open.append(work)

    def settled(self) -> bool:
        """True when no operation of this group is in flight."""
        self._open = [work for work in self._open if not work.is_completed()]
        return not self._open

    def release(self) -> None:
        """Give up the backend object. Only after `settled()`: its destructor waits for what is in flight."""
        self._backend = None
        self._open.clear()

    @property
    def backend(self) -> Collectives:
        """The torch backend object. Raises GenerationChanged when the generation is over."""
        return self._live()

    def _ended(self, work: dist.Work) -> bool:
        """Wait for one slice. False when only the slice is over; raises GenerationChanged when the work failed."""
        try:
            work.wait(WAIT_SLICE)
        except RuntimeError:
            if not work.is_completed():
                return False
        else:
            return True
        try:
            work.wait()  # completed, so this does not block: it tells failure from an end just after the slice
        except RuntimeError as error:
            raise self._watch.peer_lost(self.name, error) from error
        return True

    def _live(self) -> Collectives:
        self._watch.check()
        if self._backend is None:
            raise RuntimeError(f"group {self.name} belongs to a generation that is over")
        return self._backend

    def _issue(self, work: dist.Work, async_op: bool, *keep: torch.Tensor) -> Pending | None:
        self._open.append(work)
        if async_op:
            return Pending(self, work, *keep)
        self.wait(work)
        return None

    def _forget(self, work: dist.Work) -> None:
        self._open = [other for other in self._open if other is not work]


_REDUCE_OPS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
