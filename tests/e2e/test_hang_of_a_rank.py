"""Ranks that hang and give no sign: real stacks and real collectives say which, and the weights are those of a quiet run."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from phalanx.v1 import event_pb2

from tests.e2e.site import SMALL, WORKLOADS, RunningSite, poll

pytestmark = pytest.mark.e2e

WITHIN_S = 60.0
"""The floor of the learned limit is 10 s and the fixed one 600 s: this tells them apart on a busy machine."""


def test_a_loader_that_hangs_and_a_rank_that_is_stopped(site: RunningSite, reference: str) -> None:
    file = site.folder / "hang"
    args = {**SMALL, "release": str(site.folder / "hangs.released"), "hang": str(file)}
    site.submit("hangs", "hanging_moe", path=str(WORKLOADS), **args)
    site.running("hangs", step=25)
    before = site.warm("hangs")
    pids = {rank.rank: rank.pid for rank in before.ranks}
    begun = time.monotonic()
    file.write_text("2")
    # Were rank 1 stopped before, it might hold rank 2 up on its way there.
    poll(file.with_suffix(".reached").exists, "rank 2 loads for ever")
    os.kill(pids[1], signal.SIGSTOP)
    after = site.recovered("hangs", before)
    assert time.monotonic() - begun < WITHIN_S
    file.unlink()

    events = [json.loads(event.body_json) for event in site.events("hangs") if event.type == "HangJudged"]
    assert [(one["verdict"], one["ranks"]) for one in events if one["verdict"] != "over"] == [("odd", [1, 2])], events
    recovery = after.recoveries[-1]
    assert list(recovery.ranks) == [1, 2]
    assert recovery.cause.startswith("hang: 2 of 4 ranks wait in "), recovery.cause
    assert "; rank 1 (node " in recovery.cause
    assert ") is stopped by a signal and is in " in recovery.cause
    assert "; rank 2 (node " in recovery.cause
    assert ") is in hanging_moe.py:load_batch" in recovery.cause
    replaced = {rank.rank for rank in after.ranks if rank.pid != pids[rank.rank]}
    assert replaced == {1, 2}, "the others go on in their processes"

    subject = event_pb2.ExplainRequest(kind=event_pb2.SUBJECT_KIND_JOB, name="hangs")
    decisions = site.client.events.Explain(subject, timeout=30).decisions
    told = next(decision for decision in decisions if decision.verdict.startswith("hang, odd: "))
    waiting = [line for line in told.evidence if not line.startswith(("rank 1:", "rank 2:"))]
    assert any(line.startswith(("rank 0:", "ranks 0, 3:")) and "trainer.py:train" in line for line in waiting), told
    assert any(line.startswith("rank 2: hanging_moe.py:load_batch < ") for line in told.evidence), told
    assert site.finished("hangs").result["weights_sha256"] == reference
