"""What must be done outside, after its record is durable. Small: the edge fills in tables from the state it was issued from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EffectKind(StrEnum):
    """What an effect asks for; `target` is `node:<name>`, `cell:<name>` or, for all nodes of a job, `job:<uid>`."""

    APPLY_GENERATION = "apply_generation"
    FENCE_HOSTS = "fence_hosts"
    FORGET_HOSTS = "forget_hosts"
    VERIFY_CHECKPOINT = "verify_checkpoint"
    SWEEP_FOLDERS = "sweep_folders"
    INJECT_FAULT = "inject_fault"
    START_HOSTS = "start_hosts"
    STOP_HOSTS = "stop_hosts"
    RUN_CHECKS = "run_checks"
    CHECK_PAIR = "check_pair"
    RAISE_CANARY = "raise_canary"
    GATHER_STACKS = "gather_stacks"
    SAVE_NOW = "save_now"


@dataclass(frozen=True, slots=True)
class Effect:
    """One command with one outcome.

    `id` is unique in the site's life and stays the same when it is sent again. `job` is a uid. `generation` lets an old
    one die at the agent. `items` are host ids, folders or positional arguments, by kind. After `deadline_ns` (Unix ns)
    nobody waits for it any more. RUN_CHECKS: the handling level that is to be carried out, then the entities; what the agent
    finds it reports before it answers. CHECK_PAIR: the other node, the address and port where rank 0 listens, the own rank.
    RAISE_CANARY: the number of the canary. VERIFY_CHECKPOINT: the checkpoint, and megabytes a second at most.
    SAVE_NOW: one node tells its ranks. `full`: the whole rank table goes out, not a patch of `items`; to `nodes` in any case.

    A group effect (target `job:<uid>`) goes to every node that holds a rank of the job, again whenever such a node says
    hello. What shows that it was carried out are the job's ranks, so that nobody answers it; only refusals come back.
    GATHER_STACKS is one, too: what agents answer is soft state, found by the effect's id.
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
    nodes: tuple[str, ...] = ()

    @property
    def group(self) -> bool:
        """Whether it is for all nodes of a job."""
        return self.target.startswith("job:")

    @property
    def node(self) -> str:
        """Node name of the target, "" for a cell or a group."""
        kind, _, name = self.target.partition(":")
        return name if kind == "node" else ""
