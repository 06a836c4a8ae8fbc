"""CellService: sessions of cell agents, and the questions that a job's submission asks them."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import Any, cast

import structlog
from phalanx.v1 import agent_pb2, cell_pb2, cell_pb2_grpc

from controlplane.core import events as ev
from controlplane.core.draft import Refusal
from controlplane.core.effects import Effect
from controlplane.core.identity import CELL, covers
from controlplane.core.jobs import NONE, split_host_id
from controlplane.core.shipped import archive_path
from controlplane.core.spec import JobSpec, Violation
from controlplane.rpc import observations
from controlplane.rpc.agent_service import check_epoch, welcome
from controlplane.rpc.boots import hello_refused
from controlplane.rpc.caller import CALLER, LOCAL, Caller
from controlplane.rpc.codec import workload_message
from controlplane.rpc.effects import Roots, cell_effect
from controlplane.rpc.errors import RequestRefused, refuse, violation_value
from controlplane.rpc.sessions import Registry, Session, Work
from controlplane.rpc.site import Site
from controlplane.rpc.skew import check_version
from controlplane.rpc.streams import OwnStream

log = structlog.get_logger(__name__)

MAX_MEMBERS = 20_000
"""Nodes of one cell: three times the largest site."""
CELL_RETURN_S = 10.0
"""A submission waits this long for a cell agent that has just lost its session."""


class CellSession(Session):
    """The session of one cell agent.

    `members` remembers what the cell last said of every node: a node agent may come after its raylet, and the core
    keeps membership of registered nodes only.
    """

    kind = "cell"
    subject = "cell"

    def __init__(self, site: Site, registry: Registry, caller: Caller) -> None:
        super().__init__(site, registry, caller)
        self.members: dict[str, bool] = {}
        self.store_address = ""
        self._questions: dict[str, asyncio.Future[tuple[Violation, ...]]] = {}

    async def greet(self, message: cell_pb2.CellMessage) -> None:
        """The hello opens the session; its list is the whole membership."""
        if message.WhichOneof("body") != "hello":
            refuse("invalid", "NO_HELLO", "the first message of a session must be a hello")
        hello = message.hello
        await self.introduce(CELL, hello.cell)
        event = observations.cell_hello(hello, self._speaks_for)
        self._check_members(event.nodes)
        async with self.registry.lock(hello.cell):
            if self.ended:
                return
            check_version(self.site, hello.cell, hello.agent_version)
            check_epoch(self.site, hello.cell, hello.highest_epoch)
            outcome = await self.site.tell(event)
            if isinstance(outcome, Refusal):
                former = self.site.state.cells.get(hello.cell)
                raise hello_refused(outcome, former.boot_id if former else "", self.site.now_ns())
            self.name, self.boot_id = hello.cell, hello.boot_id
            self.members, self.store_address = dict(event.nodes), event.store_address
            self.send(cell_pb2.CellInstruction(welcome=welcome(self.site)))
            self.accept()
        self.note("session_opened", version=hello.agent_version)
        self.send_effects(effect for effect in self.site.state.effects.values() if self.addressed(effect))
        known = tuple(row for row in event.nodes if self.site.state.fleet.number(row[0]) is not None)
        gone = self._own_actors(observations.dead_actors(hello.snapshot))
        report = ev.CellReport(self.name, self.boot_id, known, gone, event.store_address, store_known=True)
        self._report(report, hello.snapshot.sequence)

    def handle(self, message: cell_pb2.CellMessage) -> None:
        """Reports and outcomes go to the brain, answers to whoever asked."""
        match message.WhichOneof("body"):
            case "beat":
                return
            case "report":
                event = observations.cell_report(self.name, self.boot_id, message.report)
                self._check_members(event.nodes)
                event = replace(event, dead_actors=self._own_actors(event.dead_actors))
                if message.report.full:
                    self.members = {}
                self.members.update(event.nodes)
                self.store_address = event.store_address
                self._report(event, message.report.sequence)
            case "effect_result":
                result = message.effect_result
                self.effect_result(observations.effect_done(result))
            case "preflight_result":
                found = tuple(violation_value(item) for item in message.preflight_result.violations)
                waiting = self._questions.pop(message.preflight_result.preflight_id, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(found)
            case "hello":
                refuse("invalid", "SECOND_HELLO", f"{self.name} said hello twice in one session")
            case None:
                self.offence("UNKNOWN_MESSAGE", "a message that this controller does not know")

    def lost(self, reason: str) -> ev.CellSessionLost:
        """The end of this session, as an event."""
        for waiting in self._questions.values():
            waiting.cancel()
        return ev.CellSessionLost(self.name, self.boot_id, reason)

    def effect_message(self, effect: Effect) -> cell_pb2.CellInstruction:
        """An effect as an instruction."""
        settings = self.site.settings
        roots = Roots(settings.root, settings.code_root)
        return cell_pb2.CellInstruction(effect=cell_effect(effect, self.site.state, roots, self.site.now_ns()))

    def node_registered(self, node: str) -> None:
        """A node said hello after the cell had named it: tell the core what the cell knows."""
        if node in self.members:
            rows = ((node, self.members[node]),)
            event = ev.CellReport(self.name, self.boot_id, rows, (), self.store_address, store_known=True)
            self.queue(Work(event))

    async def preflight(self, spec: JobSpec, folder: str) -> tuple[Violation, ...] | None:
        """What the cell finds wrong with a job; None when its session ended before it answered.

        Raises:
            TimeoutError: no answer in time.
        """
        question = secrets.token_hex(8)
        answer: asyncio.Future[tuple[Violation, ...]] = self.site.loop.create_future()
        self._questions[question] = answer
        request = cell_pb2.PreflightRequest(
            preflight_id=question,
            workload=workload_message(spec.workload),
            checkpoint_folder=folder,
            code_archive=archive_path(self.site.settings.code_root, spec.workload.code_digest),
        )
        self.send(cell_pb2.CellInstruction(preflight=request))
        try:
            async with asyncio.timeout(self.site.settings.preflight_ms / 1000):
                await asyncio.wait({answer})
        finally:
            self._questions.pop(question, None)
        return None if answer.cancelled() else answer.result()

    def _check_members(self, nodes: tuple[tuple[str, bool], ...]) -> None:
        """Refuse a report on more nodes than there can be, or on some for which the cell's certificate does not speak."""
        if len(nodes) + len(self.members) > 2 * MAX_MEMBERS or len(nodes) > MAX_MEMBERS:
            text = f"{self.said} reports on {len(nodes)} nodes beside {len(self.members)}: a cell has {MAX_MEMBERS} at most"
            refuse("invalid", "INVALID_FIELD", text)
        caller, speaks_for = self.caller, self._speaks_for
        if speaks_for is None:
            return
        strange = [node for node, _ in nodes if not covers(speaks_for, node)]
        if strange:
            self.site.metrics.refuse("NOT_YOUR_NODES", len(strange))
            text = (
                f"{caller.uri} reports on {', '.join(strange[:5])} ({len(strange)} nodes), but speaks for "
                f"{', '.join(caller.speaks_for[:5]) or 'none'}: make it a token with `--speaks-for`"
            )
            refuse("denied", "NOT_YOUR_NAME", text)

    @property
    def _speaks_for(self) -> tuple[str, ...] | None:
        """The nodes of the cell's certificate; None over plaintext: all."""
        return None if self.caller.kind == LOCAL.kind else self.caller.speaks_for

    def _own_actors(self, dead: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """Without actors on nodes of others: what is said to be dead is fenced."""
        speaks_for = self._speaks_for
        if speaks_for is None:
            return dead
        own = tuple(row for row in dead if covers(speaks_for, self._node_of(row[0])))
        if len(own) < len(dead):
            self.offence("NOT_YOUR_NODES", "processes that end on nodes of others", len(dead) - len(own))
        return own

    def _node_of(self, actor: str) -> str:
        """Where a process was to be started, "" when nothing is known of it."""
        parts, state = split_host_id(actor), self.site.state
        job = state.jobs.get(parts[0]) if parts else None
        row = job.hosts.row(parts[1]) if job and parts else NONE
        return state.fleet.name(int(job.hosts.node[row])) if job and row != NONE else ""

    def _report(self, event: ev.CellReport, sequence: int) -> None:
        def ack() -> None:
            self.send(cell_pb2.CellInstruction(report_ack=agent_pb2.ReportAck(sequence=sequence)))

        self.queue(Work(event, ack))


async def _connected(site: Site, cells: Registry) -> object | None:
    end = asyncio.get_running_loop().time() + CELL_RETURN_S
    while not cells.current and site.state.cells and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.1)
    return next(iter(cells.current.values()), None)


