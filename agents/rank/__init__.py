"""The in-process library of a training workload: the only part of Phalanx that training code imports.

See docs/writing-a-workload.md. Importing this package imports neither torch nor protobuf; the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.rank.assignment import Coordinates, Degrees, RankRow, RestorePoint, ShardFile
    from agents.rank.checkpoint_files import BadFile, describe_files, verify_files
    from agents.rank.context import RankContext
    from agents.rank.ddp import InterruptibleProcessGroup
    from agents.rank.errors import GenerationChanged, ReplicaDivergence, WorkloadRefused
    from agents.rank.generation import Generation, Groups
    from agents.rank.group import Group, Pending
    from agents.rank.keeper import Part, StateKeeper
    from agents.rank.link import note

_HOMES = {
    "BadFile": "checkpoint_files",
    "Coordinates": "assignment",
    "Degrees": "assignment",
    "Generation": "generation",
    "GenerationChanged": "errors",
    "Group": "group",
    "Groups": "generation",
    "InterruptibleProcessGroup": "ddp",
    "Part": "keeper",
    "Pending": "group",
    "RankContext": "context",
    "RankRow": "assignment",
    "ReplicaDivergence": "errors",
    "RestorePoint": "assignment",
    "ShardFile": "assignment",
    "StateKeeper": "keeper",
    "WorkloadRefused": "errors",
    "describe_files": "checkpoint_files",
    "note": "link",
    "verify_files": "checkpoint_files",
}

__all__ = [
    "BadFile",
    "Coordinates",
    "Degrees",
    "Generation",
    "GenerationChanged",
    "Group",
    "Groups",
    "InterruptibleProcessGroup",
    "Part",
    "Pending",
    "RankContext",
    "RankRow",
    "ReplicaDivergence",
    "RestorePoint",
    "ShardFile",
    "StateKeeper",
    "WorkloadRefused",
    "describe_files",
    "note",
    "verify_files",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  paid by the first use only

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
