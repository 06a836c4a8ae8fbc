"""RelayService: one stream that carries the sessions of many node agents.

A node behind a relay has the same session as one with a stream of its own; only what carries it differs. Its observations go to
the brain by themselves, its instructions are drawn when the relay's stream can take them, and its end ends nobody else's.
Beats of all nodes are one message and one write into the soft columns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import structlog
from google.protobuf.message import DecodeError
from phalanx.v1 import agent_pb2, relay_pb2, relay_pb2_grpc

from controlplane.core import events as ev
from controlplane.core.draft import Refusal
from controlplane.core.effects import Effect
from controlplane.core.identity import NODE, RELAY
from controlplane.core.units import NS_PER_MS
from controlplane.engine.soft import StepColumns
from controlplane.observability.offenders import FLOOD
from controlplane.rpc import phase_times
from controlplane.rpc.access import Access, check_name, check_speaks_for
from controlplane.rpc.agent_service import AgentService, AgentSession, check_epoch, welcome
from controlplane.rpc.boots import KNOWN_BOOT_KEY
from controlplane.rpc.caller import CALLER, LOCAL, Caller
from controlplane.rpc.errors import RequestRefused, message_of, refuse, status_of
from controlplane.rpc.field_count import too_many_fields
from controlplane.rpc.offences import note_refusal
from controlplane.rpc.relayed_offences import RelayedOffences
from controlplane.rpc.sessions import Registry, Session
from controlplane.rpc.site import Site
from controlplane.rpc.skew import check_version
from controlplane.rpc.streams import OwnStream

SLOTS = 256
"""Nodes behind one relay."""
BEATS_MS = 100
"""How often a relay tells what it heard."""
PACK_BYTES = 2 << 20
"""Instructions in one message to a relay; one that is larger travels alone."""
NOT_HEARD = -1
MAX_GENERATIONS = 4_096
MAX_STEPS = 256 * SLOTS
"""Rows of one generation in a message: a rank on each device of each node."""
MAX_CERTIFICATE_BYTES = 16 << 10

LARGEST = np.uint64(1 << 38)
"""Steps, and ages in milliseconds (eight years), are cut to this."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Seat:
    """A node's session in its slot. `held`: until the node's own identity may speak no more."""

    slot: int
    session: AgentSession
    held: ExitStack = field(default_factory=ExitStack)
    greeting: asyncio.Task[None] | None = None
    known_boot: str = ""