async def preflight(site: Site, cells: Registry, spec: JobSpec) -> None:
    """Ask a connected cell whether it can run a job; one that is known is given a moment to come back. A site without any
    cell is asked nothing: the job then waits with that blocker.

    Raises:
        RequestRefused: it cannot, or it did not answer in time.
    """
    session = await _connected(site, cells)
    if session is None:
        log.warning("preflight_skipped", job=spec.name, reason="no cell agent is connected")
        return
    cell = cast("CellSession", session)
    try:
        violations = await cell.preflight(spec, spec.checkpoint.folder or site.settings.root)
    except TimeoutError:
        text = (
            f"cell {cell.name} did not say within {site.settings.preflight_ms / 1000:g} s whether it can run "
            f"{spec.workload.module}: nothing was stored, try again"
        )
        raise RequestRefused(Refusal("too_late", "PREFLIGHT_TIMED_OUT", text)) from None
    if violations is None:
        log.warning("preflight_skipped", cell=cell.name, job=spec.name, reason="the cell's session ended")
    elif violations:
        first = violations[0]
        text = f"cell {cell.name} cannot run the job: {first.path} {first.reason}: {first.fix}"
        raise RequestRefused(Refusal("invalid", "PREFLIGHT_FAILED", text, violations))


class CellService(cell_pb2_grpc.CellServiceServicer):
    """See proto/phalanx/v1/cell.proto."""

    def __init__(self, site: Site, sessions: Registry) -> None:
        self._site = site
        self._sessions = sessions

    async def Session(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # reads and writes by itself
        """One cell agent's stream."""
        await OwnStream(CellSession(self._site, self._sessions, CALLER.get()), context).run()
