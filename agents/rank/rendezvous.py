"""Meeting the other ranks of a generation and building its process groups, without ever blocking the caller.

All that can block inside torch (store requests, gloo's constructor) runs on a helper thread, which is abandoned when
the generation changes and then ends by its own short time-outs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, TCPStore  # type: ignore[attr-defined]  # not in its __all__

from agents.rank.assignment import Assignment
from agents.rank.link import note
from agents.rank.sockets import Endpoint, listening_endpoints

STORE_TIMEOUT = timedelta(seconds=2)
PRESENCE_SLICE = timedelta(milliseconds=200)
CONNECT_TIMEOUT = timedelta(seconds=10)
COLLECTIVE_PATIENCE = 60
"""Join time-outs after which the backend itself gives up an operation. A stopped peer is the controller's to notice, and
the flag ends the wait long before; this bounds the life of an operation that gloo never wakes (see `generation.drop`)."""

GLOO_THREADS = 2
STORE_RETRY_S = 0.1

_device_lock = threading.Lock()


@dataclass(slots=True)
class Built:
    """The backends of a generation by group name, and the listening endpoints of all its members."""

    backends: dict[str, dist.ProcessGroupGloo] = field(default_factory=dict)
    endpoints: frozenset[Endpoint] = frozenset()


class Joiner(threading.Thread):
    """Builds the groups of one assignment. `done` is set when `built` or `error` is."""

    def __init__(self, assignment: Assignment, members: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(name=f"phalanx-join-{assignment.generation}", daemon=True)
        self._assignment = assignment
        self._members = members
        self._abandoned = threading.Event()
        self.done = threading.Event()
        self.built: Built | None = None
        self.error: Exception | None = None

    def abandon(self) -> None:
        """Nobody wants the result any more."""
        self._abandoned.set()

    def run(self) -> None:
        """Meet and build; the outcome is in `built` or `error`."""
        try:
            built = self._build()
            self.built = built
        except (RuntimeError, ValueError, OSError) as error:
            self.error = error.with_traceback(None)  # a traceback would keep half-built groups alive
        self.done.set()

    def _build(self) -> Built:
        with _device_lock:  # so that the new listener is this one
            before = listening_endpoints()
            device = dist.ProcessGroupGloo.create_device(hostname=self._assignment.address)
            mine = listening_endpoints() - before
        store, endpoints = self._meet(mine)
        built = Built(endpoints=frozenset(endpoints | mine))
        patience = timedelta(seconds=COLLECTIVE_PATIENCE * self._assignment.join_timeout_s)
        for name, ranks in self._members.items():
            options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # noqa: SLF001  not in the stubs
            options._devices = [device]  # noqa: SLF001  torch offers no other way to name the device
            options._threads = GLOO_THREADS  # noqa: SLF001
            options._timeout = CONNECT_TIMEOUT  # noqa: SLF001
            backend = dist.ProcessGroupGloo(
                PrefixStore(f"{self._prefix}/{name}/{ranks[0]}", store),
                ranks.index(self._assignment.rank),
                len(ranks),
                options,
            )
            backend._set_default_timeout(patience)  # noqa: SLF001
            built.backends[name] = backend
        return built

    @property
    def _prefix(self) -> str:
        return f"{self._assignment.job_uid}/{self._assignment.generation}"

    def _meet(self, mine: set[Endpoint]) -> tuple[TCPStore, set[Endpoint]]:
        """Publish this rank's listeners, wait for all ranks' ones. Starts again when the store was restarted."""
        host, _, port = self._assignment.store_address.rpartition(":")
        keys = {rank: f"{self._prefix}/present/{rank}" for rank in self._assignment.participants}
        told = False
        while True:
            try:
                store = TCPStore(
                    host.strip("[]"), int(port), is_master=False, wait_for_workers=False, timeout=STORE_TIMEOUT
                )
                store.set(keys[self._assignment.rank], _pack(mine))
                while not _all_present(store, [*keys.values()]):
                    self._stop_if_abandoned()
                found = store.multi_get([*keys.values()])
            except RuntimeError as error:
                self._stop_if_abandoned()
                if not told:
                    note(f"rendezvous store {self._assignment.store_address} is away, retrying: {_first_line(error)}")
                    told = True
                time.sleep(STORE_RETRY_S)
            else:
                return store, set().union(*(_unpack(value) for value in found))

    def _stop_if_abandoned(self) -> None:
        if self._abandoned.is_set():
            raise _AbandonedError(f"generation {self._assignment.generation} is over")


class _AbandonedError(OSError):
    """Not a RuntimeError: it must pass the store's retry loop."""


def _all_present(store: TCPStore, keys: list[str]) -> bool:
    try:
        store.wait(keys, PRESENCE_SLICE)
    except dist.DistStoreError:  # the slice is over; a lost connection is another error
        return bool(store.check(keys))
    return True


def _pack(endpoints: set[Endpoint]) -> str:
    return " ".join(f"{host}|{port}" for host, port in sorted(endpoints))


def _unpack(value: bytes) -> set[Endpoint]:
    pairs = (item.rpartition("|") for item in value.decode().split())
    return {(host, int(port)) for host, _, port in pairs}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def warm_up() -> None:
    """Pay gloo's and torch's first-use costs (0.7 s, floors.md E) while the process is parked."""
    device = dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # noqa: SLF001  not in the stubs
    options._devices = [device]  # noqa: SLF001
    options._timeout = CONNECT_TIMEOUT  # noqa: SLF001
    backend = dist.ProcessGroupGloo(HashStore(), 0, 1, options)
    with suppress(RuntimeError):
        backend.allreduce([torch.zeros(1)]).wait(CONNECT_TIMEOUT)  # type: ignore[attr-defined]
