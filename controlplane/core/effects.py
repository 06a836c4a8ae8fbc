"""What must be done outside, after its record is durable. Small: the edge fills in tables from the state it was issued from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EffectKind(StrEnum):
    """What an effect asks for; `target` is `node:<name>` or `cell:<name>`."""

    APPLY_GENERATION = "apply_generation"
    FENCE_HOSTS = "fence_hosts"
    FORGET_HOSTS = "forget_hosts"
    VERIFY_CHECKPOINT = "verify_checkpoint"
    SWEEP_FOLDERS = "sweep_folders"
    INJECT_FAULT = "inject_fault"
    START_HOSTS = "start_hosts"
    STOP_HOSTS = "stop_hosts"


@dataclass(frozen=True, slots=True)
class Effect:
    """One command with one outcome.

    `id` is unique in the site's life and stays the same when it is sent again. `job` is a uid. `generation` lets an old
    one die at the agent. `items` are host ids, folders or positional arguments, by kind. After `deadline_ns` (Unix ns)
    nobody waits for it any more.
    """

    id: str
    kind: EffectKind
    target: str
    deadline_ns: int
    job: str = ""
    generation: int = 0
    items: tuple[str, ...] = ()
    grace_ms: int = 0
    full: bool = False

    @property
    def node(self) -> str:
        """Node name of the target, "" for a cell."""
        kind, _, name = self.target.partition(":")
        return name if kind == "node" else ""
