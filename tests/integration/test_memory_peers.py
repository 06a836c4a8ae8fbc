"""Two nodes' agents bring and fetch states over real sockets, under certificates of the site's own authority; and strangers."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import ssl
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from phalanx.v1 import memory_pb2

from agents.memory.state_file import Layout, StateFile, Word
from agents.node.identity import AUTHORITY, CERTIFICATE, KEY
from agents.node.memory import courier as courier_module
from agents.node.memory import door as door_module
from agents.node.memory import wire
from agents.node.memory.courier import Courier, Parcel
from agents.node.memory.disk import LocalDisk
from agents.node.memory.door import Access, MemoryDoor, Permits, Wanted, fetch
from agents.node.memory.store import MemoryStore
from agents.node.memory.wire import PeerError, Trust
from agents.node.observability import Counters
from controlplane.core.identity import Role
from controlplane.pki.authority import Authority, make_authority, new_serial
from controlplane.pki.certificates import Claims, key_pem, new_key

JOB, GENERATION = "job-1", 5
LAYOUT = Layout(key=77 << 64 | 7, unique_bytes=3 << 20, shared_bytes=1 << 20)
NOW_NS = time.time_ns()


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with tempfile.TemporaryDirectory() as folder:
        yield make_authority(Path(folder) / "pki", "test-site")


def identity(authority: Authority, folder: Path, kind: str, name: str) -> Path:
    """A folder with an identity, as a joined agent has it."""
    key = new_key()
    claims = Claims("test-site", kind, name, Role.NONE, (), 1, new_serial(), NOW_NS, NOW_NS + 3600 * 10**9)
    folder.mkdir(mode=0o700, parents=True)
    (folder / KEY).write_bytes(key_pem(key))
    (folder / CERTIFICATE).write_bytes(authority.issue(claims, key.public_key()))
    (folder / AUTHORITY).write_bytes(authority.pem)
    return folder


@dataclass
class Node:
    """One node's half of the tier: what an agent has of it."""

    name: str
    folder: Path
    trust: Trust
    store: MemoryStore
    access: Access
    counters: Counters
    disk: LocalDisk
    door: MemoryDoor
    courier: Courier

    def close(self) -> None:
        self.door.close()
        self.courier.close()
        self.disk.close()

    def own(self, rank: int, step: int, *, layout: Layout = LAYOUT, job: str = JOB) -> StateFile:
        """A state of a rank of this node after a step; the bytes follow from both."""
        path = self.folder / "own" / f"{job}-{rank}.state"
        file = StateFile.open(path) if path.exists() else StateFile.create(path, layout, rank)
        slot = file.begin()
        file.unique(slot)[:] = pattern(rank, step, layout.unique_bytes)
        file.shared(slot)[:] = pattern(100, step, layout.shared_bytes)
        file.finish(slot, step, GENERATION)
        return file

    def parcel(self, file: StateFile, step: int, to: Node, *, job: str = JOB) -> Parcel:
        return Parcel(job, file.get(Word.RANK), step, file, (to.name, to.door.address))

    def counted(self, what: str) -> int:
        return self.counters.values[what]


