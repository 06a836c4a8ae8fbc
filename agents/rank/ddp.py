"""A torch.distributed process group for code that brings its own collectives, such as DistributedDataParallel.

Works and futures of an ordinary gloo group wait for the backend's time-out when a peer is stopped; inside a backward
pass nothing can interrupt that. Here each of them ends with an error as soon as the generation does.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from agents.rank.errors import GenerationChanged
from agents.rank.generation import Generation
from agents.rank.group import WAIT_SLICE, Group
from agents.rank.phases import Phase


class InterruptibleProcessGroup(dist.ProcessGroup):
    """Wraps a Group of the current generation; build a new one, and a new DDP around it, in every generation.

    Plain DDP is not bit-identical over a restore (its buckets are rebuilt after the first step of a process): pass
    `find_unused_parameters=True`, or take throw-away steps before loading state, where that matters.
    """

    def __init__(self, group: Group, generation: Generation) -> None:
        super().__init__(group.rank, group.size)  # type: ignore[call-arg]  # this overload is not in the stubs
        self._group = group
        self._generation = generation
        self._open: set[_Work] = set()
        self._lock = threading.Lock()
        generation.on_end(self._end)

    def getBackendName(self) -> str:  # noqa: D102  torch's name
        return "phalanx"

    def getRank(self) -> int:  # noqa: D102  torch's name
        return self._group.rank

    def getSize(self) -> int:  # noqa: D102  torch's name
        return self._group.size

    def allreduce(self, tensors: Any, opts: Any = None) -> dist.Work:  # type: ignore[override]  # noqa: D102
        return self._track(
            self._group.entering("all_reduce").allreduce(tensors, opts or dist.AllreduceOptions()), tensors
        )

    def allreduce_coalesced(self, tensors: Any, opts: Any = None) -> dist.Work:  # noqa: D102
        return self._track(self._any("all_reduce").allreduce_coalesced(tensors, *_given(opts)), tensors)

    def broadcast(self, tensors: Any, opts: Any = None) -> dist.Work:  # type: ignore[override]  # noqa: D102
        return self._track(
            self._group.entering("broadcast").broadcast(tensors, opts or dist.BroadcastOptions()), tensors
        )

    def allgather(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:  # noqa: D102
        return self._track(self._any("all_gather").allgather(outputs, inputs, *_given(opts)), outputs)

    def all_gather_single(self, output: Any, tensor: Any, opts: Any = None) -> dist.Work:  # noqa: D102
        work = self._any("all_gather")._allgather_base(output, tensor)  # noqa: SLF001  the backend's only name for it
        return self._track(work, [output])

    _allgather_base = all_gather_single  # type: ignore[assignment]  # the older name of the same operation

    def reduce_scatter(self, outputs: Any, inputs: Any, opts: Any = None) -> dist.Work:  # type: ignore[override]  # noqa: D102
        return self._track(self._any("reduce_scatter").reduce_scatter(outputs, inputs, *_given(opts)), outputs)

    def all_to_all_single(  # noqa: D102
        self, output: Any, tensor: Any, output_splits: Any, input_splits: Any, opts: Any = None
    ) -> dist.Work:
        work = self._group.backend.alltoall_base(output, tensor, list(output_splits), list(input_splits))
        return self._track(work, [output])

    def barrier(self, opts: Any = None) -> dist.Work:  # noqa: D102
        return self._track(self._group.entering("barrier").barrier(), [])

    def _any(self, operation: str) -> Any:
        """The backend with all its methods, for one collective; raises GenerationChanged when the generation is over."""
        return self._group.entering(operation)

    def _track(self, inner: dist.Work, result: Any) -> dist.Work:
        work = _Work(self, inner, result)
        self._generation.clock.issued()
        with self._lock:
            self._open.add(work)
            self._group.flight.wait(1)  # waiters in C++ cannot be counted: what is in flight is waited for
        self._group.adopt(inner)
        inner.get_future().add_done_callback(work.inner_done)
        if self._generation.over:
            work.end(GenerationChanged("the generation is over"))
        return work

    def closed(self, work: _Work, *, failed: bool) -> None:
        """A work has its outcome. Any thread."""
        self._generation.clock.completed()
        with self._lock:
            if work in self._open:
                self._open.discard(work)
                self._group.flight.wait(-1)
        if failed:
            self._generation.mark_broken()

    def check(self) -> None:
        """Raise GenerationChanged when the generation is over."""
        self._generation.check()

    @property
    def waiting(self) -> Phase:
        """Waiting for others."""
        return self._generation.clock.waiting

    def _end(self) -> None:
        with self._lock:
            works, self._open = self._open, set()
        for work in works:
            work.end(GenerationChanged("the generation is over"))


def _given(options: Any) -> tuple[Any, ...]:
    return () if options is None else (options,)


class _Work(dist.Work):
    """One operation whose wait and future end with it or with the generation, whichever is first."""

    def __init__(self, group: InterruptibleProcessGroup, inner: dist.Work, result: Any) -> None:
        super().__init__()
        self._group = group
        self._inner = inner
        self._result = result
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._ended = threading.Event()
        self._trigger: torch.futures.Future[None] = torch.futures.Future()
        # A callback that raises makes an error that C++ waiters see; Future.set_exception would hand them a value.
        self._future = self._trigger.then(self._outcome)

    def inner_done(self, future: torch.futures.Future[Any]) -> None:
        """The backend's own future is done. Runs on a backend thread."""
        try:
            future.value()
        except RuntimeError as error:
            self._group.closed(self, failed=True)
            self.end(GenerationChanged(f"a peer was lost: {str(error).partition(chr(10))[0]}"))
        else:
            self._group.closed(self, failed=False)
            self.end(None)

    def end(self, error: Exception | None) -> None:
        """Set the outcome; the first call counts."""
        with self._lock:
            if self._ended.is_set():
                return
            self._error = error
            self._ended.set()
        self._trigger.set_result(None)

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Wait for the outcome; raises GenerationChanged when it is an end without a result."""
        with self._group.waiting:
            while not self._ended.wait(WAIT_SLICE.total_seconds()):
                self._group.check()
        if self._error is not None:
            raise self._error
        return True

    def get_future(self) -> torch.futures.Future[Any]:
        return self._future

    def is_completed(self) -> bool:
        return self._ended.is_set()

    def _outcome(self, _: torch.futures.Future[None]) -> Any:
        if self._error is not None:
            raise self._error
        return self._result
