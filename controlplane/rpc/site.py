"""What all services share: the way to the brain, the published state, commits to wait for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from controlplane.config import Settings
from controlplane.core.audit import By
from controlplane.core.draft import Answer, Refusal
from controlplane.core.events import Command, NumbersSeen, Observation, Ordered
from controlplane.core.health.numbers import Finding
from controlplane.core.state import State
from controlplane.engine.ports import Journal
from controlplane.observability import Metrics
from controlplane.rpc.acks import Acks
from controlplane.rpc.caller import CALLER
from controlplane.rpc.errors import RequestRefused, refuse
from controlplane.rpc.open_calls import OpenCalls
from controlplane.rpc.pace import Paces
from controlplane.rpc.ports import Brain
from controlplane.rpc.progress import ProgressGate
from controlplane.rpc.spread import Spread
from controlplane.rpc.told_steps import ToldSteps
from controlplane.rpc.write_watch import WriteWatch

RETRY_S = 0.5
"""Between tries while the journal takes nothing."""
ROOM_S = 0.02
"""Between looks at a full inbox."""

Outcome = Answer | Refusal | None

log = structlog.get_logger(__name__)


class Commits:
    """Wakes whoever waits for the next durable turn. One event loop only."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def ticket(self) -> asyncio.Event:
        """Set at the next commit. Take it before looking at the state, or a commit in between is missed."""
        return self._next

    def notify(self) -> None:
        """A turn is durable."""
        self._next.set()
        self._next = asyncio.Event()


async def wait_for(ticket: asyncio.Event, seconds: float) -> None:
    """Wait for a ticket, at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await ticket.wait()
    except TimeoutError:
        return


@dataclass(slots=True)
class Site:
    """The edge's view of the controller. Everything here lives in the edge's event loop."""

    settings: Settings
    brain: Brain
    progress: ProgressGate
    journal: Journal
    metrics: Metrics
    version: str
    loop: asyncio.AbstractEventLoop
    calls: OpenCalls = field(default_factory=OpenCalls)
    root: str = field(init=False)
    """Folder for checkpoints of jobs that name none."""
    paces: Paces = field(init=False)
    steps: ToldSteps = field(init=False)
    writes: WriteWatch = field(init=False)
    spread: Spread = field(init=False)
    acks: Acks = field(init=False)
    commits: Commits = field(default_factory=Commits)
    stopping: bool = False
    _replies: deque[tuple[asyncio.Future[Outcome], Outcome]] = field(default_factory=deque)
    _reply_due: bool = False
    _tasks: set[asyncio.Task[object]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.root = self.settings.root
        self.paces = Paces(self.settings)
        self.writes = WriteWatch(self.loop, self.settings.write_ms / 1_000)
        self.spread = Spread(self.loop, self.progress.waits_ns)
        self.acks = Acks(self.loop, self.spread)
        refused = partial(self.metrics.refuse, "OLD_GENERATION")
        self.progress.numbers.tell = self._numbers_off
        self.steps = ToldSteps(self.progress, lambda: self.brain.state, refused, self.loop)

    @property
    def state(self) -> State:
        """The published state."""
        return self.brain.state

    def now_ns(self) -> int:
        """The brain's time."""
        return self.brain.clock.now_ns()

    def _numbers_off(self, job: str, generation: int, finding: Finding) -> None:
        """Loss or gradients of a job are off. While the inbox is full it is told with the next step."""
        event = NumbersSeen(
            job, generation, finding.kind, finding.first_step, finding.last_step, finding.text, self.now_ns()
        )
        self.loop.call_soon(self.post, event)  # not inside of the gate's lock

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Run something beside the calls; its failure is logged."""
        task: asyncio.Task[object] = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("background_task_broke", exc_info=error)

    async def command(self, event: Command) -> Answer:
        """Have a command of the caller of this call decided; returns once its answer is durable.

        Raises:
            RequestRefused: by the machine, by a full inbox, or because the journal takes nothing.
        """
        caller = CALLER.get()
        answer = self.post(Ordered(event, By(caller.uri, caller.role.name, caller.peer)))
        if answer is None:
            refuse(
                "exhausted", "INBOX_FULL", f"{self.brain.depth} events wait for the controller: try again in a second"
            )
        outcome = await answer
        if isinstance(outcome, Refusal):
            raise RequestRefused(outcome)
        return outcome or Answer()

    async def tell(self, event: Observation) -> Outcome:
        """Have an observation recorded, waiting while the inbox is full. The outcome is durable, or a refusal."""
        while (answer := self.post(event)) is None:
            await asyncio.sleep(ROOM_S)
        return await answer

    async def tell_until_durable(self, event: Observation) -> Outcome:
        """The same, again and again while the journal takes nothing."""
        while True:
            outcome = await self.tell(event)
            if not (isinstance(outcome, Refusal) and outcome.code == "unavailable"):
                return outcome
            await asyncio.sleep(RETRY_S)

    def post(self, event: Ordered | Observation) -> asyncio.Future[Outcome] | None:
        """Put an event in the brain's inbox: what comes of it, once that is durable; None while the inbox is full."""
        future: asyncio.Future[Outcome] = self.loop.create_future()

        def reply(outcome: Outcome) -> None:
            self._replies.append((future, outcome))
            if not self._reply_due:
                self._reply_due = True
                self.loop.call_soon_threadsafe(self._resolve)

        return future if self.brain.post(event, reply) else None

    def _resolve(self) -> None:
        """Answers of the brain's thread since the last look: a turn has hundreds, and wakes the loop once for them. What is added
        while they are handed out is either seen here or finds that nobody is due to look."""
        self._reply_due = False
        while self._replies:
            future, outcome = self._replies.popleft()
            if not future.done():
                future.set_result(outcome)
