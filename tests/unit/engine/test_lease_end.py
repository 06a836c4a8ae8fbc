"""When the next lease runs out: the moment at which silence is looked at."""

from __future__ import annotations

from controlplane.engine.soft import NEVER_NS, STALL_TOLERANCE_NS, SoftColumns

LEASE_NS = 100


def test_the_first_lease_that_runs_out_after_a_moment() -> None:
    columns = SoftColumns(started_ns=1_000)
    columns.beat(1, 5_000)
    columns.beat(2, 4_000)
    assert columns.lease_end_ns(3, LEASE_NS, 0) == 1_100, "who has not beaten yet has been heard since we listen"
    assert columns.lease_end_ns(3, LEASE_NS, 1_100) == 4_100, "a lease that has run out does so no more"
    assert columns.lease_end_ns(3, LEASE_NS, 4_100) == 5_100
    assert columns.lease_end_ns(3, LEASE_NS, 5_100) == NEVER_NS
    assert columns.lease_end_ns(0, LEASE_NS, 0) == NEVER_NS


def test_our_own_lag_moves_it() -> None:
    columns = SoftColumns(started_ns=0)
    columns.beat(0, 1_000)
    late_at_ns = 10_000 + STALL_TOLERANCE_NS
    assert columns.stalled(STALL_TOLERANCE_NS, late_at_ns)
    assert columns.lease_end_ns(1, LEASE_NS, 0) == 1_000 + LEASE_NS + STALL_TOLERANCE_NS
