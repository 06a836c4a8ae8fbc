"""Reports that wait become one where nothing is lost by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.core.events import CheckedRow, HostRow, NodeReport, RestoreFailedRow, ShardRow
from controlplane.core.jobs import Exit
from controlplane.core.vocabulary import RankState
from controlplane.rpc.merging import merged

SHARD = ShardRow("moe-1", 1, 10, 0, "/s/c", (), 1, 1)
JOINING = HostRow("moe-1", 1, RankState.JOINING, 0, 3, 10, 9, 5, None, 5)
RUNNING = HostRow("moe-1", 1, RankState.RUNNING, 0, 3, 10, 9, 8, None, 5, 6, 7, 8)
OTHER = HostRow("moe-1", 2, RankState.JOINING, 1, 3, 11, 9, 5, None, 5)


def report(*hosts: HostRow) -> NodeReport:
    return NodeReport("n1", "1", hosts=hosts)


def test_the_later_row_of_a_process_stands_and_none_is_lost() -> None:
    assert merged(report(JOINING, OTHER), report(RUNNING)) == report(RUNNING, OTHER)
    assert merged(report(JOINING), report(OTHER)) == report(JOINING, OTHER)


@pytest.mark.parametrize(
    "other",
    [
        report(replace(JOINING, state=RankState.EXITED, exit=Exit(observed=True))),
        report(replace(JOINING, state=RankState.LOST)),
        replace(report(RUNNING), full=True),
        replace(report(RUNNING), shards=(SHARD,)),
        replace(report(RUNNING), broken_links=()),
        replace(report(RUNNING), unreadable=()),
        replace(report(RUNNING), all_faults=True),
        replace(report(RUNNING), restore_failures=(RestoreFailedRow("moe-1", 3, 0, "c", "f", "why"),)),
        replace(report(RUNNING), checked=(CheckedRow("moe-1", "c", True, "", ""),)),
    ],
    ids=["exited", "lost", "whole truth", "shards", "links", "sources", "faults", "restores", "checked"],
)
def test_everything_else_is_told_one_by_one(other: NodeReport) -> None:
    assert merged(report(JOINING), other) is None
    assert merged(other, report(RUNNING)) is None
