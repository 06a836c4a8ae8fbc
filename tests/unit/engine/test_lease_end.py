"""When the next leases run out: the moments at which silence is looked at."""

from __future__ import annotations

from controlplane.engine.soft import NEVER_NS, STALL_TOLERANCE_NS, TOGETHER_NS, SoftColumns

LEASE_NS = 100
APART_NS = 2 * TOGETHER_NS


def test_the_first_lease_that_runs_out_after_a_moment() -> None:
    columns = SoftColumns(started_ns=1_000)
    columns.beat(1, 2 * APART_NS)
    columns.beat(2, APART_NS)
    first, second, third = 1_100, APART_NS + LEASE_NS, 2 * APART_NS + LEASE_NS
    assert columns.lease_ends_ns(3, LEASE_NS, 0) == (first, first), "who has not beaten yet was heard since we listen"
    assert columns.lease_ends_ns(3, LEASE_NS, first) == (second, second), "a lease that has run out does so no more"
    assert columns.lease_ends_ns(3, LEASE_NS, second) == (third, third)
    assert columns.lease_ends_ns(3, LEASE_NS, third) == (NEVER_NS, NEVER_NS)
    assert columns.lease_ends_ns(0, LEASE_NS, 0) == (NEVER_NS, NEVER_NS)


def test_leases_that_end_together_are_one_moment_and_not_a_chain() -> None:
    columns = SoftColumns(started_ns=1)
    for node in range(4):
        columns.beat(node, 1 + node * (TOGETHER_NS // 2))
    first, last = columns.lease_ends_ns(4, LEASE_NS, 0)
    assert (first, last) == (1 + LEASE_NS, 1 + LEASE_NS + TOGETHER_NS), "however many follow, the first waits no longer"
    beyond = 1 + LEASE_NS + 3 * (TOGETHER_NS // 2)
    assert columns.lease_ends_ns(4, LEASE_NS, last) == (beyond, beyond)


def test_our_own_lag_moves_it() -> None:
    columns = SoftColumns(started_ns=0)
    columns.beat(0, 1_000)
    late_at_ns = 10_000 + STALL_TOLERANCE_NS
    assert columns.stalled(STALL_TOLERANCE_NS, late_at_ns)
    end_ns = 1_000 + LEASE_NS + STALL_TOLERANCE_NS
    assert columns.lease_ends_ns(1, LEASE_NS, 0) == (end_ns, end_ns)
