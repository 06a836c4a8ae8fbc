"""The network: bytes over TCP that must arrive unchanged, how fast, and how many segments had to be sent again."""

from __future__ import annotations

import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from agents.node.checks.finding import LOSS, NIC, NODE, Answer, Finding

BYTES = 16 << 20
CHUNK = bytes(range(256)) * 256
WAIT_S = 10.0
MOST_SENT_AGAIN = 0.01
"""Share of segments sent again above which a path is called lossy."""
SEGMENT_BYTES = 1_448
_RETRANSMITS_AT = 100
"""Offset of `tcpi_total_retrans` in Linux's struct tcp_info: 8 bytes of flags, then 23 words before it."""


class ChangedError(OSError):
    """Bytes did not arrive as they were sent."""


@dataclass(frozen=True, slots=True)
class Path:
    """What one transfer showed."""

    bytes_per_s: float
    sent_again: int

    def lossy(self) -> bool:
        """Whether more was sent again than a sound path needs."""
        return self.sent_again > MOST_SENT_AGAIN * BYTES / SEGMENT_BYTES


def check_loopback() -> Answer:
    """This machine's own network stack."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(WAIT_S)
            receiver = threading.Thread(target=receive, args=(server,), daemon=True)
            receiver.start()
            path = send(server.getsockname())
            receiver.join(WAIT_S)
    except OSError as error:
        return Answer("cpu", (Finding(NODE, NIC, f"loopback: {error}"),))
    return Answer("cpu", findings(path, "itself"), {f"{NODE}: loopback, bytes per second": path.bytes_per_s})


def findings(path: Path, peer: str) -> tuple[Finding, ...]:
    """What is wrong with a path."""
    if not path.lossy():
        return ()
    share = path.sent_again * SEGMENT_BYTES / BYTES
    return (Finding(NODE, LOSS, f"{share:.1%} of the segments to {peer} had to be sent again"),)


def send(address: tuple[str, int]) -> Path:
    """Send to whom `receive` listens. Raises OSError, also when the bytes arrived changed."""
    with socket.create_connection(address, WAIT_S) as link:
        link.settimeout(WAIT_S)
        return send_over(link)


def send_over(link: socket.socket, chunk_sent: Callable[[int, bytes], bytes] = lambda _, chunk: chunk) -> Path:
    """Send over an open connection to whom `receive_over` listens.

    Args:
        chunk_sent: what goes out in place of a chunk with this number; a trial of a broken path changes or delays it.

    Raises:
        ChangedError: the bytes arrived changed.
        OSError: the connection broke.
    """
    began, checksum = time.perf_counter(), 0
    for number in range(BYTES // len(CHUNK)):
        link.sendall(chunk_sent(number, CHUNK))
        checksum = zlib.crc32(CHUNK, checksum)
    link.sendall(struct.pack(">I", checksum))
    verdict = link.recv(1)
    if verdict == b"0":
        raise ChangedError(f"{BYTES >> 20} MiB to {link.getpeername()[0]} arrived changed")
    if verdict != b"1":
        raise ConnectionResetError(f"{link.getpeername()[0]} broke off")
    info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (again,) = struct.unpack_from("=I", info, _RETRANSMITS_AT)
    return Path(BYTES / (time.perf_counter() - began), again)


def receive(server: socket.socket) -> bool:
    """Take one transfer; whether it arrived unchanged, which the sender is told. Raises OSError."""
    link, _ = server.accept()
    with link:
        link.settimeout(WAIT_S)
        return receive_over(link)


def receive_over(link: socket.socket) -> bool:
    """Take one transfer over an open connection; whether it arrived unchanged. Raises OSError when the sender broke off."""
    checksum, left = 0, BYTES
    with link.makefile("rb") as stream:
        while left:
            chunk = stream.read(min(left, len(CHUNK)))
            if not chunk:
                raise ConnectionResetError(f"the sender broke off with {left} bytes to come")
            left -= len(chunk)
            checksum = zlib.crc32(chunk, checksum)
        right = stream.read(4) == struct.pack(">I", checksum)
    link.sendall(b"1" if right else b"0")
    return right
