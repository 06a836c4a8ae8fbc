"""The accelerators of this node: its probes, the board that they fill, and who is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import structlog
from phalanx.v1 import agent_pb2, types_pb2

from agents.node.board import Changes, DeviceBoard, Kept
from agents.node.checks.finding import VENDOR as CHECKS
from agents.node.checks.finding import Finding
from agents.node.durable import replace_file
from agents.node.outbox import ReportOutbox
from agents.node.probes.canary import CanaryProbe
from agents.node.probes.simulated import SimulatedProbe
from agents.node.probes.supervised import Pace, SupervisedProbe
from agents.node.probes.wire import message_of
from agents.node.telemetry import Telemetry

SIMULATED_POLL_S = 1.0
TELEMETRY_S = 5.0
FIRST_READING_S = 10.0
LONGEST_LOOK_BACK_S = 3_600.0
NS_PER_S = 1_000_000_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """What is read, and where it is kept. `vendors`: probes that run in processes of their own."""

    node: str
    vendors: tuple[str, ...]
    simulated: int
    kept_path: Path
    telemetry_path: Path
    pace: Pace = field(default_factory=Pace)


class Devices:
    """Lives on the event loop; not thread-safe. `run` it until cancelled."""

    def __init__(self, settings: DeviceSettings) -> None:
        self._settings = settings
        self.simulated = SimulatedProbe(settings.node, settings.simulated) if settings.simulated else None
        self.canary = CanaryProbe()
        known = [entry for entry in load_kept(settings.kept_path) if not self._gone_on_purpose(entry)]
        first = (self.simulated.VENDOR,) if self.simulated is not None else ()
        self.board = DeviceBoard((*first, *settings.vendors), known)
        self.broken_links: frozenset[str] | None = None  # None: none was ever tried
        self._telemetry = Telemetry(settings.node, settings.telemetry_path)
        self._outbox: ReportOutbox | None = None
        self._wake: Callable[[], None] = lambda: None
        self._answered = asyncio.Event()
        self._silent = {*settings.vendors}
        self._unread = {*settings.vendors}
        since_ns = self._look_back_ns()
        self._probes = [
            SupervisedProbe(
                vendor, on_reading=self.take, on_trouble=self._trouble, pace=settings.pace, log_since_ns=since_ns
            )
            for vendor in settings.vendors
        ]

    def tell(self, outbox: ReportOutbox, wake: Callable[[], None]) -> None:
        """Whom changes are told to."""
        self._outbox, self._wake = outbox, wake

    def read_simulated(self) -> None:
        """Read the simulated accelerators; changes become due at once."""
        if self.simulated is not None:
            now_ns = time.time_ns()
            self.take(message_of(self.simulated.read(), now_ns))

    def read_canary(self) -> None:
        """Look at the canary."""
        reading = self.canary.read()
        if reading is not None:
            self.take(message_of(reading, time.time_ns()))

    async def first_readings(self) -> None:
        """Until every probe has answered or failed once, a few seconds at most: a node that nobody knows yet is introduced
        with its accelerators. One that is known already is there at once, with what is remembered of it."""
        self.read_simulated()
        if not self._silent or self.board.to_keep():
            return
        try:
            await asyncio.wait_for(self._answered.wait(), FIRST_READING_S)
        except TimeoutError:
            log.warning("probes.late", vendors=sorted(self._silent), waited_s=FIRST_READING_S)

    async def run(self) -> None:
        """Read everything, again and again, until cancelled; what ends one part ends all."""
        async with asyncio.TaskGroup() as group:
            for probe in self._probes:
                group.create_task(probe.run(), name=f"probe {probe.vendor}")
            group.create_task(self._poll_simulated(), name="simulated accelerators")
            group.create_task(self._write_telemetry(), name="telemetry")

    async def _poll_simulated(self) -> None:
        while True:
            self.read_simulated()
            self.read_canary()
            await asyncio.sleep(SIMULATED_POLL_S)

    async def _write_telemetry(self) -> None:
        while True:
            await asyncio.sleep(TELEMETRY_S)
            problem = await asyncio.to_thread(self._telemetry.write)
            if problem:
                log.warning("telemetry.not_written", reason=problem)

    def take(self, reading: agent_pb2.ProbeReading) -> None:
        """A probe has read."""
        self._telemetry.take(reading, time.time())
        self._heard(reading.vendor)
        self._publish(self.board.take(reading, time.monotonic()))
        if reading.vendor in self._unread and self._outbox is not None:
            # Faults that ended while no agent was here are not named by anybody: only the whole truth ends them.
            self._unread.discard(reading.vendor)
            self._outbox.request_full()
            self._wake()

    def checked(self, findings: Sequence[Finding]) -> None:
        """All that checks of this node have found and not found well since."""
        now_ms = time.time_ns() // 1_000_000
        rows = [
            agent_pb2.FaultStatus(
                entity=finding.entity, code=finding.code, vendor=CHECKS, severity="major", message=finding.message,
                assertion=types_pb2.FAULT_ASSERTION_OCCURRED, sequence=now_ms,
            )
            for finding in findings
        ]  # fmt: skip
        self._publish(self.board.checked(rows, CHECKS, time.monotonic()))

    def link(self, peer: str, *, broken: bool) -> None:
        """The network does not lead to another node, or does again."""
        known = self.broken_links or frozenset()
        now = known | {peer} if broken else known - {peer}
        if now != known:
            self.broken_links = now
            self._publish(Changes(sources=True))

    def _trouble(self, vendor: str, code: str, reason: str) -> None:
        self._telemetry.lost(vendor)
        self._heard(vendor)
        self._publish(self.board.trouble(vendor, code, reason, time.monotonic(), time.time_ns() // 1_000_000))

    def _heard(self, vendor: str) -> None:
        self._silent.discard(vendor)
        if not self._silent:
            self._answered.set()

    def _publish(self, changes: Changes) -> None:
        if changes.kept:
            self._keep()
        if not changes or self._outbox is None:
            return
        for position in sorted(changes.accelerators):
            self._outbox.touch_accelerator(position)
        for key in sorted(changes.faults):
            self._outbox.touch_fault(key)
        for event in changes.events:
            self._outbox.add_finding(event)
        if changes.sources:
            self._outbox.touch_sources()
        self._log(changes)
        self._wake()

    def _log(self, changes: Changes) -> None:
        for position in sorted(changes.accelerators):
            row = self.board.accelerator(position)
            state = types_pb2.AcceleratorState.Name(row.state)
            log.info("accelerator.changed", accelerator=position, serial=row.serial, state=state)
        now = time.monotonic()
        rows = [*(self.board.fault(key, now) for key in sorted(changes.faults)), *(e.message for e in changes.events)]
        for fault in rows:
            assertion = types_pb2.FaultAssertion.Name(fault.assertion).removeprefix("FAULT_ASSERTION_").lower()
            log.warning(
                "fault.told", entity=fault.entity, fault_code=fault.code, assertion=assertion, message=fault.message
            )
        if changes.sources:
            sources = {source.name: source.reason for source in self.board.unreadable().sources}
            log.warning("sources.changed", unreadable=sources)

    def _keep(self) -> None:
        try:
            save_kept(self._settings.kept_path, self.board.to_keep())
        except OSError as error:
            log.error("accelerators.not_saved", reason=str(error))  # noqa: TRY400  the reason is for an operator

    def _gone_on_purpose(self, entry: Kept) -> bool:
        """Whether fewer accelerators are simulated than before; what is real and missing is lost."""
        return entry.vendor == SimulatedProbe.VENDOR and entry.index >= self._settings.simulated

    def _look_back_ns(self) -> int:
        """From when on the kernel log has not been read yet: the telemetry file shows when the last agent was here."""
        try:
            last_s = self._settings.telemetry_path.stat().st_mtime
        except OSError:
            return 0
        return int(max(last_s - TELEMETRY_S, time.time() - LONGEST_LOOK_BACK_S)) * NS_PER_S


def save_kept(path: Path, entries: Sequence[Kept]) -> None:
    """Remember accelerators over a restart. Raises OSError."""
    replace_file(path, json.dumps([asdict(entry) for entry in entries], indent=1).encode(), sync=True)


def load_kept(path: Path) -> list[Kept]:
    """Accelerators of an earlier life, by position; none when the file is missing or is not ours, which the log then says."""
    try:
        return [Kept(**entry) for entry in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        log.warning("accelerators.file_ignored", path=str(path), reason=str(error))
        return []
