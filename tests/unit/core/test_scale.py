"""What a recovery costs in Python does not grow with the site: nothing loops over nodes or ranks.

Counted in bytecodes, not in time, so that a busy machine changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import pytest

from controlplane.core.vocabulary import CheckpointState
from controlplane.engine.turn import Request, TurnResult
from tests.benchmarks.core.site import GangSite

TraceFunction = Callable[[FrameType, str, Any], Any]

SMALL, LARGE = 40, 320
GROWTH = 1.15
"""What may grow: a few names and runs more."""


class Counted(GangSite):
    """Counts the bytecodes that the product executes in its turns."""

    opcodes = 0

    def decide(self, requests: Sequence[Request]) -> TurnResult:
        sys.settrace(self._enter)
        try:
            return super().decide(requests)
        finally:
            sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: object) -> TraceFunction:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: object) -> TraceFunction:
        self.opcodes += event == "opcode"
        return self._step


def opcodes_of_recovery(nodes: int, ranks_per_node: int) -> int:
    site = Counted(nodes, spares=2, ranks_per_node=ranks_per_node)
    site.open()
    site.lose_node(int(site.job.rank_node[ranks_per_node]))
    site.opcodes = 0
    site.lose_node(int(site.job.rank_node[4 * ranks_per_node]))
    return site.opcodes


def opcodes_of_a_save(nodes: int, told: int) -> int:
    """Of the turn in which `told` nodes tell of their shards, after all others have."""
    site = Counted(nodes, spares=2, ranks_per_node=1)
    site.open()
    reports = site.saved(step=100)
    site.turn(*reports[told:])
    site.opcodes = 0
    site.turn(*reports[:told])
    (checkpoint,) = site.job.checkpoints.values()
    assert checkpoint.state is CheckpointState.COMMITTED
    return site.opcodes


@pytest.mark.skipif(sys.gettrace() is not None, reason="something else traces this run")
def test_shards_cost_what_is_new_and_nothing_for_those_that_are_known() -> None:
    small, large = opcodes_of_a_save(SMALL, told=8), opcodes_of_a_save(LARGE, told=8)
    assert large < GROWTH * small, (
        f"{small} bytecodes beside {SMALL} shards, {large} beside {LARGE}: something loops over them"
    )
    assert opcodes_of_a_save(LARGE, told=64) < 10 * large


@pytest.mark.skipif(sys.gettrace() is not None, reason="something else traces this run")
@pytest.mark.parametrize("ranks_per_node", [1, 8])
def test_a_recovery_costs_the_same_on_a_larger_site(ranks_per_node: int) -> None:
    small = opcodes_of_recovery(SMALL, ranks_per_node)
    large = opcodes_of_recovery(LARGE, ranks_per_node)
    assert small > 1_000
    assert large < GROWTH * small, f"{small} bytecodes at {SMALL} nodes, {large} at {LARGE}: something loops over nodes"