class RelaySession(Session):
    """The session of one relay, and the seats of its nodes. All of it in the edge's event loop."""

    kind = "relay"
    subject = "relay"

    def __init__(self, site: Site, registry: Registry, caller: Caller, agents: AgentService, access: Access) -> None:
        super().__init__(site, registry, caller)
        self._agents = agents
        self._access = access
        self._offences = RelayedOffences(site.metrics, caller)
        self._seats: dict[int, Seat] = {}
        self._numbers = np.full(SLOTS, NOT_HEARD, dtype=np.int64)
        self._leaving: set[int] = set()  # slots that we ended, until the relay says the same
        self._ready: dict[int, None] = {}  # slots with something to write, in order

    # The relay itself

    async def greet(self, message: relay_pb2.RelayMessage) -> None:
        """The hello opens the session; nodes follow one by one."""
        if message.WhichOneof("body") != "hello":
            refuse("invalid", "NO_HELLO", "the first message of a session must be a hello")
        hello, site = message.hello, self.site
        await self.introduce(RELAY, hello.relay)
        check_version(site, hello.relay, hello.agent_version)
        check_epoch(site, hello.relay, hello.highest_epoch)
        async with self.registry.lock(hello.relay):
            if self.ended:
                return
            self.name, self.boot_id = hello.relay, hello.boot_id
            greeting = welcome(site)
            greeting.beat_interval_ms = min(BEATS_MS, greeting.beat_interval_ms)
            self.send(relay_pb2.RelayInstruction(welcome=greeting))
            self.accept()
        self.note("session_opened", version=hello.agent_version)

    def handle(self, message: relay_pb2.RelayMessage) -> None:
        """What the relay says of its nodes. A node's mistake ends that node's session, a relay's own ends the relay's."""
        match message.WhichOneof("body"):
            case "beats":
                self._beats(message.beats)
            case "message":
                self._message(message.message)
            case "opening":
                self._open(message.opening)
            case "end":
                self._ended_below(message.end)
            case "offences":
                self._offences.note(message.offences)
            case "hello":
                refuse("invalid", "SECOND_HELLO", f"{self.name} said hello twice in one session")
            case None:
                self.offence("UNKNOWN_MESSAGE", "a message that this controller does not know")

    def next_instruction(self) -> relay_pb2.RelayInstruction | None:
        """What to write now: at most one instruction of each node, so that each gets its own in order."""
        own: relay_pb2.RelayInstruction | None = super().next_instruction()
        if own is not None:
            return own
        rows: dict[bytes, list[int]] = {}
        size = 0
        for slot in tuple(self._ready):
            if size >= PACK_BYTES:
                break
            del self._ready[slot]
            seat = self._seats.get(slot)
            instruction = seat.session.next_instruction() if seat is not None else None
            if instruction is None:
                continue
            self._ready[slot] = None  # it may have more, and is behind the others now
            raw = instruction.SerializeToString()
            size += 0 if raw in rows else len(raw)
            rows.setdefault(raw, []).append(slot)
        if not rows:
            return None
        found = [relay_pb2.RelayedInstruction(slots=slots, instruction=raw) for raw, slots in rows.items()]
        return relay_pb2.RelayInstruction(instructions=relay_pb2.RelayedInstructions(rows=found))

    def close(self, reason: str, moved_s: float = 0.0) -> None:
        """The relay is gone, its nodes are not: they dial again, and what they lost is told of those that have not done so
        within a lease."""
        self.ended = True
        lease_s = self.site.settings.lease_ms / 1000
        for seat in tuple(self._seats.values()):
            self._leave_seat(seat, f"relay {self.name} is gone: {reason}", max(moved_s, lease_s))
        if self.name and self.registry.current.get(self.name) is self:
            del self.registry.current[self.name]
        if self.name:
            self.note("session_ended", reason=reason)

    def lost(self, reason: str) -> ev.Observation:
        """A relay is no part of the fleet: nobody is told of its end."""
        raise NotImplementedError(f"{self.name}: {reason}")

    def addressed(self, effect: Effect) -> bool:
        """No effect is for a relay."""
        del effect
        return False

    # Its nodes

    def _open(self, opening: relay_pb2.RelayedOpening) -> None:
        slot, node = opening.slot, opening.hello.node
        if slot >= SLOTS or slot in self._seats or slot in self._leaving:
            text = f"{self.name} opens slot {slot} for {node[:253]!r}: it is in use, or not below {SLOTS}"
            refuse("invalid", "SLOT_TAKEN", text)
        known = [self.caller]  # whose mistake it is: the relay's, until the node's own certificate has been read
        try:
            caller = self._node_caller(opening.certificate_pem, node, known.append)
        except RequestRefused as error:
            self._refused(error.refusal, known[-1], self.said)
            self._tell_end(slot, error.refusal)
            return
        seat = self._seats[slot] = Seat(slot, self._agents.session_of(caller))
        seat.session.wake = partial(self._wake_for, slot)
        seat.session.closing.add_done_callback(partial(self._end_seat, seat))
        try:
            seat.held.enter_context(self.site.calls.hold(caller, seat.session.end, self.site.now_ns))
        except RequestRefused as error:  # this node has too many streams; the relay and its other nodes have not
            seat.session.end(error.refusal)
            return
        seat.greeting = self.site.loop.create_task(self._greet(seat, opening.hello), name="relayed hello")

    def _node_caller(self, certificate_pem: bytes, node: str, named: Callable[[Caller], None]) -> Caller:
        check_speaks_for(self.caller, node)
        if self.caller.kind == LOCAL.kind:
            return self.caller
        if len(certificate_pem) > MAX_CERTIFICATE_BYTES:
            refuse(
                "unauthenticated", "NOT_AUTHENTICATED", f"a certificate of {len(certificate_pem)} bytes is none of ours"
            )
        found = self._access.holder(certificate_pem, self.caller.peer, named)
        check_name(found, NODE, node)
        return found

    async def _greet(self, seat: Seat, hello: agent_pb2.AgentHello) -> None:
        session = seat.session
        try:
            await session.open(hello)
        except RequestRefused as error:
            seat.known_boot = str(dict(error.metadata).get(KNOWN_BOOT_KEY, ""))
            session.end(error.refusal)
        except Exception:  # process edge: a defect with one node must not reach the others
            log.exception("relayed_hello_broke", node=hello.node)
            self.site.metrics.refuse("INTERNAL")
            session.end(Refusal("internal", "INTERNAL", "the hello failed by a defect of the controller; see its log"))
        finally:
            seat.greeting = None
        if session.name and not session.ended:
            self._numbers[seat.slot] = session.number

    def _message(self, relayed: relay_pb2.RelayedMessage) -> None:
        seat = self._seats.get(relayed.slot)
        if seat is None:
            if relayed.slot not in self._leaving:
                refuse("invalid", "NO_SUCH_SLOT", f"{self.name} speaks for slot {relayed.slot}, which nobody has")
            return
        session = seat.session
        try:
            if not session.name:
                refuse("invalid", "NO_HELLO", "a message before the welcome")
            if too_many_fields(relayed.message, agent_pb2.AgentMessage.DESCRIPTOR):
                refuse("invalid", "MESSAGE_TOO_LARGE", f"a message of {len(relayed.message)} bytes has too many fields")
            session.handle(agent_pb2.AgentMessage.FromString(relayed.message))
            if session.pace is not None and not session.pace.charge():
                text = f"{session.name} sends more than {session.pace.rate_per_s:g} messages a second"
                refuse("exhausted", FLOOD, text)  # resting would hold up the other nodes
        except DecodeError as error:
            session.end(Refusal("invalid", "MALFORMED_MESSAGE", f"this is no message of a node agent: {error}"))
        except RequestRefused as error:
            session.end(error.refusal)
        if session.waiting >= 2 * self.site.settings.report_queue:
            session.end(session.backlog())  # reading no further would hold up the other nodes

    def _ended_below(self, end: relay_pb2.RelayedEnd) -> None:
        if end.slot in self._leaving:
            self._leaving.remove(end.slot)
            return
        seat = self._seats.get(end.slot)
        if seat is None:
            refuse("invalid", "NO_SUCH_SLOT", f"{self.name} ends slot {end.slot}, which nobody has")
        self._leave_seat(seat, end.message[:1_000] or "the agent closed its stream")
        self.send(relay_pb2.RelayInstruction(end=relay_pb2.RelayedEnd(slot=end.slot)))

    def _end_seat(self, seat: Seat, closing: asyncio.Future[Refusal]) -> None:
        """The session is to end: its own stream, below the relay, ends with that status."""
        if self._seats.get(seat.slot) is not seat:
            return
        refusal = closing.result()
        self._refused(refusal, seat.session.caller, seat.session.said)
        self._leave_seat(seat, refusal.message)
        self._tell_end(seat.slot, refusal, seat.known_boot)

    def _refused(self, refusal: Refusal, caller: Caller, who: str) -> None:
        self.site.metrics.refuse(refusal.reason)
        note_refusal(self.site.metrics, caller, who, refusal)

    def _tell_end(self, slot: int, refusal: Refusal, known_boot: str = "") -> None:
        self._leaving.add(slot)
        end = relay_pb2.RelayedEnd(
            slot=slot, status=int(status_of(refusal).value[0]), message=message_of(refusal), reason=refusal.reason,
            known_boot=known_boot,
        )  # fmt: skip
        self.send(relay_pb2.RelayInstruction(end=end))

    def _leave_seat(self, seat: Seat, reason: str, moved_s: float = 0.0) -> None:
        del self._seats[seat.slot]
        self._numbers[seat.slot] = NOT_HEARD
        self._ready.pop(seat.slot, None)
        seat.held.close()
        seat.session.close(reason, moved_s)

    def _wake_for(self, slot: int) -> None:
        self._ready[slot] = None
        self.wake()

    # Columns

    def _beats(self, beats: relay_pb2.RelayedBeats) -> None:
        site, now_ns = self.site, self.site.now_ns()
        if len(beats.slots) > SLOTS or len(beats.steps) > MAX_GENERATIONS:
            text = f"{self.name} sends {len(beats.slots)} beats and {len(beats.steps)} generations in one message"
            refuse("invalid", "BAD_COLUMNS", text)
        slots = _slots(beats.slots)
        if len(slots) != len(beats.ages_ms):
            refuse("invalid", "BAD_COLUMNS", f"{self.name} sends {len(beats.ages_ms)} ages of {len(slots)} beats")
        ages_ms = np.array(beats.ages_ms, dtype=np.int64)
        numbers = self._numbers[slots]
        known = numbers != NOT_HEARD
        lag_ns = self.lag_ns(beats.sent_ns if len(slots) else 0, now_ns, int(np.count_nonzero(known)))
        site.progress.beats(numbers[known], now_ns - ages_ms[known] * NS_PER_MS, lag_ns)
        for steps in beats.steps:
            self._steps(steps, now_ns)

    def _steps(self, rows: relay_pb2.RelayedSteps, now_ns: int) -> None:
        columns = (rows.slots, rows.steps, rows.ages_ms, rows.losses, rows.step_times_s)
        uneven = bool(rows.gradient_norms) and len(rows.gradient_norms) != len(rows.ranks)
        if len(rows.ranks) > MAX_STEPS or uneven or any(len(column) != len(rows.ranks) for column in columns):
            refuse(
                "invalid",
                "BAD_COLUMNS",
                f"{self.name} sends columns of unequal length, or too long, for {rows.job_uid[:64]}",
            )
        times = phase_times.relayed(rows)
        if times is None:
            refuse("invalid", "BAD_COLUMNS", f"{self.name} sends phase times that do not fit its rows")
        numbers = self._numbers[_slots(rows.slots)]
        found = StepColumns(
            ranks=np.array(rows.ranks, dtype=np.int64),
            nodes=numbers,
            steps=_bounded(rows.steps),
            at_ns=now_ns - _bounded(rows.ages_ms) * NS_PER_MS,
            losses=np.array(rows.losses, dtype=np.float64),
            step_times_s=np.array(rows.step_times_s, dtype=np.float64),
            times=times,
            gradient_norms=(
                np.array(rows.gradient_norms, dtype=np.float64)
                if rows.gradient_norms
                else np.full(len(numbers), np.nan)
            ),
        )
        heard = found.taken(numbers != NOT_HEARD)
        refused = self.site.progress.steps(lambda: self.site.state, rows.job_uid, rows.generation, heard)
        if refused:
            self.site.metrics.refuse("OLD_GENERATION", refused)


def _slots(column: Any) -> np.ndarray:
    """A column of slots.

    Raises:
        RequestRefused: one is none.
    """
    slots = np.array(column, dtype=np.int64)
    if len(slots) and slots.max() >= SLOTS:
        refuse("invalid", "NO_SUCH_SLOT", f"slot {int(slots.max())}: a relay has {SLOTS}")
    return slots


def _bounded(column: Any) -> np.ndarray:
    """A column of 64-bit numbers, cut to what arithmetic in nanoseconds can hold."""
    return np.minimum(np.array(column, dtype=np.uint64), LARGEST).astype(np.int64)


class RelayService(relay_pb2_grpc.RelayServiceServicer):
    """See proto/phalanx/v1/relay.proto."""

    def __init__(self, site: Site, relays: Registry, agents: AgentService, access: Access) -> None:
        self._site = site
        self._relays = relays
        self._agents = agents
        self._access = access

    async def Session(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override] # reads and writes by itself
        """One relay's stream."""
        session = RelaySession(self._site, self._relays, CALLER.get(), self._agents, self._access)
        await OwnStream(session, context).run()
