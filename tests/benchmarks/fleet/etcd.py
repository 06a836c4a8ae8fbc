"""Leases of etcd beside ours: what keeping them alive costs, how late it is known that they have run out.

Debian's etcd-server, one member, its files on the same disk, pinned to the controller's core. All leases are kept alive over one
connection without TLS, which is in etcd's favour: with us each node has its own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpc import aio

from tests.benchmarks.fleet.etcd_protocol import DELETED, MESSAGES, Calls
from tests.benchmarks.fleet.site import CONTROLLER_CORE, GENERATOR_CORE, sample
from tests.fixtures.ports import free_port

PREFIX = b"/nodes/"
PREFIX_END = b"/nodes0"
PACE_S = 0.01
LOAD_S = 20.0
START_S = 30.0
LATE_LIMIT_S = 60.0
"""A lease that is not gone so long after its end fails the run."""
AT_ONCE = 64


@dataclass(frozen=True)
class Setting:
    """How etcd and its clients are set up. `flags`: of the server; `ttl_s`: of every lease; `every_s`: between keep-alives."""

    name: str
    flags: tuple[str, ...]
    ttl_s: int
    every_s: float


SETTINGS = (
    Setting("default", (), 60, 20.0),  # the Go client's session: 60 s, kept alive at a third of it
    Setting("tuned", ("--heartbeat-interval=10", "--election-timeout=100"), 3, 1.0),  # our own lease and beat
)


@dataclass(frozen=True)
class Found:
    """What one setting gave. Lateness in ms beyond the lease."""

    setting: Setting
    keep_alive_cores: float
    keep_alives_per_s: float
    false_expiries: int
    one_late_ms: float
    many_late_ms: Sequence[float]


@dataclass
class Leases:
    """Leases and what is known of them; moments of the monotonic clock."""

    calls: Calls
    ttl_s: int
    ids: dict[bytes, int] = field(default_factory=dict)
    kept: dict[int, float] = field(default_factory=dict)
    gone: dict[bytes, float] = field(default_factory=dict)
    answers: int = 0

    async def grant(self, count: int) -> None:
        """Leases with one key each."""
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with room:
                granted = await self.calls.grant(MESSAGES["LeaseGrantRequest"](TTL=self.ttl_s))
                key = PREFIX + str(number).encode()
                await self.calls.put(MESSAGES["PutRequest"](key=key, value=b"1", lease=granted.ID))
                self.ids[key], self.kept[granted.ID] = granted.ID, time.monotonic()

        await asyncio.gather(*(one(number) for number in range(count)))

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """While this lasts, keys that vanish are noted."""
        call = self.calls.watch()
        await call.write(
            MESSAGES["WatchRequest"](create_request=MESSAGES["WatchCreateRequest"](key=PREFIX, range_end=PREFIX_END))
        )
        await call.read()  # created
        task = asyncio.create_task(self._follow(call))
        try:
            yield
        finally:
            call.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self, call: Any) -> None:
        while (answer := await call.read()) is not aio.EOF:
            now = time.monotonic()
            for event in answer.events:
                if event.type == DELETED:
                    self.gone.setdefault(event.kv.key, now)

    async def keep_alive(self, every_s: float, seconds: float) -> None:
        """Each lease at its own phase, whatever became of the time before; then all stop together."""
        call = self.calls.keep_alive()
        reader = asyncio.create_task(self._heard(call))
        ids, began, sent = [*self.ids.values()], time.monotonic(), 0
        while (now := time.monotonic()) < began + seconds:
            due = int((now - began) / every_s * len(ids))
            for number in range(sent, due):
                await call.write(MESSAGES["LeaseKeepAliveRequest"](ID=ids[number % len(ids)]))
            sent = max(sent, due)
            await asyncio.sleep(PACE_S)
        await call.done_writing()
        await reader

    async def _heard(self, call: Any) -> None:
        while (answer := await call.read()) is not aio.EOF:
            if answer.TTL > 0:
                self.kept[answer.ID] = time.monotonic()
                self.answers += 1

    async def lateness_ms(self) -> list[float]:
        """Nobody keeps them alive any more: how long after its end each is known to be gone.

        Raises:
            TimeoutError: one is not.
        """
        async with asyncio.timeout(self.ttl_s + LATE_LIMIT_S):
            while len(self.gone) < len(self.ids):
                await asyncio.sleep(PACE_S)
        return [(self.gone[key] - self.kept[lease] - self.ttl_s) * 1_000 for key, lease in self.ids.items()]


@asynccontextmanager
async def server(flags: Sequence[str]) -> AsyncIterator[tuple[Calls, int]]:
    """A fresh etcd, and its process id."""
    folder = Path(tempfile.mkdtemp(prefix="phx-etcd-"))
    address, peer = (f"127.0.0.1:{free_port()}" for _ in range(2))
    line = [
        "etcd", f"--data-dir={folder / 'data'}", f"--listen-client-urls=http://{address}",
        f"--advertise-client-urls=http://{address}", f"--listen-peer-urls=http://{peer}",
        f"--initial-advertise-peer-urls=http://{peer}", f"--initial-cluster=default=http://{peer}", *flags,
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log)
    os.sched_setaffinity(process.pid, {CONTROLLER_CORE})
    channel = aio.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),))
    try:
        await asyncio.wait_for(channel.channel_ready(), START_S)
        yield Calls(channel), process.pid
    finally:
        await channel.close()
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _measure(setting: Setting, nodes: int, many: int, load_s: float) -> Found:
    async with server(setting.flags) as (calls, pid):
        load = Leases(calls, setting.ttl_s)
        async with load.watched():
            await load.grant(nodes)
            before, began = sample(pid).cpu_s, time.monotonic()
            await load.keep_alive(setting.every_s, load_s)
            took_s = time.monotonic() - began
            cores, false = (sample(pid).cpu_s - before) / took_s, len(load.gone)
    late: list[list[float]] = []
    for count in (1, many):
        async with server(setting.flags) as (calls, _):
            silent = Leases(calls, setting.ttl_s)
            async with silent.watched():
                await silent.grant(count)
                await silent.keep_alive(setting.every_s, 2 * min(setting.every_s, 2.0))
                late.append(await silent.lateness_ms())
    return Found(setting, cores, load.answers / took_s, false, late[0][0], late[1])


def installed() -> bool:
    """Whether there is an etcd to measure."""
    return shutil.which("etcd") is not None


def measure(
    nodes: int, many: int = 1_000, load_s: float = LOAD_S, settings: Sequence[Setting] = SETTINGS
) -> list[Found]:
    """Every setting with `nodes` leases that are kept alive, then one and `many` that are not. This process leaves etcd's core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {GENERATOR_CORE})
    try:
        return [asyncio.run(_measure(setting, nodes, many, load_s)) for setting in settings]
    finally:
        os.sched_setaffinity(0, cores)
