"""A probe in a process of its own: killed when it hangs, started again when it ends, with a wait that grows.

States: starting (no reading in this life yet), reading, ended, waiting. Every end has one name, which is a fault code:

| end | code |
|---|---|
| no reading within the deadline, although there was one before | PROBE-HUNG |
| no reading within the deadline, and never one before | PROBE-SILENT |
| the process ended, broke the framing, or wrote what is no reading of its vendor | PROBE-CRASHED |
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
from google.protobuf.message import DecodeError
from phalanx.v1 import agent_pb2

from agents.node.probes.wire import LENGTH, MAX_FRAME_BYTES

HUNG = "PROBE-HUNG"
SILENT = "PROBE-SILENT"
CRASHED = "PROBE-CRASHED"
TROUBLES = (HUNG, SILENT, CRASHED)

ERROR_TAIL_BYTES = 4_096
REAP_S = 5.0
NS_PER_S = 1_000_000_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things may take, in seconds. `interval`: from one reading to the next. `deadline`: without a reading.
    `first_wait` doubles up to `last_wait` between two lives, and is the first again after a life of `steady`."""

    interval_s: float = 2.0
    deadline_s: float = 15.0
    first_wait_s: float = 1.0
    last_wait_s: float = 60.0
    steady_s: float = 120.0


@dataclass(frozen=True, slots=True)
class End:
    """How one life of the process ended: a code of the table above, and a sentence."""

    code: str
    reason: str


_ENDED = End(CRASHED, "it ended")


def child_command(vendor: str, *, descriptor: int, interval_s: float, log_since_ns: int, count: int = 0) -> list[str]:
    """The command line of a probe's process."""
    return [
        *(sys.executable, "-m", "agents.node.probes.child", vendor, "--descriptor", str(descriptor)),
        *("--parent", str(os.getpid()), "--interval-s", str(interval_s), "--log-since-ns", str(log_since_ns)),
        *("--count", str(count)),
    ]


class SupervisedProbe:
    """Keeps the process of one vendor's probe alive until cancelled.

    `command`: makes the command line from the descriptor and the time since which the kernel log is wanted (Unix ns).
    """

    def __init__(
        self,
        vendor: str,
        *,
        on_reading: Callable[[agent_pb2.ProbeReading], None],
        on_trouble: Callable[[str, str, str], None],
        pace: Pace | None = None,
        log_since_ns: int = 0,
        command: Callable[[int, int], Sequence[str]] | None = None,
    ) -> None:
        self.vendor = vendor
        self._on_reading = on_reading
        self._on_trouble = on_trouble
        self._pace = pace or Pace()
        self._log_since_ns = log_since_ns
        self._command = command or self._default_command
        self._sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        self._answered = False
        self._held: asyncio.subprocess.Process | None = None

    def _default_command(self, descriptor: int, log_since_ns: int) -> Sequence[str]:
        interval_s = self._pace.interval_s
        return child_command(self.vendor, descriptor=descriptor, interval_s=interval_s, log_since_ns=log_since_ns)

    async def run(self) -> None:
        """One life after another. Cancelling it kills the process."""
        wait_s = self._pace.first_wait_s
        while True:
            began = time.monotonic()
            end = await self._live()
            self._on_trouble(self.vendor, end.code, end.reason)
            if time.monotonic() - began >= self._pace.steady_s:
                wait_s = self._pace.first_wait_s
            log.warning("probe.ended", vendor=self.vendor, code=end.code, reason=end.reason, next_in_s=wait_s)
            await self._sleep(wait_s)
            wait_s = min(wait_s * 2, self._pace.last_wait_s)

    async def _live(self) -> End:
        if self._held is not None and self._held.returncode is None:
            return End(
                HUNG, f"its former process {self._held.pid} was killed, and the kernel holds it in a driver's call"
            )
        try:
            receiving, sending = os.pipe()
        except OSError as error:
            return End(CRASHED, f"there is no pipe for it: {error}")
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(sending, self._log_since_ns),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(sending,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(receiving)
            return End(CRASHED, f"its process cannot be started: {error}")
        finally:
            os.close(sending)
        tail: deque[bytes] = deque(maxlen=4)
        draining = asyncio.create_task(_drain(process.stderr, tail))
        try:
            end = await self._listen(receiving)
            if end == _ENDED:
                end = await self._explained(process, draining, tail, end)
            return end
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            draining.cancel()
            await self._reap(process)

    async def _reap(self, process: asyncio.subprocess.Process) -> None:
        """Wait for a killed process. One that a driver holds does not die, and no second one is started beside it."""
        self._held = process
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), REAP_S)

    async def _listen(self, receiving: int) -> End:
        """Frames until there are no more, or none in time."""
        reader = asyncio.StreamReader(limit=MAX_FRAME_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(receiving, "rb", buffering=0)
        )
        try:
            while True:
                async with asyncio.timeout(self._pace.deadline_s):  # `wait_for` may forget a cancellation
                    reading = await self._next(reader)
                if isinstance(reading, End):
                    return reading
                self._answered = True
                self._log_since_ns = time.time_ns() - int(self._pace.interval_s * NS_PER_S)
                try:
                    self._on_reading(reading)
                except Exception as error:  # process edge: a probe's bad reading must not end the agent
                    log.exception("probe.reading_refused", vendor=self.vendor)
                    return End(CRASHED, f"its reading cannot be taken: {error!r}")
        except TimeoutError:
            code, word = (HUNG, "has given no reading") if self._answered else (SILENT, "has never given a reading,")
            return End(code, f"it {word} for {self._pace.deadline_s:g} s, and was killed")
        finally:
            transport.close()

    async def _next(self, reader: asyncio.StreamReader) -> agent_pb2.ProbeReading | End:
        try:
            (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            if size > MAX_FRAME_BYTES:
                return End(CRASHED, f"it announced a reading of {size} bytes, more than {MAX_FRAME_BYTES}")
            reading = agent_pb2.ProbeReading.FromString(await reader.readexactly(size))
        except asyncio.IncompleteReadError:
            return _ENDED
        except DecodeError:
            return End(CRASHED, "it wrote what is no reading")
        if reading.vendor != self.vendor:
            return End(CRASHED, f"it wrote a reading of vendor {reading.vendor[:64]!r}")
        return reading

    async def _explained(
        self, process: asyncio.subprocess.Process, draining: asyncio.Task[None], tail: deque[bytes], end: End
    ) -> End:
        """The end with the exit status and the last line that the process wrote, when it has ended by itself."""
        try:
            status = await asyncio.wait_for(process.wait(), REAP_S)
            await asyncio.wait_for(draining, REAP_S)
        except TimeoutError:
            return end
        lines = b"".join(tail)[-ERROR_TAIL_BYTES:].decode(errors="replace").strip().splitlines()
        how = f"by signal {-status}" if status < 0 else f"with exit code {status}"
        last = f": {lines[-1][:500]}" if lines else ""
        return End(end.code, f"{end.reason} {how}{last}")


async def _drain(stream: asyncio.StreamReader | None, tail: deque[bytes]) -> None:
    """Keep the last of what the process writes to standard error, so that it never waits for a reader."""
    while stream is not None and (piece := await stream.read(ERROR_TAIL_BYTES)):
        tail.append(piece)
