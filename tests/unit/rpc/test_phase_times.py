"""Phase times off the wire: from nodes row by row and through a relay in columns they are the same, and bad ones are refused."""

from __future__ import annotations

import numpy as np
import pytest
from phalanx.v1 import agent_pb2, relay_pb2

from agents.relay.fold import Fold
from controlplane.engine.phases import LARGEST
from controlplane.rpc.phase_times import NOT_TOLD, columns_of, relayed, row_times


def row(rank: int, *, timed: bool = True) -> agent_pb2.StepProgress:
    times = agent_pb2.StepTimes(
        steps=rank + 1, total_us=100, waiting_us=40, data_us=5, collection_us=3, checkpoint_us=2
    )
    return agent_pb2.StepProgress(
        job_uid="j", generation=1, rank=rank, step=7, times=times if timed else None, load=1.5
    )


def test_a_row_of_an_older_library_has_none() -> None:
    assert row_times(row(0, timed=False)) == NOT_TOLD
    assert row_times(row(2)) == (3, 100, 40, 5, 3, 2, 1.5)


def test_numbers_without_bound_are_cut() -> None:
    huge = row(0)
    huge.times.total_us = (1 << 64) - 1
    assert columns_of(row_times(huge))[0, 1] == LARGEST


def test_through_a_relay_they_are_the_same() -> None:
    fold = Fold()
    rows = [row(0), row(1, timed=False), row(2)]
    fold.heard(3, agent_pb2.Beat(progress=rows))
    beats = fold.take()
    assert beats is not None
    (steps,) = beats.steps
    found = relayed(steps)
    assert found is not None
    assert np.array_equal(found, columns_of([value for one in rows for value in row_times(one)]))


@pytest.mark.parametrize("damage", ["short", "far"])
def test_columns_that_do_not_fit_are_refused(damage: str) -> None:
    rows = relay_pb2.RelayedSteps(ranks=[0, 1], timed=[0], times_steps=[1])
    if damage == "far":
        rows.timed[0] = 2
        for name in ("total_us", "waiting_us", "data_us", "collection_us", "checkpoint_us", "loads"):
            getattr(rows, name).append(1)
    assert relayed(rows) is None
