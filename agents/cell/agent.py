"""One cell agent: its parts put together, its life from start to SIGTERM or to the loss of Ray."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import structlog
from phalanx.v1 import cell_pb2

from agents.cell.config import AGENT_VERSION, CellConfig
from agents.cell.dispatch import Dispatcher
from agents.cell.ray_cell import ActorEvent, Alive, Dead, Ended, HeadLostError, OutOfTouch, RayCell, one_line
from agents.cell.ray_thread import RayLostError, RayThread
from agents.cell.session import ControllerSession
from agents.cell.table import ALIVE, DEAD, STARTING, ActorRow, CellTable
from agents.node.boot import Boot
from agents.node.dial import Dialer
from agents.node.loop_lag import LoopLag
from agents.node.membership import Membership
from agents.node.supervision import tell_supervisor

EXIT_RAY_LOST = 3
NAMES_EVERY_S = 1.0
NAME_MISSING_LIMIT = 3
ADOPT_LIMIT_S = 5.0
WATCH_AGAIN_S = 0.5
PROBE_LIMIT_S = 2.0
DISCONNECT_LIMIT_S = 3.0

log = structlog.get_logger(__name__)


class CellAgent:
    """The parts of the agent. Make it on the event loop, then `run` it once."""

    def __init__(self, config: CellConfig) -> None:
        self._config = config
        self._boot = Boot()
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._stop = asyncio.Event()
        self._table = CellTable()
        self._ray = RayThread()
        self._ray_cell = RayCell(config.ray_address, self._event_from_ray)
        self._incarnation = ""
        self._dispatcher: Dispatcher | None = None
        self._wake: Callable[[], None] = lambda: None
        self._missing: dict[str, int] = {}
        self._look_now = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT (0) or until Ray is lost (3). Actors are left alone either way."""
        self._take_signals()
        main = asyncio.create_task(self._serve(), name="serve")
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        ends: set[asyncio.Future[object]] = {main, stopping, self._ray.lost}  # type: ignore[arg-type]  # only waited for
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        code, reason = 0, ""
        if not self._stop.is_set():
            code, reason = EXIT_RAY_LOST, _loss(main, self._ray.lost)
        main.cancel()
        stopping.cancel()
        await asyncio.gather(main, stopping, return_exceptions=True)
        if code:
            log.error("cell.ray_lost", reason=reason, exit_code=code, next="the supervisor starts a new cell agent")
        else:
            await self._disconnect()
            log.info("agent.stopped")
        return code

    def _take_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)

    async def _serve(self) -> None:
        """Connect, take over what is there, then watch and obey. Ends only by an error."""
        config = self._config
        self._incarnation = await self._ray.call(config.connect_limit_s, self._ray_cell.connect)
        self._take_signals()  # again: Ray has put a handler of its own in place, which prints stacks
        epoch = await self._ray.call(config.ray_limit_s, self._ray_cell.load_epoch, config.cell)
        log.info("cell.connected", ray_address=config.ray_address, incarnation=self._incarnation, highest_epoch=epoch)
        await self._look_at_nodes()
        await self._adopt_all()
        self._table.set_store(await probe(config.store))
        dispatcher = Dispatcher(
            config.cell,
            table=self._table,
            ray_cell=self._ray_cell,
            ray_thread=self._ray,
            limit_s=config.ray_limit_s,
            highest_epoch=epoch,
        )
        lag = LoopLag()
        membership = None if config.membership is None else Membership(config.membership)
        dialer = Dialer(config.controllers, membership)
        session = ControllerSession(
            dialer, boot=self._boot, hello=self._hello, table=self._table, orders=dispatcher, lag=lag
        )
        self._dispatcher = dispatcher
        tell_supervisor("READY=1", f"STATUS=agent of {config.cell}, Ray at {config.ray_address}")
        self._wake = dispatcher.on_change = session.wake
        dispatcher.on_preflight = session.answer_preflight
        try:
            async with asyncio.TaskGroup() as parts:
                parts.create_task(session.run(), name="session")
                if membership is not None:
                    parts.create_task(membership.keep_fresh(dialer.channel), name="identity")
                parts.create_task(self._watch_membership(), name="membership")
                parts.create_task(self._watch_store(), name="store")
                parts.create_task(lag.run(), name="lag")
        finally:
            await dispatcher.close()

    def _hello(self) -> cell_pb2.CellHello:
        return cell_pb2.CellHello(
            cell=self._config.cell,
            boot_id=self._boot.id,
            highest_epoch=self._dispatcher.highest_epoch if self._dispatcher is not None else 0,
            agent_version=AGENT_VERSION,
            incarnation=self._incarnation,
            store_address=self._table.store,
        )

    async def _watch_membership(self) -> None:
        """Poll nodes and names. Ray may fail for a while (a GCS that restarts); for longer than the limit is a loss."""
        last_good = time.monotonic()
        names_due = 0.0
        failing = False
        while True:
            try:
                await self._look_at_nodes()
                if time.monotonic() >= names_due:
                    names_due = time.monotonic() + NAMES_EVERY_S
                    await self._look_at_names()
            except (RayLostError, HeadLostError):
                raise
            except Exception as error:
                silent_s = time.monotonic() - last_good
                if silent_s > self._config.ray_limit_s:
                    raise RayLostError(f"Ray has failed for {silent_s:.1f} s: {one_line(error)}") from error
                if not failing:
                    log.warning("cell.ray_failing", reason=one_line(error))
                failing = True
            else:
                if failing:
                    log.info("cell.ray_back", after_s=round(time.monotonic() - last_good, 2))
                last_good, failing = time.monotonic(), False
            with suppress(TimeoutError):  # an actor's end may be its node's: then the look is due at once
                async with asyncio.timeout(self._config.membership_interval_s):  # `wait_for` may forget a cancellation
                    await self._look_now.wait()
            self._look_now.clear()

    async def _look_at_nodes(self) -> None:
        members = await self._ray.call(self._config.ray_limit_s, self._ray_cell.members)
        for node, alive in self._table.set_nodes({member.node: member.alive for member in members}):
            log.info("cell.node_changed", node=node, alive=alive)
            self._wake()

    async def _look_at_names(self) -> None:
        """Compare with Ray's own list: no death and no actor may be missed because one message was."""
        named = await self._ray.call(self._config.ray_limit_s, self._ray_cell.named)
        for row in self._table.living():
            if row.host_id in named:
                self._missing.pop(row.host_id, None)
                continue
            seen = self._missing[row.host_id] = self._missing.get(row.host_id, 0) + 1
            if seen >= NAME_MISSING_LIMIT:
                self._dead(row.host_id, "Ray no longer knows the actor")
        starting = self._dispatcher.starting if self._dispatcher is not None else {}
        for host_id in named - starting.keys():
            if self._table.actor(host_id) is None:
                await self._adopt(host_id)

    async def _adopt_all(self) -> None:
        """Take over what an earlier agent started, and wait a moment until each has said on which node it is."""
        named = await self._ray.call(self._config.ray_limit_s, self._ray_cell.named)
        for host_id in sorted(named):
            await self._adopt(host_id)
        deadline = time.monotonic() + ADOPT_LIMIT_S
        while any(row.state == STARTING for row in self._table.living()) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        log.info("cell.adopted", hosts=len(named), silent=sum(row.state == STARTING for row in self._table.living()))

    async def _adopt(self, host_id: str) -> None:
        self._table.set_actor(ActorRow(host_id, "", STARTING))
        if not await self._ray.call(self._config.ray_limit_s, self._ray_cell.adopt, host_id):
            self._dead(host_id, "the actor has died before it could be taken over")

    async def _watch_store(self) -> None:
        while True:
            address = await probe(self._config.store)
            if self._table.set_store(address):
                log.info("cell.store_changed", store=self._config.store, answers=bool(address))
                self._wake()
            await asyncio.sleep(self._config.store_interval_s)

    def _event_from_ray(self, host_id: str, event: ActorEvent) -> None:
        # In the agent's own context, so that its log lines name the cell.
        self._loop.call_soon_threadsafe(self._on_event, host_id, event, context=self._context)

    def _on_event(self, host_id: str, event: ActorEvent) -> None:
        match event:
            case Alive(node, host_pid):
                if self._table.set_actor(ActorRow(host_id, node, ALIVE)):
                    log.info("host.actor_alive", host_id=host_id, node=node, host_pid=host_pid)
            case Ended(reason):
                self._dead(host_id, reason, self._ray_cell.release)
            case Dead(reason):
                self._dead(host_id, reason)
                self._look_now.set()
            case OutOfTouch(reason):
                log.warning("host.actor_out_of_touch", host_id=host_id, reason=reason)
                self._loop.call_later(WATCH_AGAIN_S, self._in_background, self._ray_cell.watch, host_id)
        self._wake()

    def _dead(self, host_id: str, reason: str, then: Callable[[str], None] | None = None) -> None:
        known = self._table.actor(host_id)
        starting = self._dispatcher.starting if self._dispatcher is not None else {}
        node = known.node if known is not None else starting.get(host_id, "")
        self._missing.pop(host_id, None)
        if self._table.set_actor(ActorRow(host_id, node, DEAD, reason)):
            log.info("host.actor_dead", host_id=host_id, node=node, reason=reason)
        self._in_background(then or self._ray_cell.drop, host_id)
        self._wake()

    def _in_background(self, function: Callable[[str], None], host_id: str) -> None:
        async def work() -> None:
            try:
                await self._ray.call(self._config.ray_limit_s, function, host_id)
            except RayLostError:
                return  # `lost` has ended the agent
            except Exception as error:  # noqa: BLE001  edge to Ray; the next look at the names tries again
                log.warning("host.ray_call_failed", host_id=host_id, reason=one_line(error))

        task = asyncio.create_task(work())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _disconnect(self) -> None:
        try:
            await self._ray.call(DISCONNECT_LIMIT_S, self._ray_cell.disconnect)
        except RayLostError as error:
            log.warning("cell.disconnect_late", reason=str(error))


def _loss(main: asyncio.Task[None], lost: asyncio.Future[RayLostError]) -> str:
    if lost.done():
        return str(lost.result())
    error = main.exception() if main.done() else None
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return one_line(error) if error is not None else "the agent's main task has ended"


async def probe(address: str) -> str:
    """`address` (host:port) when something there accepts a connection, else an empty string."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), PROBE_LIMIT_S)
    except (OSError, TimeoutError):
        return ""
    writer.close()
    return address


def end_process(code: int) -> None:
    """End at once: a thread stuck in Ray, and Ray's own exit handlers, would hold up an ordinary exit."""
    os._exit(code)
