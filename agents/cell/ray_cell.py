"""All that the cell agent asks of Ray. Every function here blocks and belongs on the Ray thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import ray
from ray import exceptions
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agents.cell.actor import Described, RankActor

NAMESPACE = "phalanx"
NODE_LABEL = "phalanx.node"
_HEAD_RESOURCE = "node:__internal_head__"
_KV_NAMESPACE = b"phalanx"
_REASON_LIMIT = 600
_CAUSES = ("The actor is dead because", "The actor died because")
_DEAD = (exceptions.ActorDiedError, exceptions.ActorUnschedulableError, exceptions.ActorPlacementGroupRemoved)


@dataclass(frozen=True, slots=True)
class Member:
    """A raylet of the cell, other than the head's."""

    node: str
    alive: bool
    ray_id: str


@dataclass(frozen=True, slots=True)
class Alive:
    """The actor runs and has started its host."""

    node: str
    host_pid: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The rank host has ended and its actor waits to be let go."""

    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """The actor is gone; what became of its host is for the node agent to say."""

    reason: str


@dataclass(frozen=True, slots=True)
class OutOfTouch:
    """The actor cannot be reached now. That is not death."""

    reason: str


ActorEvent = Alive | Ended | Dead | OutOfTouch
Listener = Callable[[str, ActorEvent], None]
"""Told about (host_id, event) from threads of Ray: it must hand over and return."""


class HeadLostError(Exception):
    """The raylet that this driver is connected through is dead: only a new process can connect to another one."""


class UnknownNodeError(Exception):
    """No living raylet of that node is in the cell."""


class RayCell:
    """One connection to a Ray cluster as a driver, with the handles of the actors in it."""

    def __init__(self, address: str, listener: Listener) -> None:
        self._address = address
        self._listener = listener
        self._actors: dict[str, Any] = {}
        self._ray_ids: dict[str, str] = {}
        self._own_node = ""
        self._remote_class: Any = None

    def connect(self) -> str:
        """Connect as a driver; returns the identity of the cluster. Raises ConnectionError of Ray."""
        ray.init(address=self._address, namespace=NAMESPACE, logging_level=logging.ERROR, log_to_driver=False)
        self._own_node = ray.get_runtime_context().get_node_id()
        self._remote_class = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(RankActor)
        worker: Any = ray._private.worker.global_worker  # noqa: SLF001  no public way to the cluster id
        cluster_id: str = worker.gcs_client.cluster_id.hex()
        return cluster_id

    def disconnect(self) -> None:
        """Leave the cluster. Detached actors stay."""
        ray.shutdown()

    def members(self) -> list[Member]:
        """Raylets by node name, the newest life of each. Raises HeadLostError."""
        newest: dict[str, Member] = {}
        rows = list(ray.nodes())  # type: ignore[no-untyped-call]
        heads = {_name(row) for row in rows if self._is_head(row)}
        for row in rows:
            if row["NodeID"] == self._own_node and not row["Alive"]:
                raise HeadLostError(f"the head raylet {self._own_node[:12]} is dead")
            name = _name(row)
            # Of a former head a restarted GCS keeps the name, and not that it was one.
            if self._is_head(row) or (not row["Alive"] and name in heads):
                continue
            if row["Alive"] or name not in newest:
                newest[name] = Member(name, row["Alive"], row["NodeID"])
        self._ray_ids = {member.node: member.ray_id for member in newest.values() if member.alive}
        return list(newest.values())

    def _is_head(self, row: Any) -> bool:
        return _HEAD_RESOURCE in row["Resources"] or row["NodeID"] == self._own_node

    def named(self) -> set[str]:
        """Host ids of the actors that Ray does not hold for dead."""
        rows = ray.util.list_named_actors(all_namespaces=True)
        return {row["name"] for row in rows if row["namespace"] == NAMESPACE}

    def start(self, host_id: str, node: str, spec: bytes) -> bool:
        """Create the detached actor on the node; False when it is there already. Raises UnknownNodeError."""
        if node not in self._ray_ids:
            self.members()
        if node not in self._ray_ids:
            raise UnknownNodeError(f"node {node} is not in the cell: no living raylet with that name")
        options = self._remote_class.options(
            name=host_id,
            namespace=NAMESPACE,
            lifetime="detached",
            scheduling_strategy=NodeAffinitySchedulingStrategy(self._ray_ids[node], soft=False),
        )
        try:
            self._actors[host_id] = options.remote(spec)
        except ValueError:  # the name is taken
            return False
        self.watch(host_id)
        return True

    def adopt(self, host_id: str) -> bool:
        """Take over an actor that an earlier agent started; False when it has died meanwhile."""
        try:
            self._actors[host_id] = ray.get_actor(host_id, namespace=NAMESPACE)
        except ValueError:
            return False
        self.watch(host_id)
        return True

    def watch(self, host_id: str) -> None:
        """Ask the actor who it is, and keep one pending call whose end is its death."""
        actor = self._actors.get(host_id)
        if actor is None:
            return
        described: Future[Described] = actor.describe.remote().future()
        described.add_done_callback(lambda future: self._described(host_id, future))
        held: Future[str] = actor.hold.remote().future()
        held.add_done_callback(lambda future: self._held(host_id, future))

    def release(self, host_id: str) -> None:
        """Let an actor go whose host has ended."""
        actor = self._actors.pop(host_id, None)
        if actor is not None:
            actor.leave.remote()

    def kill(self, host_id: str) -> bool:
        """Kill the actor, not its host; False when there is none."""
        actor = self._actors.pop(host_id, None)
        if actor is None:
            try:
                actor = ray.get_actor(host_id, namespace=NAMESPACE)
            except ValueError:
                return False
        ray.kill(actor, no_restart=True)
        return True

    def drop(self, host_id: str) -> None:
        """Forget the handle of a dead actor."""
        self._actors.pop(host_id, None)

    def load_epoch(self, cell: str) -> int:
        """The highest controller epoch that an agent of this cell has obeyed; the cell keeps it, 0 when new."""
        stored = internal_kv._internal_kv_get(f"epoch/{cell}", namespace=_KV_NAMESPACE)  # noqa: SLF001  no public way
        return int(stored) if stored else 0

    def store_epoch(self, cell: str, epoch: int) -> None:
        """Keep the highest epoch for the next agent of this cell."""
        internal_kv._internal_kv_put(f"epoch/{cell}", str(epoch), True, namespace=_KV_NAMESPACE)  # noqa: SLF001

    def _described(self, host_id: str, future: Future[Described]) -> None:
        if future.exception() is None:
            described = future.result()
            self._listener(host_id, Alive(described.node, described.host_pid))

    def _held(self, host_id: str, future: Future[str]) -> None:
        error = future.exception()
        event: ActorEvent
        if error is None:
            event = Ended(future.result())
        elif isinstance(error, _DEAD):
            event = Dead(one_line(error))
        else:
            event = OutOfTouch(one_line(error))
        self._listener(host_id, event)


def one_line(error: BaseException) -> str:
    """The error's text for a report: one line, bounded, without the part in which Ray names the actor."""
    text = " ".join(str(error).split()) or repr(error)
    at = max(text.find(mark) for mark in _CAUSES)
    text = text[max(at, 0) :]
    return text if len(text) <= _REASON_LIMIT else text[: _REASON_LIMIT - 3] + "..."


def _name(row: Any) -> str:
    """What a raylet is called: the node that its label names, else what Ray calls it."""
    return str(row.get("Labels", {}).get(NODE_LABEL) or row["NodeName"])