def pattern(rank: int, step: int, size: int) -> bytes:
    unit = bytes((rank * 31 + step * 7 + i) % 251 for i in range(251))
    return (unit * (size // len(unit) + 1))[:size]


def node(authority: Authority, root: Path, name: str) -> Node:
    folder = root / name / "memory"
    trust = Trust(name, identity(authority, root / name / "identity", "node", name))
    store, access, counters = MemoryStore(folder), Access(), Counters()
    port = root / name / "memory.port"
    disk = LocalDisk(root / name / "states", counters)
    door = MemoryDoor("127.0.0.1", trust, store, disk=disk, access=access, counters=counters, port_path=port)
    return Node(name, folder, trust, store, access, counters, disk, door, Courier(trust, counters))


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """In memory where there is such a folder."""
    parent = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="phx-peers-", dir=parent if os.access(parent, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("phalanx-m", "phalanx-c"))]


@pytest.fixture(scope="module")
def pair(authority: Authority, root: Path) -> Iterator[tuple[Node, Node]]:
    """`a` brings to `b`; at the end nothing of them is left."""
    before, descriptors = ours(), len(os.listdir("/proc/self/fd"))
    a, b = node(authority, root, "a"), node(authority, root, "b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(courier_module, "RETRY_S", 0.0)
        yield a, b
    a.close()
    b.close()
    until("all threads end", lambda: ours() == before)
    files = len(list(a.folder.glob("*/*"))) + len(list(b.folder.glob("*/*")))
    assert len(os.listdir("/proc/self/fd")) <= descriptors + files, "no link is open: mapped files are all there is"


@pytest.fixture(autouse=True)
def served(pair: tuple[Node, Node]) -> Iterator[None]:
    """Whatever a test did to the door: afterwards it takes a copy and lends it."""
    a, b = pair
    b.access.jobs[JOB] = Permits(GENERATION, frozenset({"a"}), frozenset({"a"}))
    yield
    b.access.jobs["after"] = Permits(GENERATION, frozenset({"a"}), frozenset({"a"}))
    step = 1 + b.counted("copies_kept")
    file = a.own(60, step, layout=Layout(1, 5_000, 0), job="after")
    bring(a, b, file, step, job="after")
    wanted = Wanted("b", b.door.address, "after", 60, step, GENERATION)
    fetch(a.trust, wanted, a.store)
    fetched = StateFile.open(a.store.fetched_path("after", GENERATION, 60))
    assert bytes(fetched.unique(fetched.versions()[0].slot)) == pattern(60, step, 5_000)


def until(what: str, found: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not found():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def bring(a: Node, b: Node, file: StateFile, step: int, *, job: str = JOB) -> None:
    """Offer, and again after each failure (a link that the door has ended), until the sender knows that it is there."""
    failed = -1

    def there() -> bool:
        nonlocal failed
        if failed != a.counted("copies_not_brought"):
            failed = a.counted("copies_not_brought")
            a.courier.offer(a.parcel(file, step, b, job=job))
        return file.get(Word.PARTNER_STEP) >= step

    until(f"step {step} is with {b.name}", there)
    copy = b.store.peer(job, file.get(Word.RANK))
    assert copy is not None
    assert copy.find(step) is not None


def not_brought(a: Node, b: Node, file: StateFile, step: int) -> None:
    """Offer until one try has failed."""
    failed = a.counted("copies_not_brought")
    a.courier.offer(a.parcel(file, step, b))
    until("it is refused", lambda: a.counted("copies_not_brought") > failed)
    assert not file.get(Word.PARTNERS), "the rank does not wait for a partner that refuses"


def test_a_copy_comes_and_goes_back_with_the_same_bits(pair: tuple[Node, Node]) -> None:
    a, b = pair
    file = a.own(1, 10)
    bring(a, b, file, 10)
    assert (file.get(Word.PARTNERS), file.get(Word.PARTNER_STEP)) == (1, 10)
    copy = b.store.peer(JOB, 1)
    assert copy is not None
    (version,) = copy.versions()
    assert (version.step, version.generation, version.whole) == (10, GENERATION, False)
    assert bytes(copy.unique(version.slot)) == pattern(1, 10, LAYOUT.unique_bytes)
    assert copy.layout.shared_bytes == 0, "what replicas hold is not sent"
    assert fetch(a.trust, Wanted("b", b.door.address, JOB, 1, 10, 6), a.store) > 0
    back = StateFile.open(a.store.fetched_path(JOB, 6, 1))
    (version,) = back.versions()
    assert (back.get(Word.RANK), version.step, version.whole, back.layout.key) == (1, 10, False, LAYOUT.key)
    assert bytes(back.unique(version.slot)) == pattern(1, 10, LAYOUT.unique_bytes)
    assert back.intact(version)


def test_a_whole_state_is_lent_with_what_replicas_hold(pair: tuple[Node, Node]) -> None:
    a, b = pair
    b.own(2, 10)
    fetch(a.trust, Wanted("b", b.door.address, JOB, 2, 10, 6), a.store)
    back = StateFile.open(a.store.fetched_path(JOB, 6, 2))
    (version,) = back.versions()
    assert version.whole
    assert bytes(back.shared(version.slot)) == pattern(100, 10, LAYOUT.shared_bytes)


def test_two_versions_are_kept_and_the_newest_wins(pair: tuple[Node, Node]) -> None:
    a, b = pair
    for step in (20, 21, 22):
        file = a.own(3, step)
        bring(a, b, file, step)
    copy = b.store.peer(JOB, 3)
    assert copy is not None
    assert [version.step for version in copy.versions()] == [22, 21]
    kept = b.counted("copies_kept")
    for _ in range(50):
        a.courier.offer(a.parcel(file, 20, b))  # overtaken: not in the file any more
    bring(a, b, a.own(3, 23), 23)
    assert [version.step for version in copy.versions()] == [23, 22]
    assert b.counted("copies_kept") == kept + 1


def test_a_node_that_is_not_to_bring_does_not(pair: tuple[Node, Node]) -> None:
    a, b = pair
    b.access.jobs[JOB] = Permits(GENERATION, frozenset({"c"}), frozenset({"a"}))
    not_brought(a, b, a.own(4, 10), 10)
    assert b.store.peer(JOB, 4) is None


def test_a_node_that_is_not_to_fetch_does_not_and_its_rank_is_told(pair: tuple[Node, Node]) -> None:
    a, b = pair
    b.own(5, 10)
    b.access.jobs[JOB] = Permits(GENERATION, frozenset({"a"}), frozenset({"c"}))
    with pytest.raises(PeerError, match="lends nothing to a"):
        fetch(a.trust, Wanted("b", b.door.address, JOB, 5, 10, 6), a.store)
    path = a.store.fetched_path(JOB, 6, 5)
    assert not path.exists()
    assert "lends nothing" in path.with_suffix(".failed").read_text()


def test_a_job_of_which_the_node_knows_nothing_is_refused(pair: tuple[Node, Node]) -> None:
    a, b = pair
    del b.access.jobs[JOB]
    not_brought(a, b, a.own(6, 10), 10)
    with pytest.raises(PeerError, match="lends nothing"):
        fetch(a.trust, Wanted("b", b.door.address, JOB, 6, 10, 6), a.store)


def test_what_only_the_disk_holds_is_lent_as_far_as_it_counts(pair: tuple[Node, Node]) -> None:
    """A machine that comes back has nothing in its memory."""
    a, b = pair
    file = b.own(9, 10)
    b.disk.begin(JOB, GENERATION, ((GENERATION, 10),), 1)
    b.disk.offer(JOB, 9, 10, file)
    until("it is on the disk", lambda: b.counted("disk_versions_written") > 0)
    file.path.unlink()
    fetch(a.trust, Wanted("b", b.door.address, JOB, 9, 10, 6), a.store)
    found = StateFile.open(a.store.fetched_path(JOB, 6, 9))
    version = found.find(10)
    assert version is not None
    assert found.intact(version)
    assert bytes(found.unique(version.slot)) == pattern(9, 10, LAYOUT.unique_bytes)
    found.close()
    b.disk.begin(JOB, GENERATION + 1, ((GENERATION + 1, 5),), 1)
    with pytest.raises(PeerError, match="holds no such state"):
        fetch(a.trust, Wanted("b", b.door.address, JOB, 9, 10, 7), a.store)


def test_what_is_not_held_is_not_lent(pair: tuple[Node, Node]) -> None:
    a, b = pair
    b.own(7, 10)
    for rank, step in ((7, 9), (8, 10)):
        with pytest.raises(PeerError, match="holds no such state"):
            fetch(a.trust, Wanted("b", b.door.address, JOB, rank, step, 6), a.store)


def test_an_older_generation_brings_nothing(pair: tuple[Node, Node]) -> None:
    a, b = pair
    b.access.jobs[JOB] = Permits(GENERATION + 1, frozenset({"a"}), frozenset())
    not_brought(a, b, a.own(9, 10), 10)
    assert b.store.peer(JOB, 9) is None


@pytest.mark.parametrize("kind", ["cell", "operator", "relay"])
def test_who_is_no_node_is_nobody_whatever_name_it_says(
    pair: tuple[Node, Node], authority: Authority, kind: str
) -> None:
    """Of the same site and authority, with the name of a node that may."""
    a, b = pair
    b.own(10, 10)
    with tempfile.TemporaryDirectory() as folder:
        stranger = Trust("a", identity(authority, Path(folder) / "identity", kind, "a"))
        for node_name in ("a", ""):
            with pytest.raises((PeerError, OSError)):
                fetch(replace_name(stranger, node_name), Wanted("b", b.door.address, JOB, 10, 10, 6), a.store)
    assert not a.store.fetched_path(JOB, 6, 10).exists()


def replace_name(trust: Trust, name: str) -> Trust:
    trust.node = name
    return trust


def test_a_node_speaks_for_itself_only(pair: tuple[Node, Node], authority: Authority) -> None:
    a, b = pair
    b.own(11, 10)
    with tempfile.TemporaryDirectory() as folder:
        stranger = Trust("a", identity(authority, Path(folder) / "identity", "node", "c"))
        with pytest.raises(PeerError):
            fetch(stranger, Wanted("b", b.door.address, JOB, 11, 10, 6), a.store)


def test_who_dials_knows_whom_it_reached(pair: tuple[Node, Node]) -> None:
    a, b = pair
    with pytest.raises(PeerError, match="is b, not c"):
        a.trust.dial(b.door.address, "c")


def test_another_sites_authority_is_not_believed(pair: tuple[Node, Node]) -> None:
    _a, b = pair
    with tempfile.TemporaryDirectory() as folder:
        other = make_authority(Path(folder) / "pki", "test-site")
        stranger = Trust("a", identity(other, Path(folder) / "identity", "node", "a"))
        with pytest.raises(ssl.SSLError):
            stranger.dial(b.door.address, "b")


def test_without_a_certificate_nothing_is_heard(pair: tuple[Node, Node]) -> None:
    _, b = pair
    broken = b.counted("memory_links_broken")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(address_of(b), timeout=60) as link, context.wrap_socket(link) as secured:
        assert ended(secured)
    until("the door says so", lambda: b.counted("memory_links_broken") > broken)


def test_plaintext_is_not_understood(pair: tuple[Node, Node]) -> None:
    _, b = pair
    with socket.create_connection(address_of(b), timeout=60) as link:
        wire.send(link, memory_pb2.MemoryRequest(node="a", job_uid=JOB, rank=1))
        assert ended(link)


def address_of(which: Node) -> tuple[str, int]:
    host, _, port = which.door.address.rpartition(":")
    return host, int(port)


def ended(link: socket.socket) -> bool:
    """The other side ends the connection; what it says before that does not matter."""
    try:
        while link.recv(4096):
            pass
    except OSError as error:
        return not isinstance(error, TimeoutError)
    return True


def request(bring: memory_pb2.StateCopy | None = None) -> memory_pb2.MemoryRequest:
    return memory_pb2.MemoryRequest(node="a", job_uid=JOB, rank=20, bring=bring)


def copy_of(**fields: object) -> memory_pb2.StateCopy:
    good = {
        "step": 10,
        "generation": GENERATION,
        "layout": bytes(16),
        "unique_bytes": 100,
        "partial": True,
        "digest": bytes(16),
    }
    return memory_pb2.StateCopy(**{**good, **fields})  # type: ignore[arg-type]


def framed(message: memory_pb2.MemoryRequest) -> bytes:
    body = message.SerializeToString()
    return struct.pack(">I", len(body)) + body


NONSENSE = {
    "no protobuf": struct.pack(">I", 9) + b"\xff" * 9,
    "a huge length": struct.pack(">I", 2**32 - 1),
    "nothing asked": framed(request()),
    "an empty frame": struct.pack(">I", 0),
    "no job": framed(memory_pb2.MemoryRequest(node="a", fetch=memory_pb2.FetchState(step=1))),
    "a long job": framed(memory_pb2.MemoryRequest(node="a", job_uid="j" * 1000, fetch=memory_pb2.FetchState(step=1))),
    "a huge rank": framed(memory_pb2.MemoryRequest(node="a", job_uid=JOB, rank=2**32 - 1, fetch=memory_pb2.FetchState())),
    "no digest": framed(request(bring=copy_of(digest=b""))),
    "a long layout": framed(request(bring=copy_of(layout=bytes(1000)))),
    "a huge step": framed(request(bring=copy_of(step=2**64 - 1))),
    "a huge generation": framed(request(bring=copy_of(generation=2**64 - 1))),
    "half a frame": framed(request(bring=copy_of()))[:-3],
    "half a length": b"\x00\x00",
}  # fmt: skip


@pytest.mark.parametrize("sent", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_of_a_node_that_may_ends_its_link_only(pair: tuple[Node, Node], sent: bytes) -> None:
    a, b = pair
    broken = b.counted("memory_links_broken")
    with a.trust.dial(b.door.address, "b") as link:
        link.settimeout(60)
        link.sendall(sent)
        socket.socket.shutdown(link, socket.SHUT_WR)
        assert ended(link)
    until("the door says so", lambda: b.counted("memory_links_broken") > broken)
    assert b.store.peer(JOB, 20) is None
    assert list((b.folder / "peer").glob("*.new")) == []


@pytest.mark.parametrize("unique", [1 << 50, 2**64 - 1])
def test_a_copy_larger_than_the_room_is_refused(pair: tuple[Node, Node], unique: int) -> None:
    a, b = pair
    with a.trust.dial(b.door.address, "b") as link:
        wire.send(link, request(bring=copy_of(unique_bytes=unique)))
        assert "do not fit" in wire.receive_answer(link).refused
        assert ended(link)
    assert b.store.peer(JOB, 20) is None


def test_copies_have_their_share_together(pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alone is small enough; a partner that brings ever more ranks does not fill the node's memory."""
    a, b = pair
    room = 4 << 20
    monkeypatch.setattr(b.store, "room", lambda: room)
    layout = Layout(1, room // 3, 0)
    monkeypatch.setattr(b.store, "left", lambda: layout.file_bytes - 1)
    with a.trust.dial(b.door.address, "b") as link:
        wire.send(link, request(bring=copy_of(unique_bytes=layout.unique_bytes)))
        assert "that are left" in wire.receive_answer(link).refused
    monkeypatch.setattr(b.store, "left", lambda: layout.file_bytes)
    bring(a, b, a.own(21, 10, layout=layout), 10)
    assert MemoryStore(b.folder).left() < 4 * MemoryStore(b.folder).room(), "what lies there counts"


def test_bytes_that_differ_from_their_digest_are_not_kept(pair: tuple[Node, Node]) -> None:
    a, b = pair
    bring(a, b, a.own(12, 10), 10)
    with a.trust.dial(b.door.address, "b") as link:
        copy = copy_of(step=11, unique_bytes=LAYOUT.unique_bytes, layout=LAYOUT.key.to_bytes(16, "little"))
        wire.send(link, memory_pb2.MemoryRequest(node="a", job_uid=JOB, rank=12, bring=copy))
        assert not wire.receive_answer(link).refused
        wire.send_bytes(link, memoryview(bytes(LAYOUT.unique_bytes)))
        assert "digest" in wire.receive_answer(link).refused
    held = b.store.peer(JOB, 12)
    assert held is not None
    assert [version.step for version in held.versions()] == [10], "the version before is still there"


def test_a_state_that_is_damaged_at_its_owner_does_not_arrive(pair: tuple[Node, Node]) -> None:
    a, b = pair
    file = b.own(13, 10)
    file.unique(file.versions()[0].slot)[77] ^= 1
    with pytest.raises(PeerError, match="differ from their digest"):
        fetch(a.trust, Wanted("b", b.door.address, JOB, 13, 10, 6), a.store)
    assert [path.suffix for path in a.folder.glob("fetched/*-6-13.*")] == [".failed"]


def test_who_leaves_in_the_middle_leaves_the_version_before(pair: tuple[Node, Node]) -> None:
    a, b = pair
    bring(a, b, a.own(14, 10), 10)
    broken = b.counted("memory_links_broken")
    with a.trust.dial(b.door.address, "b") as link:
        copy = copy_of(step=11, unique_bytes=LAYOUT.unique_bytes, layout=LAYOUT.key.to_bytes(16, "little"))
        wire.send(link, memory_pb2.MemoryRequest(node="a", job_uid=JOB, rank=14, bring=copy))
        assert not wire.receive_answer(link).refused
        wire.send_bytes(link, memoryview(bytes(LAYOUT.unique_bytes // 2)))
    until("the door gives up", lambda: b.counted("memory_links_broken") > broken)
    held = b.store.peer(JOB, 14)
    assert held is not None
    (version,) = held.versions()
    assert version.step == 10
    assert held.intact(version)


def test_who_stalls_in_the_middle_is_given_up(pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair
    monkeypatch.setattr(wire, "QUIET_S", 0.2)
    with a.trust.dial(b.door.address, "b") as link:
        link.settimeout(60)
        wire.send(link, request(bring=copy_of(unique_bytes=LAYOUT.unique_bytes)))
        assert not wire.receive_answer(link).refused
        link.sendall(bytes(1000))
        assert ended(link)


def test_who_sends_a_byte_now_and_then_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "QUIET_S", 0.2)
    left, right = socket.socketpair()
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.01):
            left.sendall(b"x")

    thread = threading.Thread(target=drip)
    with left, right:
        right.settimeout(60)
        thread.start()
        try:
            with pytest.raises(PeerError, match="too slowly"):
                wire.receive_into(right, memoryview(bytearray(1 << 16)))
        finally:
            stop.set()
            thread.join()


def test_an_owner_that_is_away_or_says_nothing_is_given_up(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = pair
    monkeypatch.setattr(wire, "QUIET_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TimeoutError):
            fetch(a.trust, Wanted("b", address, JOB, 15, 10, 6), a.store)
    with pytest.raises(ConnectionRefusedError):
        fetch(a.trust, Wanted("b", address, JOB, 15, 10, 6), a.store)
    assert a.store.fetched_path(JOB, 6, 15).with_suffix(".failed").exists()


def test_one_node_does_not_keep_the_others_out(pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair
    monkeypatch.setattr(door_module, "MAX_LINKS_OF_ONE", 2)
    links = [a.trust.dial(b.door.address, "b") for _ in range(6)]
    try:
        assert any(ended(link) for link in links[2:])
    finally:
        for link in links:
            link.close()


def test_links_have_a_limit_and_who_waits_has_its_turn(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, b = pair
    refused = b.counted("memory_links_refused")
    links = [socket.create_connection(address_of(b), timeout=60) for _ in range(door_module.MAX_LINKS + 5)]
    try:
        until("some are refused", lambda: b.counted("memory_links_refused") > refused)
    finally:
        for link in links:
            link.close()


def test_a_state_that_is_forgotten_does_not_stop_the_courier(pair: tuple[Node, Node]) -> None:
    a, b = pair
    file = a.own(16, 10)
    parcel = a.parcel(file, 10, b)
    file.close()
    a.courier.offer(parcel)
    bring(a, b, a.own(17, 10), 10)


def test_a_door_opens_again_on_its_port(authority: Authority, root: Path) -> None:
    first = node(authority, root / "again", "d")
    address = first.door.address
    with socket.create_connection(address_of(first), timeout=60):
        first.close()
    second = MemoryDoor(
        "127.0.0.1", first.trust, first.store, disk=first.disk, access=Access(), counters=Counters(),
        port_path=root / "again" / "d" / "memory.port",
    )  # fmt: skip
    second.close()
    assert second.address == address


def test_an_accept_that_fails_closes_no_door(pair: tuple[Node, Node]) -> None:
    """What `served` does afterwards is the test: for want of descriptors a link was not accepted."""
    _, b = pair

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    link = socket.socket()
    resource.setrlimit(resource.RLIMIT_NOFILE, (link.fileno() + 1, hard))
    try:
        link.connect(address_of(b))
        until("it fails", lambda: b.counted("memory_links_not_accepted") > 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        link.close()
