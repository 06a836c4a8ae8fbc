"""AgentService: sessions of node agents, and the log chunks that they push."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog
from phalanx.v1 import agent_pb2, agent_pb2_grpc, types_pb2

from controlplane.core import events as ev
from controlplane.core.draft import Refusal
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.identity import NODE
from controlplane.core.units import to_s
from controlplane.observability.offenders import CLOCK_OFF
from controlplane.rpc import observations
from controlplane.rpc.alike import AlikeReports
from controlplane.rpc.boots import ahead_ns, hello_refused
from controlplane.rpc.caller import CALLER, Caller
from controlplane.rpc.effects import agent_effect, concerns
from controlplane.rpc.errors import RequestRefused, refuse
from controlplane.rpc.generations import GenerationMessages
from controlplane.rpc.guard import resolve
from controlplane.rpc.logs import LogRelays
from controlplane.rpc.pace import BYTES_PER_TOKEN, REPORT_TOKENS, ROWS_PER_TOKEN
from controlplane.rpc.progress import MOST_JOBS
from controlplane.rpc.sessions import Registry, Session, Work
from controlplane.rpc.site import Site
from controlplane.rpc.skew import check_version
from controlplane.rpc.stacks import stacks_of
from controlplane.rpc.streams import OwnStream

MAX_ADDRESS = 300
STOPPED = frozenset((types_pb2.RANK_STATE_PAUSED, types_pb2.RANK_STATE_EXITED, types_pb2.RANK_STATE_LOST))
"""States of a rank that makes no more steps in its generation."""
"""Jobs of one node of whose states it may tell at once."""
MAX_RANKS = 4_096
"""Of one node in one beat."""

log = structlog.get_logger(__name__)


def welcome(site: Site) -> agent_pb2.Welcome:
    """What every agent is told first."""
    state, settings = site.state, site.settings
    return agent_pb2.Welcome(
        epoch=state.epoch,
        beat_interval_ms=settings.beat_ms,
        lease_ms=settings.lease_ms,
        orphan_grace_ms=settings.orphan_grace_ms,
        revision=state.revision,
        controller_version=site.version,
    )


def check_epoch(site: Site, name: str, highest: int) -> None:
    """Refuse to lead an agent that has obeyed a later controller."""
    mine = site.state.epoch
    if highest > mine:
        log.error("epoch_behind_agent", peer_name=name, epoch=mine, highest_epoch=highest)
        text = (
            f"{name} has obeyed epoch {highest}, this controller has epoch {mine}: it must not lead; "
            "was its journal restored from an older copy?"
        )
        refuse("stale", "STALE_CONTROLLER", text)


def memory_address(hello: agent_pb2.AgentHello) -> str:
    """Where the agent takes and lends states; "" when it says nothing of use."""
    host, _, port = hello.memory_address.rpartition(":")
    usable = host and port.isdecimal() and len(port) <= 5 and len(hello.memory_address) <= MAX_ADDRESS
    return hello.memory_address if usable else ""


class AgentSession(Session):
    """The session of one node agent."""

    kind = "agent"
    subject = "node"

    def __init__(
        self, site: Site, registry: Registry, caller: Caller, prepared: GenerationMessages, alike: AlikeReports
    ) -> None:
        super().__init__(site, registry, caller)
        self._prepared = prepared
        self._alike = alike
        self._own_rows = False
        self._number = -1
        self.told_ns = 0

    @property
    def number(self) -> int:
        """The node's row in the fleet; -1 before its hello is recorded."""
        return self._number

    async def greet(self, message: agent_pb2.AgentMessage) -> None:
        """The first message is the hello."""
        if message.WhichOneof("body") != "hello":
            refuse("invalid", "NO_HELLO", "the first message of a session must be a hello")
        await self.open(message.hello)

    async def open(self, hello: agent_pb2.AgentHello) -> None:
        """The hello opens the session; its rows are the whole truth of the node.

        Raises:
            RequestRefused: it is not believed.
        """
        await self.introduce(NODE, hello.node)
        if self.limits is not None:
            self.limits.weigh_hello(hello.ByteSize())
        site = self.site
        event = observations.node_hello(hello, site.now_ns(), site.state)
        found = observations.findings(hello.snapshot, site.now_ns())
        async with self.registry.lock(hello.node):
            if self.ended:
                return
            check_version(site, hello.node, hello.agent_version)
            check_epoch(site, hello.node, hello.highest_epoch)
            site.progress.returned(lambda: site.state, hello, site.now_ns())
            outcome = await site.tell(event)
            if isinstance(outcome, Refusal):
                known = site.state.fleet.number(hello.node)
                raise hello_refused(
                    outcome, "" if known is None else site.state.fleet.facts[known].boot_id, site.now_ns()
                )
            self.name, self.boot_id, self._own_rows = hello.node, hello.boot_id, hello.own_rows
            self._look_at_start(site.now_ns())
            number = site.state.fleet.number(self.name)
            assert number is not None
            self._number = number
            site.progress.beat(number, site.now_ns())
            site.progress.memory.place(number, memory_address(hello))
            self.send(agent_pb2.AgentInstruction(welcome=welcome(site)))
            self.accept()
        self.note("session_opened", version=hello.agent_version)
        self.send_effects(effect for effect in site.state.effects.values() if self.addressed(effect))
        if any(found):
            report = ev.NodeReport(self.name, self.boot_id, False, (), (), *found)
            self.queue(Work(report, partial(self.durable, hello.snapshot.sequence)))
        else:
            self._acknowledge(hello.snapshot.sequence)

    def handle(self, message: agent_pb2.AgentMessage) -> None:
        """Beats renew the lease, reports and outcomes go to the brain."""
        match message.WhichOneof("body"):
            case "beat":
                self._beat(message.beat)
            case "report":
                self._report(message.report)
            case "effect_result":
                result = message.effect_result
                self._alike.tell_of(self)  # what it rests on was reported before
                if result.HasField("stacks"):
                    self._stands(result)
                if result.need_full and self._own_rows:
                    self._send_tables(result.effect_id)
                else:
                    self.effect_result(observations.effect_done(result))
            case "hello":
                refuse("invalid", "SECOND_HELLO", f"{self.name} said hello twice in one session")
            case None:
                self.offence("UNKNOWN_MESSAGE", "a message that this controller does not know")

    def _stands(self, result: agent_pb2.EffectResult) -> None:
        """Where this node's ranks of a job stand, if that was asked."""
        site = self.site
        effect = site.state.effects.get(result.effect_id)
        if effect is None or effect.kind is not EffectKind.GATHER_STACKS or not self.addressed(effect):
            return  # late: it is judged already
        job = site.state.jobs.get(effect.job)
        if job is not None and job.generation == effect.generation:
            site.progress.stand(effect.id, self.name, stacks_of(result.stacks, job, self._number))

    def lost(self, reason: str) -> ev.NodeSessionLost:
        """The end of this session, as an event."""
        return ev.NodeSessionLost(self.name, self.boot_id, reason)

    def addressed(self, effect: Effect) -> bool:
        """Effects for the node, and those for all nodes of a job that has ranks here."""
        return concerns(effect, self.site.state, self.name)

    def effect_message(self, effect: Effect) -> agent_pb2.AgentInstruction:
        """An effect as an instruction."""
        site = self.site
        return agent_effect(
            effect, site.state, self.name, site.root, site.now_ns(), prepared=self._prepared, own_rows=self._own_rows
        )

    def open_log(self, order: agent_pb2.OpenLog) -> None:
        """Ask the agent to push a log."""
        self.send(agent_pb2.AgentInstruction(open_log=order))

    def _beat(self, beat: agent_pb2.Beat) -> None:
        site, now_ns = self.site, self.site.now_ns()
        site.progress.beat(self._number, now_ns, self.lag_ns(beat.sent_ns, now_ns))
        if len(beat.progress) > ROWS_PER_TOKEN:
            self._many_ranks(len(beat.progress))
        if beat.held:
            self._held(beat.held, frozenset(), now_ns)
        if beat.progress:
            site.steps.take(self._number, beat.progress, now_ns)

    def _held(self, told: Sequence[agent_pb2.HeldStates], stopped: frozenset[str], now_ns: int) -> None:
        """What the node holds of jobs. `stopped`: jobs of which ranks have just stopped there."""
        site = self.site
        for states in told[:MOST_JOBS]:
            known = states.job_uid in stopped
            if not site.progress.held(lambda: site.state, self._number, states, stopped=known, now_ns=now_ns):
                site.metrics.refuse("HELD_STATES")

    def _look_at_start(self, now_ns: int) -> None:
        """A life that began in the future was begun with a wrong clock, or after one that was: see boots.py."""
        found_ns = ahead_ns(self.boot_id, now_ns)
        if found_ns:
            text = f"it says that it started {to_s(found_ns):.0f} s from now: its clock is wrong, or was at an earlier start"
            self.offence(CLOCK_OFF, text)

    def _many_ranks(self, rows: int) -> None:
        """A beat with more ranks than most nodes have costs more; one with more than any can have is refused."""
        if rows > MAX_RANKS:
            refuse("invalid", "INVALID_FIELD", f"a beat of {self.name} has {rows} ranks: at most {MAX_RANKS}")
        if self.pace is not None:
            self.pace.charge(rows // ROWS_PER_TOKEN)

    def _send_tables(self, effect_id: str) -> None:
        """A process on the node is older than its agent, and reads whole tables."""
        self._own_rows = False
        effect = self.site.state.effects.get(effect_id)
        if effect is not None and self.addressed(effect):
            self._carried.discard(effect_id)
            self.send_effects((effect,))

    def _report(self, message: agent_pb2.Report) -> None:
        site = self.site
        if self.pace is not None:
            self.pace.charge(REPORT_TOKENS + message.ByteSize() // BYTES_PER_TOKEN)
        site.steps.tell_of(self._number)
        self._alike.tell_of(self)
        if message.held:
            stopped = frozenset(host.job_uid for host in message.hosts if host.state in STOPPED)
            self._held(message.held, stopped, site.now_ns())
            message.ClearField("held")
        for failure in message.restore_failures[:MOST_JOBS]:
            site.progress.restore_failed(lambda: site.state, self._number, failure)
        if not self.busy and self._alike.take(self, message, site.now_ns()):
            return
        self._queue_report(message)

    def report_alone(self, message: agent_pb2.Report) -> None:
        """Have a report judged row by row after all; a report that makes no sense ends the session."""
        try:
            self._queue_report(message)
        except RequestRefused as error:
            self.end(error.refusal)

    def _queue_report(self, message: agent_pb2.Report) -> None:
        site = self.site
        event = observations.node_report(self.name, self.boot_id, message, site.now_ns(), site.state)
        self.queue(Work(event, partial(self.durable, message.sequence)))

    def durable(self, sequence: int) -> None:
        """All reports up to this one are durable: the agent may forget them."""
        self.site.acks.add(self._acknowledge, sequence)

    def _acknowledge(self, sequence: int) -> None:
        if not self.ended:
            self.send(agent_pb2.AgentInstruction(report_ack=agent_pb2.ReportAck(sequence=sequence)))


class AgentService(agent_pb2_grpc.AgentServiceServicer):
    """See proto/phalanx/v1/agent.proto."""

    def __init__(self, site: Site, sessions: Registry, relays: LogRelays) -> None:
        self._site = site
        self._sessions = sessions
        self._relays = relays
        self._prepared = GenerationMessages(site.progress.memory)
        self._alike = AlikeReports(site)

    async def Session(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # reads and writes by itself
        """One node agent's stream."""
        await OwnStream(self.session_of(CALLER.get()), context).run()

    def session_of(self, caller: Caller) -> AgentSession:
        """A session for a node that has proven its name, whatever will carry it."""
        return AgentSession(self._site, self._sessions, caller, self._prepared, self._alike)

    async def PushLog(self, request_iterator: Any, context: Any) -> agent_pb2.PushLogResponse:
        """Chunks of one log for one reader; ends when the reader leaves."""
        caller, site = CALLER.get(), self._site
        ending: asyncio.Future[Refusal] = site.loop.create_future()
        with site.calls.hold(caller, partial(resolve, ending), site.now_ns):
            await self._relays.take(context, caller, ending)
        return agent_pb2.PushLogResponse()
