"""Where other nodes' agents bring and fetch states. Threads of their own: the agent's beats do not wait for bytes."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from phalanx.v1 import memory_pb2

from agents.memory.state_file import StateFile
from agents.node.durable import replace_file
from agents.node.memory import wire
from agents.node.memory.disk import LocalDisk
from agents.node.memory.store import MemoryStore
from agents.node.memory.wire import PeerError, Trust
from agents.node.observability import Counters

MAX_LINKS = 64
MAX_LINKS_OF_ONE = 32
"""Of one node, so that none keeps all others out."""
ACCEPT_AGAIN_S = 0.5
"""After a link could not be accepted, for want of descriptors for example."""
HANDSHAKE_S = 5.0
IDLE_S = 600.0
MAX_RANK = 2**31 - 1
MAX_UID = 200

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Permits:
    """What the controller has told this node of a job. `generation`: copies of older ones are not taken any more."""

    generation: int
    keeps: frozenset[str] = frozenset()
    lends: frozenset[str] = frozenset()


@dataclass(slots=True)
class Access:
    """Permits by job. Written on the event loop, read by threads; each entry is replaced as a whole."""

    jobs: dict[str, Permits] = field(default_factory=dict)


class MemoryDoor:
    """Listens on `address`: on the port of its last life where that is free (`port_path`), else on any."""

    def __init__(
        self,
        address: str,
        trust: Trust,
        store: MemoryStore,
        *,
        disk: LocalDisk,
        access: Access,
        counters: Counters,
        port_path: Path,
    ) -> None:
        self._trust = trust
        self._store = store
        self._disk = disk
        self._access = access
        self._counters = counters
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._count = 0
        self._links: dict[socket.socket, str] = {}
        self._writing: set[tuple[str, int]] = set()
        self._listener = _listener(address, port_path)
        host, port = self._listener.getsockname()[:2]
        replace_file(port_path, str(port).encode())
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        threading.Thread(target=self._accept, name="phalanx-memory", daemon=True).start()

    def close(self) -> None:
        """Listen no more, and end the links that there are; who is in a handshake ends by its time-out."""
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close alone does not wake a thread in accept
        self._listener.close()
        with self._lock:
            links = list(self._links)
        for link in links:
            _shut(link)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                link, _ = self._listener.accept()
            except OSError:
                if not self._ended.wait(ACCEPT_AGAIN_S):
                    self._counters.add("memory_links_not_accepted")
                continue
            with self._lock:
                full = self._count >= MAX_LINKS
                self._count += not full
            if full:
                self._counters.add("memory_links_refused")
                link.close()
                continue
            threading.Thread(target=self._serve, args=(link,), name="phalanx-memory-link", daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        node = ""
        try:
            link.settimeout(HANDSHAKE_S)
            link, node = self._trust.accept(link)
            self._enter(link, node)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.settimeout(wire.QUIET_S)
            while (request := wire.receive_request(link)) is not None:
                link.settimeout(wire.QUIET_S)
                if not self._answer(link, node or request.node, request):
                    break  # who is refused has no reason to stay
                link.settimeout(IDLE_S)
        except (OSError, PeerError, ValueError) as error:
            self._counters.add("memory_links_broken")
            if not self._ended.is_set() and self._counters.first("memory", f"{node} {type(error).__name__}"):
                log.warning("memory.link_broken", node=node, reason=str(error)[:300])
        finally:
            link.close()
            with self._lock:
                self._links.pop(link, None)
                self._count -= 1

    def _enter(self, link: socket.socket, node: str) -> None:
        with self._lock:
            if node and list(self._links.values()).count(node) >= MAX_LINKS_OF_ONE:
                raise PeerError(f"{node} has {MAX_LINKS_OF_ONE} links already")
            if self._ended.is_set():
                raise PeerError("this agent ends")
            self._links[link] = node

    def _answer(self, link: socket.socket, node: str, request: memory_pb2.MemoryRequest) -> bool:
        """Do what is asked; False: it was refused."""
        if request.node != node or not request.job_uid or len(request.job_uid) > MAX_UID or request.rank > MAX_RANK:
            raise PeerError(f"{node} asks in the name of {request.node[:100]!r}")
        permits = self._access.jobs.get(request.job_uid, Permits(0))
        match request.WhichOneof("body"):
            case "bring":
                return self._bring(link, node, request, permits)
            case "fetch":
                return self._fetch(link, node, request, permits)
            case _:
                raise PeerError(f"{node} asks for what this agent does not know")

    def _bring(self, link: socket.socket, node: str, request: memory_pb2.MemoryRequest, permits: Permits) -> bool:
        copy, key = request.bring, (request.job_uid, request.rank)
        with self._lock:
            refusal = "it is being brought already" if key in self._writing else ""
            self._writing.add(key)
        if refusal:
            wire.send(link, memory_pb2.MemoryAnswer(refused=refusal))
            return False
        try:
            refusal = self._refusal(node, request, permits)
            wire.send(link, memory_pb2.MemoryAnswer(refused=refusal))
            if refusal:
                return False
            file = self._file_for(request.job_uid, request.rank, copy)
            refusal = wire.take(link, copy, file)
        finally:
            with self._lock:
                self._writing.discard(key)
        self._counters.add("copies_refused" if refusal else "copies_kept")
        wire.send(link, memory_pb2.MemoryAnswer(refused=refusal))
        return not refusal

    def _refusal(self, node: str, request: memory_pb2.MemoryRequest, permits: Permits) -> str:
        """Why a copy is not taken."""
        copy = request.bring
        if node not in permits.keeps:
            return f"this node keeps no copies of {node}"
        if copy.generation < permits.generation:
            return f"generation {permits.generation} has begun"
        needed, room = wire.layout_of(copy).file_bytes, self._store.room()
        if needed > room:
            return f"{needed >> 20} MiB do not fit the {room >> 20} MiB that this node has for one rank"
        file = self._store.peer(request.job_uid, request.rank)
        if file is None or not wire.same_layout(file, copy):
            left = self._store.left() + (file.layout.file_bytes if file is not None else 0)
            if needed > left:
                return f"{needed >> 20} MiB do not fit the {left >> 20} MiB that are left"
        return ""

    def _file_for(self, job_uid: str, rank: int, copy: memory_pb2.StateCopy) -> StateFile:
        file = self._store.peer(job_uid, rank)
        if file is None or not wire.same_layout(file, copy):
            path = self._store.peer_path(job_uid, rank)
            file = StateFile.create(path, wire.layout_of(copy), rank, partial=copy.partial)
            self._store.keep_peer(job_uid, rank, file)
        return file

    def _fetch(self, link: socket.socket, node: str, request: memory_pb2.MemoryRequest, permits: Permits) -> bool:
        step = request.fetch.step
        file = self._store.find(request.job_uid, request.rank, step) if node in permits.lends else None
        version = file.find(step) if file is not None else None
        if version is None and node in permits.lends:
            stored = self._disk.find(request.job_uid, request.rank, step)
            if stored is not None and stored[0].readable(stored[1]):
                file, version = stored
        if file is None or version is None:
            why = "holds no such state" if node in permits.lends else f"lends nothing to {node}"
            wire.send(link, memory_pb2.MemoryAnswer(refused=f"this node {why}"))
            return False
        wire.send(link, memory_pb2.MemoryAnswer(state=wire.describe(file, version, unique_only=False)))
        wire.send_bytes(link, file.unique(version.slot))
        wire.send_bytes(link, file.shared(version.slot))
        self._counters.add("states_lent")
        return True


def _shut(link: socket.socket) -> None:
    """Wake whoever reads or writes; TLS is not asked, another thread is in it."""
    with suppress(OSError):
        socket.socket.shutdown(link, socket.SHUT_RDWR)


def _listener(address: str, port_path: Path) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    former = port_path.read_text() if port_path.exists() else ""
    if former.isdecimal() and 0 < int(former) < 1 << 16:
        try:
            return socket.create_server((address, int(former)), family=family, backlog=MAX_LINKS)
        except OSError:
            pass  # somebody else has it now
    return socket.create_server((address, 0), family=family, backlog=MAX_LINKS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A rank's state after a step that lies with another node, for a generation that starts."""

    node: str
    address: str
    job_uid: str
    rank: int
    step: int
    generation: int


