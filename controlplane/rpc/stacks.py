"""Where a node says that its ranks stand, as columns: nothing in it is believed to fit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from phalanx.v1 import agent_pb2

from controlplane.core.health.standstill import UNREAD, Calls, Stacks
from controlplane.core.jobs import Job

MOST_RANKS = 256
MOST_PLACES = 64
MOST_PLACE = 512
MOST_GROUPS = 16
MOST_NAME = 64
MOST_TROUBLE = 200
LARGEST = 1 << 62


def stacks_of(report: agent_pb2.StackReport, job: Job, node: int) -> Stacks:
    """The rows about ranks of a job that stand on a node (by number); others are left out, and what is too long is cut."""
    places = tuple(_text(place, MOST_PLACE) for place in report.places[:MOST_PLACES])
    rows: dict[int, agent_pb2.RankStack] = {}
    for row in report.ranks[:MOST_RANKS]:
        if row.rank < len(job.rank_node) and int(job.rank_node[row.rank]) == node:
            rows.setdefault(row.rank, row)
    ranks = sorted(rows)
    groups: dict[str, int] = {}
    operations: dict[str, int] = {}
    calls: list[tuple[int, int, int, int, bool]] = []
    for rank in ranks:
        for told in rows[rank].collectives[:MOST_GROUPS]:
            group = groups.setdefault(
                f"{_text(told.group, MOST_NAME).replace(':', '.')}:{told.members:08x}", len(groups)
            )
            operation = operations.setdefault(_text(told.operation, MOST_NAME), len(operations))
            calls.append((rank, group, operation, min(told.issued, LARGEST), told.waits))
    chosen = [rows[rank] for rank in ranks]
    troubles = tuple(dict.fromkeys(_text(row.trouble, MOST_TROUBLE) for row in chosen if row.trouble))
    return Stacks(
        np.array(ranks, dtype=np.int64),
        np.array([row.place - 1 if 0 < row.place <= len(places) else UNREAD for row in chosen], dtype=np.int64),
        _flags(row.inside for row in chosen),
        _flags(row.stopped for row in chosen),
        _flags(row.moved for row in chosen),
        places,
        Calls(
            np.array([call[0] for call in calls], dtype=np.int64),
            np.array([call[1] for call in calls], dtype=np.int64),
            np.array([call[2] for call in calls], dtype=np.int64),
            np.array([call[3] for call in calls], dtype=np.int64),
            _flags(call[4] for call in calls),
        ),
        tuple(groups),
        tuple(operations),
        troubles,
    )


def _flags(values: Iterable[bool]) -> np.ndarray:
    return np.fromiter(values, dtype=np.bool_)


def _text(text: str, most: int) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])
