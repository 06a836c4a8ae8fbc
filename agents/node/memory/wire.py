"""How agents bring and fetch states: frames over TCP, both ends proven by their nodes' certificates. Blocking."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from phalanx.v1 import memory_pb2

from agents.memory.state_file import MAX_STEP, Layout, StateFile, Version, Word
from agents.node.identity import AUTHORITY, CERTIFICATE, KEY

MAX_MESSAGE_BYTES = 64 << 10
CHUNK_BYTES = 1 << 20
QUIET_S = 10.0
"""A peer that says nothing for so long is given up."""
CONNECT_S = 2.0
SLOWEST = 1 << 20
"""Bytes per second, from the first one on; who sends more slowly is given up, however often it says something."""
_LENGTH = struct.Struct(">I")
M = TypeVar("M", bound=Message)
_DIGEST_BYTES = 16


class PeerError(Exception):
    """The other side is away, refuses, or sends what makes no sense; the message says which."""


class Trust:
    """Who we are to other nodes. `folder` holds the node's identity; None: plaintext, on loopback only, names are believed."""

    def __init__(self, node: str, folder: Path | None) -> None:
        self.node = node
        self._folder = folder

    def accept(self, link: socket.socket) -> tuple[socket.socket, str]:
        """The other side has dialled: (its link, its node's name; "" over plaintext only). Raises OSError or PeerError."""
        if self._folder is None:
            return link, ""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(context, self._folder)
        secured = context.wrap_socket(link, server_side=True)
        node = _node_of(secured)
        if not node:
            secured.close()
            raise PeerError("the other side's certificate names no node")
        return secured, node

    def dial(self, address: str, node: str) -> socket.socket:
        """A link to the agent of a node. Raises OSError or PeerError."""
        host, _, port = address.rpartition(":")
        link = socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S)
        link.settimeout(QUIET_S)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._folder is None:
            return link
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # nodes are known by the name in their URI, which is compared below
        self._load(context, self._folder)
        try:
            secured = context.wrap_socket(link)
        except OSError:
            link.close()
            raise
        found = _node_of(secured)
        if found != node:
            secured.close()
            raise PeerError(f"{address} is {found or 'no node'}, not {node}")
        return secured

    @staticmethod
    def _load(context: ssl.SSLContext, folder: Path) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / AUTHORITY)
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY)


def _node_of(link: ssl.SSLSocket) -> str:
    """The node that the other side's certificate names; "" when it names none."""
    shown: Any = link.getpeercert() or {}
    for kind, value in shown.get("subjectAltName", ()):
        if kind == "URI" and value.startswith("spiffe://"):
            parts = value.removeprefix("spiffe://").split("/")
            if len(parts) == 3 and parts[1] == "node":
                return str(parts[2])
    return ""


def send(link: socket.socket, message: Message) -> None:
    """One frame."""
    body = message.SerializeToString()
    link.sendall(_LENGTH.pack(len(body)) + body)


def receive_request(link: socket.socket) -> memory_pb2.MemoryRequest | None:
    """The next request; None when the other side has left."""
    body = _frame(link)
    return None if body is None else _parsed(memory_pb2.MemoryRequest(), body)


def receive_answer(link: socket.socket) -> memory_pb2.MemoryAnswer:
    """The answer to what was asked."""
    body = _frame(link)
    if body is None:
        raise PeerError("the other agent ended the connection")
    return _parsed(memory_pb2.MemoryAnswer(), body)


def _parsed(message: M, body: bytes) -> M:
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise PeerError("the other agent sent a message that cannot be read") from error
    return message


def _frame(link: socket.socket) -> bytes | None:
    head = bytearray(_LENGTH.size)
    if not receive_into(link, memoryview(head), may_end=True):
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_MESSAGE_BYTES:
        raise PeerError(f"the other agent sent a message of {length} bytes")
    body = bytearray(length)
    receive_into(link, memoryview(body))
    return bytes(body)


def receive_into(link: socket.socket, view: memoryview, *, may_end: bool = False) -> bool:
    """Fill the view. False: the other side left before the first byte, and may."""
    at, end = 0, None
    while at < len(view):
        count = link.recv_into(view[at : at + CHUNK_BYTES])
        if not count:
            if may_end and not at:
                return False
            raise PeerError("the other agent ended the connection in the middle")
        at += count
        now = time.monotonic()
        end = end or now + QUIET_S + len(view) / SLOWEST
        if now > end:
            raise PeerError(f"the other agent sends too slowly: {at} of {len(view)} bytes")
    return True


def send_bytes(link: socket.socket, view: memoryview) -> None:
    """All bytes of the view."""
    for begin in range(0, len(view), CHUNK_BYTES):
        link.sendall(view[begin : begin + CHUNK_BYTES])


def describe(file: StateFile, version: Version, *, unique_only: bool) -> memory_pb2.StateCopy:
    """A version as its bytes are announced; `unique_only`: without what replicas hold."""
    unique, shared = file.digests(version.slot)
    partial = (unique_only and file.layout.shared_bytes > 0) or not version.whole
    return memory_pb2.StateCopy(
        step=version.step,
        generation=version.generation,
        layout=file.layout.key.to_bytes(_DIGEST_BYTES, "little"),
        unique_bytes=file.layout.unique_bytes,
        shared_bytes=0 if unique_only else file.layout.shared_bytes,
        partial=partial,
        digest=unique.to_bytes(_DIGEST_BYTES, "little"),
        shared_digest=b"" if unique_only else shared.to_bytes(_DIGEST_BYTES, "little"),
    )


def layout_of(copy: memory_pb2.StateCopy) -> Layout:
    """What a file for such copies looks like. Raises PeerError when the announcement makes no sense."""
    shared_digest = 0 if copy.partial or not copy.shared_bytes else _DIGEST_BYTES
    if (
        len(copy.layout) != _DIGEST_BYTES
        or len(copy.digest) != _DIGEST_BYTES
        or len(copy.shared_digest) < shared_digest
    ):
        raise PeerError("the other agent announces a state without digests")
    if copy.step > MAX_STEP or copy.generation > MAX_STEP:
        raise PeerError(f"the other agent announces step {copy.step} of generation {copy.generation}")
    return Layout(int.from_bytes(copy.layout, "little"), copy.unique_bytes, copy.shared_bytes)


def take(link: socket.socket, copy: memory_pb2.StateCopy, file: StateFile) -> str:
    """Receive the bytes of a copy into the older slot of a file; why it is not kept, "" when it is."""
    slot = file.begin(copy.step)
    receive_into(link, file.unique(slot))
    receive_into(link, file.shared(slot))
    file.finish(slot, copy.step, copy.generation)
    expected = int.from_bytes(copy.digest, "little"), int.from_bytes(copy.shared_digest, "little")
    found = file.digests(slot)
    if found[0] != expected[0] or (copy.shared_bytes and found[1] != expected[1]):
        version = file.find(copy.step)
        if version is not None:
            file.drop(version)
        return "the bytes differ from their digest"
    return ""


def same_layout(file: StateFile, copy: memory_pb2.StateCopy) -> bool:
    """Whether copies like this one fit the file."""
    return file.layout == layout_of(copy) and bool(file.get(Word.PARTIAL)) == copy.partial
