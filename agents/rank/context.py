"""What a workload holds: its context for the life of the process, and one Generation per attempt."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from phalanx.v1 import agent_pb2, local_pb2, types_pb2

from agents.rank.assignment import Assignment
from agents.rank.backends import backend_for
from agents.rank.control import Control
from agents.rank.errors import GenerationChanged, ReplicaDivergence
from agents.rank.generation import Generation, Reporter
from agents.rank.link import FINAL_KEY, AgentLink, note
from agents.rank.outbox import Outbox, RankFacts, age_ms
from agents.rank.phases import Phase, PhaseClock
from agents.rank.settings import RankSettings

if TYPE_CHECKING:
    import torch

RESULT_LIMIT_BYTES = 64 << 10
"""Of all keys and values of a result together; the final marker has to fit a frame with room to spare."""


def told_number(value: float) -> float:
    """How a number is told: one that is none, or infinite, as infinity, because NaN on the wire means that nothing is told."""
    return float(value) if math.isfinite(value) else math.inf


class RankContext(Reporter):
    """The process's side of the contract. Handed to the workload's `main(context)`; not thread-safe unless said so.

    Typical use::

        for generation in context.generations():
            with generation:
                train(context, generation)   # joins, restores, steps, context.progress, context.finish
                return
    """

    def __init__(self, settings: RankSettings) -> None:
        self._settings = settings
        self._control = Control()
        self._outbox = Outbox(RankFacts(types_pb2.RANK_STATE_STARTING))
        self._link = AgentLink(settings, self._outbox, self._control.offer, self._save_now)
        self._assignment: Assignment | None = None
        self._generation: Generation | None = None
        self._step_ended_at: float | None = None
        self._newest_step = 0
        self._load = 0.0
        self._clock = PhaseClock()
        self.refused_steps = 0

    @property
    def args(self) -> dict[str, Any]:
        """The manifest's `workload.args`, unchanged. JSON numbers: an integer may arrive as a float."""
        return dict(self._settings.args)

    @property
    def job_name(self) -> str:
        """Name of the job; before the first generation what the rank host said."""
        return self._assignment.job_name if self._assignment else self._settings.job

    @property
    def host_id(self) -> str:
        """Name of this process at the controller."""
        return self._settings.host_id

    @property
    def accelerators(self) -> tuple[int, ...]:
        """Indices, on this node, of the accelerators of this rank; empty before the first generation."""
        return self._assignment.accelerators if self._assignment else ()

    @property
    def device(self) -> torch.device:
        """The device for this rank's tensors. Only cpu is runnable so far (agents/rank/backends.py)."""
        import torch  # noqa: PLC0415  importing the library must not import torch

        return torch.device(backend_for("cpu").device_type)

    def seed(self, *parts: int | str) -> int:
        """A 63-bit seed that is a pure function of `parts`: the same in every process, generation and release."""
        text = "\x1f".join(str(part) for part in parts)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generations(self) -> Iterator[Generation]:
        """Yield the generations that this process is given, for ever; blocks, parked, until there is a newer one.

        After a lost peer the wait is bounded (`PEER_LOSS_PATIENCE` join time-outs), then the process ends with code 75.
        """
        while True:
            previous = self._generation
            if previous is None:
                assignment = self._await_first()
            else:
                previous.drop()
                assignment = previous.next_assignment()
            yield self._begin(assignment)

    def progress(self, step: int, loss: float | None = None, gradient_norm: float | None = None) -> None:
        """Say that `step` (counted from 1) is done. The first call of a generation makes the rank RUNNING.

        Never blocks. Raises GenerationChanged when the generation is over, so a step without collectives ends too. A step below
        1, or below one that was told in this generation, is refused: it is counted in `refused_steps`, the first is noted in
        the log, and training goes on. However often it is called, the agent hears the newest some times a second.

        A `loss` or `gradient_norm` that is not a finite number ends the generation: the job goes back to before it
        (docs/numbers.md). None: not told.
        """
        generation = self._running()
        generation.check()
        times = self._clock.step()
        if step < max(1, self._newest_step):
            self._refuse_step(step)
            return
        self._newest_step = step
        now = time.monotonic()
        started, self._step_ended_at = self._step_ended_at, now
        facts = self._outbox.facts
        if facts.first_step_at is None:
            facts = replace(
                facts,
                state=types_pb2.RANK_STATE_RUNNING,
                rendezvous_at=now
                if facts.rendezvous_at is None
                else facts.rendezvous_at,  # a workload may need no groups
                restored_at=now if facts.restored_at is None else facts.restored_at,
                first_step_at=now,
            )
            self._outbox.status(facts)
        report = agent_pb2.StepProgress(
            host_id=self._settings.host_id,
            job_uid=generation.assignment.job_uid,
            rank=generation.rank,
            generation=generation.number,
            step=step,
            loss=math.nan if loss is None else told_number(loss),
            gradient_norm=None if gradient_norm is None else told_number(gradient_norm),
            step_time_s=0.0 if started is None else now - started,
            times=times,
            load=self._load,
        )

        def build(then: float) -> local_pb2.LocalRequest:
            report.age_ms = age_ms(now, then)
            return local_pb2.LocalRequest(progress=report)

        if self._outbox.progress(build):
            self._link.wake()

    def phase(self, name: str) -> Phase:
        """A part of the step whose time is no compute: `with context.phase("data"): batch = next(loader)`. "data",
        "checkpoint" or "waiting" (for others, in collectives that are not the library's); phases may lie in one another.

        Raises:
            ValueError: another name.
        """
        return self._clock.phase(name)

    def note_load(self, fullest: float) -> None:
        """Say how unevenly the routing loads this rank: choices of its fullest expert, in means over all experts (1: even).
        Counts until the next call; a rank that is slow or out of memory because of it is not held against its node."""
        self._load = fullest if 0.0 <= fullest < math.inf else 0.0

    @property
    def load(self) -> float:
        """What `note_load` said last; 0: nothing."""
        return self._load

    def _refuse_step(self, step: int) -> None:
        self.refused_steps += 1
        if self.refused_steps == 1:
            note(
                f"step {step} is refused: step {self._newest_step} was told before in this generation, and steps are counted "
                "from 1 and never go back; further ones are only counted (context.refused_steps)"
            )

    def restore_failed(self, file: str, reason: str) -> None:
        """Report that a file of the restore point cannot be used; never returns normally.

        Waits for the generation that starts from an older point and raises GenerationChanged.
        """
        self._running().restore_failed(file, reason)

    def finish(self, result: Mapping[str, object]) -> None:
        """Say that the job is done, with a small result (values become strings), and wait until the agent has it.

        Then return from `main`. Raises GenerationChanged when a new generation comes first: this rank is needed again.
        """
        generation = self._running()
        words = {str(key): str(value) for key, value in result.items()}
        if sum(len(key) + len(value) for key, value in words.items()) > RESULT_LIMIT_BYTES:
            raise ValueError(f"the result is larger than {RESULT_LIMIT_BYTES} bytes: write it to a file and name that")

        def build(_now: float) -> local_pb2.LocalRequest:
            marker = local_pb2.FinalMarker(
                host_id=self._settings.host_id,
                generation=generation.number,
                token=self._outbox.facts.token,
                result=words,
            )
            return local_pb2.LocalRequest(final_marker=marker)

        generation.check()
        self._outbox.reliable(FINAL_KEY, build)
        self._link.wake()
        while self._outbox.pending(FINAL_KEY):
            self._control.wait_newer(generation.number, 0.01)
            generation.check()
        self.finished = True

    finished = False
    """True once the agent has acknowledged the final marker."""

    def connect(self) -> None:
        """Start talking to the node agent (STARTING). Called by the process entry."""
        self._link.start()

    def request_stop(self) -> None:
        """Make every wait raise SystemExit(143). Safe in a signal handler."""
        self._control.stopping = True

    def superseded(self, error: Exception) -> bool:
        """True when `error` is only a consequence of the generation's end: `main` is to be called again."""
        if isinstance(error, ReplicaDivergence):
            return False
        return isinstance(error, GenerationChanged) or (self._generation is not None and self._generation.over)

    def close(self) -> None:
        """Drop the current generation's groups."""
        self._clock.unwatch_collector()
        if self._generation is not None:
            self._generation.drop()

    def park(self) -> None:
        """Imports are done: PARKED. Called by the process entry."""
        self._outbox.status(RankFacts(types_pb2.RANK_STATE_PARKED))
        self._link.wake()

    # What a Generation reports through its context.

    def facts(self) -> RankFacts:
        """Newest status."""
        return self._outbox.facts

    def report(self, facts: RankFacts) -> None:
        """Send a status."""
        self._outbox.status(facts)
        self._link.wake()

    def send(self, key: tuple[str | int, ...], message: Any, *, acknowledged: bool) -> None:
        """Send `message(now)` reliably."""
        self._outbox.reliable(key, message, acknowledged=acknowledged)
        self._link.wake()

    def _save_now(self, generation: int, patience_s: float) -> None:
        """The agent asks for a save. On the link's thread."""
        order, current = self._control.save_order, self._generation
        if current is None or current.number != generation:
            return
        if order.heeded < generation:
            current.save_unable("the workload does not ask generation.save_due: it saves at its own steps only")
            return
        order.until = time.monotonic() + patience_s
        order.generation = generation

    def _await_first(self) -> Assignment:
        while True:
            assignment = self._control.wait_newer(0, None)
            if assignment is not None:
                return assignment

    def _begin(self, assignment: Assignment) -> Generation:
        self._assignment = assignment
        self._step_ended_at = None
        self._newest_step, self._load = 0, 0.0
        self._clock.restart()
        self._clock.watch_collector()
        self._outbox.forget(lambda key: False)
        self._generation = generation = Generation(assignment, self._control, self, self._clock)
        now = time.monotonic()
        self.report(
            RankFacts(
                types_pb2.RANK_STATE_JOINING,
                rank=assignment.rank,
                generation=assignment.generation,
                token=assignment.token,
                joining_at=now,
            )
        )
        note(
            f"generation {assignment.generation}: rank {assignment.rank} of {assignment.world_size}, "
            f"from step {assignment.restore.step}, pid {os.getpid()}"
        )
        return generation

    def _running(self) -> Generation:
        if self._generation is None:
            raise RuntimeError("no generation yet: iterate over context.generations() first")
        return self._generation