def fetch(trust: Trust, wanted: Wanted, store: MemoryStore) -> float:
    """Fetch a state into the folder of fetched ones; seconds that it took.

    Raises:
        PeerError, OSError: it cannot be had; the rank is told by a file in its place.
    """
    begun = time.monotonic()
    path = store.fetched_path(wanted.job_uid, wanted.generation, wanted.rank)
    try:
        with trust.dial(wanted.address, wanted.node) as link:
            part = _receive(link, trust, wanted, store)
        part.rename(path)
    except (OSError, PeerError, ValueError) as error:
        path.with_suffix(".failed").write_text(str(error)[:300])
        raise
    return time.monotonic() - begun


def _receive(link: socket.socket, trust: Trust, wanted: Wanted, store: MemoryStore) -> Path:
    request = memory_pb2.MemoryRequest(node=trust.node, job_uid=wanted.job_uid, rank=wanted.rank)
    request.fetch.step = wanted.step
    wire.send(link, request)
    answer = wire.receive_answer(link)
    if answer.refused:
        raise PeerError(f"{wanted.node} refuses: {answer.refused[:300]}")
    needed, room = wire.layout_of(answer.state).file_bytes, store.room()
    if needed > room:
        raise PeerError(f"{needed >> 20} MiB do not fit the {room >> 20} MiB that this node has for one rank")
    part = store.fetched_path(wanted.job_uid, wanted.generation, wanted.rank).with_suffix(".part")
    file = StateFile.create(part, wire.layout_of(answer.state), wanted.rank, partial=answer.state.partial, slots=1)
    try:
        refusal = wire.take(link, answer.state, file)
    finally:
        file.close()
    if refusal:
        part.unlink(missing_ok=True)
        raise PeerError(f"{wanted.node}: {refusal}")
    return part
