"""What one hostile agent costs the controller: `python -m tests.benchmarks.flooders [--seconds 10] [--only beats,pings]`.

A real controller over mTLS with twenty good agents beside it; each attack is a process of its own that does one bad thing as
fast as it can. Printed: user and system time of the controller's process over the seconds, as a share of a core, above what it
takes without an attack. Processor time may be measured on a busy machine; then it is a lower bound, for the attacker gets less too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from phalanx.v1 import agent_pb2, fleet_pb2

from tests.benchmarks.fleet import http2
from tests.benchmarks.report import commit, machine
from tests.fixtures.good_agents import FILES, GoodAgents
from tests.fixtures.secure_site import REPOSITORY, SERVER_NAME, SecureController

SESSION = "/phalanx.v1.AgentService/Session"
PUSH_LOG = "/phalanx.v1.AgentService/PushLog"
LIST_NODES = "/phalanx.v1.FleetService/ListNodes"
BAD = "flooder"
AT_ONCE = 100
SETTLE_S = 6.0
"""A burst is paid from a purse that was full; what is measured is what follows."""
OPTIONS: tuple[tuple[str, int | str], ...] = (
    SERVER_NAME,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", 64 << 20),
)
TICKS = os.sysconf("SC_CLK_TCK")


class Attacker:
    """One hostile agent with a certificate of its own."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.key, self.certificate, self.authority = ((folder / file).read_bytes() for file in FILES)
        self.folder = folder
        self.hello = _hello()

    def channel(self) -> aio.Channel:
        """A connection of its own."""
        credentials = grpc.ssl_channel_credentials(self.authority, self.key, self.certificate)
        return aio.secure_channel(self.address, credentials, options=OPTIONS)

    async def stream(self, channel: aio.Channel, messages: Callable[[], Iterator[bytes]]) -> None:
        """One session after the other, each says hello and these messages until it is ended."""
        call: Any = channel.stream_stream(SESSION)()
        reading = asyncio.create_task(_drain(call))
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            for message in messages():
                await call.write(message)
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            await call.done_writing()
        await reading

    async def loop(self, messages: Callable[[], Iterator[bytes]], *, width: int = 1, anew: bool = False) -> None:
        """Sessions without end, so many at a time. `anew`: each over a connection of its own."""

        async def one() -> None:
            channel = self.channel()
            while True:
                await self.stream(channel, messages)
                if anew:
                    await channel.close()
                    channel = self.channel()

        await asyncio.gather(*(one() for _ in range(width)))

    async def calls(self, path: str, width: int) -> None:
        """Calls without end."""
        channel = self.channel()

        async def one() -> None:
            while True:
                with suppress(grpc.RpcError):
                    await channel.unary_unary(path)(b"")

        await asyncio.gather(*(one() for _ in range(width)))

    def socket(self) -> ssl.SSLSocket:
        """A TLS connection without a word said."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.authority.decode())
        context.load_cert_chain(self.folder / "certificate", self.folder / "key")
        context.set_alpn_protocols(["h2"])
        host, _, port = self.address.rpartition(":")
        return context.wrap_socket(socket.create_connection((host, int(port))), server_hostname="controller.phalanx")

    def frames(self, frames: Callable[[int], bytes]) -> None:
        """Raw frames, as fast as they are taken; a connection that is closed is dialled again."""
        while True:
            with suppress(OSError), self.socket() as wire:
                wire.sendall(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, b""))
                threading.Thread(target=_swallow, args=(wire,), daemon=True).start()
                number = 1
                while True:
                    wire.sendall(b"".join(frames(number + step) for step in range(64)))
                    number += 64

    def handshakes(self) -> None:
        """Connections without end."""
        while True:
            with suppress(OSError):
                self.socket().close()

    def attack(self, kind: str) -> None:
        """Do it until killed."""
        if kind in RAW:
            self.frames(RAW[kind])
        elif kind == "handshakes":
            self.handshakes()
        elif kind == "calls":
            asyncio.run(self.calls(LIST_NODES, AT_ONCE))
        elif kind == "unknown-methods":
            asyncio.run(self.calls("/phalanx.v1.None/Such", AT_ONCE))
        else:
            messages, options = SESSIONS[kind]
            asyncio.run(self.loop(lambda: messages(self.hello), **options))


async def _drain(call: Any) -> None:
    with suppress(grpc.RpcError, asyncio.InvalidStateError):
        while await call.read() is not aio.EOF:
            pass


def _swallow(wire: ssl.SSLSocket) -> None:
    with suppress(OSError, ValueError):
        while wire.recv(1 << 16):
            pass


def _hello() -> bytes:
    rows = [agent_pb2.AcceleratorStatus(index=index, serial=f"{BAD}-{index}", vendor="simulated", model="sim", state=1)  # type: ignore[arg-type]
            for index in range(8)]  # fmt: skip
    snapshot = agent_pb2.Report(sequence=1, full=True, accelerators=rows)
    hello = agent_pb2.AgentHello(node=BAD, boot_id="1", agent_version="fake", address="127.0.0.1", snapshot=snapshot)
    return agent_pb2.AgentMessage(hello=hello).SerializeToString()


def _beats(hello: bytes) -> Iterator[bytes]:
    yield hello
    number = 0
    while True:
        number += 1
        yield agent_pb2.AgentMessage(beat=agent_pb2.Beat(sequence=number, sent_ns=time.time_ns())).SerializeToString()


def _reports(hello: bytes) -> Iterator[bytes]:
    yield hello
    number = 0
    while True:
        number += 1
        row = agent_pb2.AcceleratorStatus(index=number % 8, serial=f"{BAD}-{number % 8}", state=1 + number % 2)  # type: ignore[arg-type]
        yield agent_pb2.AgentMessage(report=agent_pb2.Report(sequence=number, accelerators=[row])).SerializeToString()


def _large_reports(hello: bytes) -> Iterator[bytes]:
    """Of four megabytes in few fields: each is parsed."""
    yield hello
    rows = [agent_pb2.HostStatus(host_id="h" * 4_096, job_uid="j")] * 1_000
    message = agent_pb2.AgentMessage(report=agent_pb2.Report(sequence=1, hosts=rows)).SerializeToString()
    while True:
        yield message


def _once(*messages: bytes) -> Callable[[bytes], Iterator[bytes]]:
    def told(hello: bytes) -> Iterator[bytes]:
        yield from messages or (hello,)

    return told


def _empty_rows() -> bytes:
    snapshot = b"\x22\x00" * 3_000_000
    head = agent_pb2.AgentHello(node=BAD, boot_id="1", address="x").SerializeToString()
    hello = head + b"\x4a" + _varint(len(snapshot)) + snapshot
    return b"\x0a" + _varint(len(hello)) + hello


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))


def _stream_of(number: int) -> int:
    return 2 * number + 1


def _ping(_number: int) -> bytes:
    return http2.frame(http2.PING, 0, 0, b"12345678")


def _settings(_number: int) -> bytes:
    return http2.frame(http2.SETTINGS, 0, 0, b"")


def _resets(number: int) -> bytes:
    """Rapid reset: streams that are opened and dropped at once."""
    headers = http2.request_headers(SESSION, "controller", tls=True)
    stream = _stream_of(number)
    opened = http2.frame(http2.HEADERS, http2.END_HEADERS, stream, headers)
    return opened + http2.frame(http2.RST_STREAM, 0, stream, struct.pack(">I", 8))


def _windows(_number: int) -> bytes:
    return http2.frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1))


def _empty_data(number: int) -> bytes:
    """One stream and then frames without a byte in them: flow control does not count these."""
    opened = b""
    if number == 1:
        headers = http2.request_headers(SESSION, "controller", tls=True)
        opened = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, headers)
    return opened + http2.frame(http2.DATA, 0, 1, b"")


RAW: dict[str, Callable[[int], bytes]] = {
    "pings": _ping, "settings": _settings, "resets": _resets, "window-updates": _windows, "empty-frames": _empty_data,
}  # fmt: skip
SESSIONS: dict[str, tuple[Callable[[bytes], Iterator[bytes]], dict[str, Any]]] = {
    "beats": (_beats, {}),
    "reports": (_reports, {}),
    "large-reports": (_large_reports, {}),
    "wide-beats": (_beats, {"width": AT_ONCE}),
    "huge": (_once(b"\x12" * (9 << 20)), {}),
    "beyond-transport": (_once(b"\x12" * (20 << 20)), {}),
    "garbage": (_once(b"\xff\xfe garbage"), {}),
    "empty-rows": (_once(_empty_rows()), {}),
    "hellos": (_once(), {}),
    "wide-hellos": (_once(), {"width": AT_ONCE}),
    "dials": (_once(), {"anew": True}),
    "wide-dials": (_once(), {"anew": True, "width": AT_ONCE}),
}
KINDS = (*SESSIONS, "calls", "unknown-methods", "handshakes", *RAW)


def cpu_s(pid: int) -> float:
    """User and system time of a process, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def share(pid: int, seconds: float) -> float:
    """Of one core."""
    before, began = cpu_s(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_s(pid) - before) / (time.monotonic() - began)


