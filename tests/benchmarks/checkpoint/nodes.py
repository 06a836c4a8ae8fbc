"""Two node agents' memory tiers in processes of their own, with certificates of one authority."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from controlplane.core.identity import NODE, Role
from controlplane.pki import certificates as certs
from controlplane.pki.authority import Authority, make_authority, new_serial

JOB, GENERATION, RANK = "bench-1", 1, 0
HOST = f"{JOB}-1"
OWN, PARTNER = "own", "partner"
LINE = ((GENERATION, 0),)
DISK_EVERY = 4
"""Steps between versions on the own disk."""
LIFE_NS = 3_600 * 10**9


def identities(folder: Path) -> None:
    """Make an authority, and an identity for each of the two nodes."""
    authority = make_authority(folder / "pki", "bench")
    for node in (OWN, PARTNER):
        _identity(authority, folder / node, node)


def _identity(authority: Authority, folder: Path, node: str) -> None:
    folder.mkdir(mode=0o700)
    key, now_ns = certs.new_key(), time.time_ns()
    claims = certs.Claims(
        authority.site, NODE, node, Role.NONE, (), 1, new_serial(), now_ns - 10**9, now_ns + LIFE_NS
    )  # fmt: skip
    for name, body in (
        ("identity.key", certs.key_pem(key)),
        ("identity.pem", authority.issue(claims, key.public_key())),
        ("ca.pem", authority.pem),
    ):
        path = folder / name
        path.write_bytes(body)
        path.chmod(0o600)


@dataclass(slots=True)
class Node:
    """One node's process."""

    process: Any
    pipe: Connection
    address: str

    def call(self, *words: Any) -> Any:
        """Have it do something, and wait for what it says."""
        self.pipe.send(words)
        return self.pipe.recv()

    def close(self) -> None:
        """End it."""
        self.pipe.send(("end",))
        self.process.join(10)
        self.process.kill()


def states_folder(folder: Path) -> Path:
    """Where a node with this folder keeps states on its disk."""
    return folder / "states"


def start(node: str, folder: Path, memory: Path, core: int) -> Node:
    """Start the memory tier of a node on one core."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(node, folder, memory, core, theirs), daemon=True)
    process.start()
    return Node(process, ours, ours.recv())


def _serve(node: str, folder: Path, memory: Path, core: int, pipe: Connection) -> None:
    from agents.node.memory.courier import Courier, Parcel
    from agents.node.memory.disk import LocalDisk
    from agents.node.memory.door import Access, MemoryDoor, Permits, Wanted, fetch
    from agents.node.memory.store import MemoryStore
    from agents.node.memory.wire import Trust
    from agents.node.observability import Counters

    os.sched_setaffinity(0, {core})
    store, access, counters, trust = MemoryStore(memory), Access(), Counters(), Trust(node, folder)
    access.jobs[JOB] = Permits(GENERATION, frozenset({OWN, PARTNER}), frozenset({OWN, PARTNER}))
    disk = LocalDisk(states_folder(folder), counters)
    disk.begin(JOB, GENERATION, LINE, 1)
    port = folder / "memory.port"
    door = MemoryDoor("127.0.0.1", trust, store, disk=disk, access=access, counters=counters, port_path=port)
    courier = Courier(trust, counters)
    pipe.send(door.address)
    holder = (PARTNER, "")
    while True:
        match pipe.recv():
            case ("holder", address):
                holder = (PARTNER, address)
                pipe.send(None)
            case ("taken", step):
                file = store.own(HOST)
                if file is not None:
                    courier.offer(Parcel(JOB, RANK, step, file, holder))
                    if step % DISK_EVERY == 0:
                        disk.offer(JOB, RANK, step, file)
            case ("write", step):
                file, before = store.own(HOST), (disk.written_bytes, disk.written_s)
                assert file is not None  # a rank has made it
                disk.offer(JOB, RANK, step, file)
                while disk.written_bytes == before[0]:
                    time.sleep(0.001)
                pipe.send(disk.written_s - before[1])
            case ("brought",):
                pipe.send((courier.brought_bytes, courier.brought_s))
            case ("fetch", address, step, generation):
                pipe.send(fetch(trust, Wanted(PARTNER, address, JOB, RANK, step, generation), store))
            case _:
                door.close()
                courier.close()
                disk.close()
                return
