"""Where ranks' time goes, from the wire into `StepColumns.times`; told by nodes row by row, by relays in columns."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from phalanx.v1 import agent_pb2, relay_pb2

from controlplane.engine.phases import LARGEST, TOLD

NOT_TOLD = (0,) * TOLD
"""Of a rank that does not measure its phases."""


def row_times(row: agent_pb2.StepProgress) -> tuple[float, ...]:
    """One rank's sums."""
    if not row.HasField("times"):
        return NOT_TOLD
    times = row.times
    return (
        times.steps, times.total_us, times.waiting_us, times.data_us, times.collection_us, times.checkpoint_us, row.load,
    )  # fmt: skip


def columns_of(values: Iterable[float]) -> np.ndarray:
    """(rows, 7) of the sums of many ranks, one after the other."""
    return np.minimum(np.array(values, dtype=np.float64).reshape(-1, TOLD), LARGEST)


def relayed(rows: relay_pb2.RelayedSteps) -> np.ndarray | None:
    """(rows, 7) of what a relay tells; None: its columns do not fit together."""
    columns = (
        rows.times_steps, rows.total_us, rows.waiting_us, rows.data_us, rows.collection_us, rows.checkpoint_us, rows.loads,
    )  # fmt: skip
    if any(len(column) != len(rows.timed) for column in columns):
        return None
    found = np.zeros((len(rows.ranks), TOLD))
    places = np.array(rows.timed, dtype=np.int64)
    if len(places) and places.max() >= len(found):
        return None
    for at, column in enumerate(columns):
        found[places, at] = np.array(column, dtype=np.float64)
    return np.minimum(found, LARGEST)