def main() -> None:
    """Measure, or attack."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--attack", nargs=3, metavar=("KIND", "ADDRESS", "FOLDER"))
    chosen = parser.parse_args()
    if chosen.attack:
        kind, address, folder = chosen.attack
        Attacker(address, Path(folder)).attack(kind)
        return
    with tempfile.TemporaryDirectory() as place:
        measure(Path(place), chosen.only.split(","), chosen.seconds)


def measure(folder: Path, kinds: list[str], seconds: float) -> None:
    """A controller of its own for each attack, so that none pays from the purse of another."""
    out = sys.stdout.write
    out(f"{machine()}, commit {commit()}, over {seconds:g} s each\n")
    for kind in kinds:
        place = folder / kind
        place.mkdir()
        site = SecureController(place, beat_ms=1_000).start()
        good = GoodAgents(site, place / "good", [f"good-{number}" for number in range(20)])
        assert site.process is not None
        pid = site.process.pid
        shown = site.shown("node", BAD)
        for file in FILES:
            (place / file).write_bytes(getattr(shown, file))
        quiet = share(pid, 3.0)
        command = [sys.executable, "-m", "tests.benchmarks.flooders", "--attack", kind, site.address, str(place)]
        attacker = subprocess.Popen(command, cwd=REPOSITORY)
        try:
            time.sleep(SETTLE_S)
            began = cpu_s(attacker.pid)
            found = share(pid, seconds)
            own = (cpu_s(attacker.pid) - began) / seconds
            rows = site.fleet.ListOffenders(fleet_pb2.ListOffendersRequest(), timeout=60).offenders
            named = sorted({f"{o.reason} {o.count}" for row in rows if row.name.endswith(BAD) for o in row.offences})
            ended = len(good.ended())
            out(f"{kind:18} controller {found - quiet:6.3f} (quiet {quiet:.3f}), attacker {own:.2f}; good sessions ended {ended}; "
                f"{', '.join(named)}\n")  # fmt: skip
            sys.stdout.flush()
        finally:
            attacker.kill()
            attacker.wait()
            good.close()
            site.close()


if __name__ == "__main__":
    main()
