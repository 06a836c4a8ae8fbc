"""Two real ranks whose loss becomes no number: they go back, leave the batches out, and finish."""

from __future__ import annotations

import pytest

from tests.e2e.site import WORKLOADS, RunningSite

pytestmark = pytest.mark.e2e


def test_a_loss_that_is_no_number_is_rolled_back_and_its_batches_are_left_out(site: RunningSite) -> None:
    site.submit("diverging", "diverging_work", path=str(WORKLOADS), ranks=2, every=0, spares=False)
    job = site.finished("diverging")
    assert job.generation == 2
    assert [recovery.rung for recovery in job.recoveries] == ["ROLLBACK"]
    assert job.restarts["user"] == 1
    assert 1 <= int(job.result["skipped"]) <= 31, "the bad step, and those before it that nobody had told of"
    messages = [event.message for event in site.events("diverging")]
    assert any("numbers of diverging are off: the loss of step 30 is not a finite number" in text for text in messages)
    assert "is not a finite number" in site.phalanx("why", "job", "diverging")
