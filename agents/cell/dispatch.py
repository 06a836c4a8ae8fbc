"""Carries out the controller's effects in the cell: old epochs refused, one outcome per id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine

import structlog
from phalanx.v1 import cell_pb2

from agents.cell.preflight import Preflight
from agents.cell.ray_cell import RayCell, UnknownNodeError, one_line
from agents.cell.ray_thread import RayLostError, RayThread
from agents.cell.table import DEAD, STARTING, ActorRow, CellTable
from agents.node.observability import name_process, note_order
from agents.node.outcomes import Outcome, OutcomeMemory

log = structlog.get_logger(__name__)


class Dispatcher:
    """The effect desk of a cell. Orders are begun in the sequence in which they came."""

    def __init__(
        self,
        cell: str,
        *,
        table: CellTable,
        ray_cell: RayCell,
        ray_thread: RayThread,
        limit_s: float,
        highest_epoch: int,
    ) -> None:
        self._cell = cell
        self._table = table
        self._ray_cell = ray_cell
        self._ray = ray_thread
        self._limit_s = limit_s
        self._preflight = Preflight()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused_epochs: set[int] = set()
        self.highest_epoch = highest_epoch
        self.starting: dict[str, str] = {}
        self.outcomes = OutcomeMemory()
        self.on_change: Callable[[], None] = lambda: None
        self.on_preflight: Callable[[cell_pb2.PreflightResult], None] = lambda result: None

    def obey_epoch(self, epoch: int) -> None:
        """Remember a controller's epoch, for the next agent of this cell too."""
        if epoch <= self.highest_epoch:
            return
        self.highest_epoch = epoch
        name_process(epoch=epoch)
        self._spawn(self._store_epoch(epoch))

    def submit(self, effect: cell_pb2.CellEffect) -> None:
        """Take an effect from the stream; its result goes out with a later message."""
        if effect.epoch < self.highest_epoch:
            if effect.epoch not in self._refused_epochs:
                self._refused_epochs.add(effect.epoch)
                log.warning("effect.lower_epoch", epoch=effect.epoch, highest_epoch=self.highest_epoch)
            message = f"epoch {effect.epoch} is lower than {self.highest_epoch}, which this cell obeys"
            self.outcomes.answer(effect.effect_id, Outcome(ok=False, message=message, final=False))
        else:
            self.obey_epoch(effect.epoch)
            if self.outcomes.begin(effect.effect_id):
                self._spawn(self._carry_out(effect))
        self.on_change()

    def preflight(self, request: cell_pb2.PreflightRequest) -> None:
        """Check a workload beside everything else."""
        self._spawn(self._answer(request))

    async def close(self) -> None:
        """Break off what runs."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: cell_pb2.PreflightRequest) -> None:
        self.on_preflight(await self._preflight.answer(request))

    async def _store_epoch(self, epoch: int) -> None:
        try:
            await self._ray.call(self._limit_s, self._ray_cell.store_epoch, self._cell, epoch)
        except RayLostError:
            return  # the process is about to end
        except Exception as error:  # noqa: BLE001  edge to Ray, which raises many unrelated types
            log.warning("epoch.not_stored", epoch=epoch, reason=one_line(error))

    async def _carry_out(self, effect: cell_pb2.CellEffect) -> None:
        kind = effect.WhichOneof("body")
        note_order(effect.effect_id, getattr(effect, kind) if kind else None)
        try:
            match kind:
                case "start_hosts":
                    outcome = await self._start(effect.start_hosts)
                case "stop_hosts":
                    outcome = await self._stop(effect.stop_hosts)
                case None:
                    outcome = Outcome(ok=False, message="this agent does not know this kind of effect; it may be older")
        except RayLostError as error:
            outcome = Outcome(ok=False, message=f"Ray is lost: {error}", final=False)
        except Exception as error:  # process edge: one bad order must not end the agent
            log.exception("effect.broke", kind=kind)
            outcome = Outcome(ok=False, message=f"the cell agent failed on it: {one_line(error)}")
        self.outcomes.end(effect.effect_id, outcome, time.monotonic())
        self.on_change()
        log.info("effect.ended", kind=kind, ok=outcome.ok, message=outcome.message)

    async def _start(self, order: cell_pb2.StartHosts) -> Outcome:
        """Create the actors that can be created. ok means that each exists; its row tells whether it comes alive."""
        problems = []
        final = True
        for spec in order.hosts:
            try:
                problem = await self._start_one(spec)
            except RayLostError:
                raise
            except Exception as error:  # noqa: BLE001  edge to Ray, which raises many unrelated types
                problem = f"Ray did not take host {spec.host_id}: {one_line(error)}"
                final = False  # it may work when Ray is back, and a host that was taken is not started twice
            if problem:
                problems.append(problem)
        return Outcome(ok=not problems, message="; ".join(problems), final=final)

    async def _start_one(self, spec: cell_pb2.HostSpec) -> str:
        if not spec.host_id or not spec.node or not spec.workload.module:
            return f"host {spec.host_id!r} needs a host_id, a node and a workload.module"
        if self._table.actor(spec.host_id) is not None:
            self._table.report_again(spec.host_id)
            return ""
        self.starting[spec.host_id] = spec.node
        try:
            data = spec.SerializeToString()
            created = await self._ray.call(self._limit_s, self._ray_cell.start, spec.host_id, spec.node, data)
            if not created:
                await self._ray.call(self._limit_s, self._ray_cell.adopt, spec.host_id)
        except UnknownNodeError as error:
            return str(error)
        finally:
            node = self.starting.pop(spec.host_id)
        if self._table.actor(spec.host_id) is None:  # Ray's threads may have told of it before we got here
            self._table.set_actor(ActorRow(spec.host_id, node, STARTING))
        log.info(
            "host.dispatched",
            host_id=spec.host_id, node=spec.node, job=spec.job_name, uid=spec.job_uid, created=created,
        )  # fmt: skip
        return ""

    async def _stop(self, order: cell_pb2.StopHosts) -> Outcome:
        """Kill the actors. One that is not there needs nothing."""
        for host_id in order.host_ids:
            row = self._table.actor(host_id)
            killed = await self._ray.call(self._limit_s, self._ray_cell.kill, host_id)
            if row is not None and row.state != DEAD:
                self._table.set_actor(ActorRow(host_id, row.node, DEAD, "stopped by the controller"))
            log.info("host.actor_stopped", host_id=host_id, killed=killed)
        return Outcome(ok=True)
