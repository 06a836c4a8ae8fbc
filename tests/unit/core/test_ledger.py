"""Every accelerator-second lands in exactly one bucket, also after retroactive moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.core.accounting.ledger import Ledger, ettr, move
from controlplane.core.accounting.tally import count
from controlplane.core.spec import SparePolicy
from controlplane.core.vocabulary import AcceleratorState, Bucket
from tests.support.fleets import fleet, running, spoil
from tests.support.world import spec

amounts = st.integers(0, 10**18)


@given(amounts, amounts, st.integers(-(10**18), 10**19))
def test_moves_keep_the_sum_and_never_go_below_zero(productive: int, wasted: int, amount: int) -> None:
    buckets = {Bucket.PRODUCTIVE: productive, Bucket.WASTED_PROGRESS: wasted}
    ledger = Ledger(site=dict(buckets))
    after = move(ledger, dict(buckets), Bucket.PRODUCTIVE, Bucket.WASTED_PROGRESS, amount)
    assert sum(after.values()) == sum(ledger.site.values()) == productive + wasted
    assert min(after.values()) >= 0
    assert after[Bucket.WASTED_PROGRESS] - wasted == max(0, min(amount, productive))
    assert after == ledger.site


def test_a_move_does_not_change_its_argument() -> None:
    buckets = {Bucket.PRODUCTIVE: 5}
    move(Ledger(site={Bucket.PRODUCTIVE: 5}), buckets, Bucket.PRODUCTIVE, Bucket.DETECTION, 3)
    assert buckets == {Bucket.PRODUCTIVE: 5}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("", Bucket.IDLE),
        ("SUSPECT", Bucket.IDLE),
        ("cordoned", Bucket.QUARANTINED),
        ("failed devices", Bucket.QUARANTINED),
        ("UNKNOWN", Bucket.UNKNOWN),
        ("DEAD", Bucket.UNKNOWN),
    ],
)
def test_devices_outside_jobs(how: str, expected: Bucket) -> None:
    site = fleet(1)
    if how:
        spoil(site, 0, how)
    assert {bucket: devices for bucket, devices in count(site).idle(0).items() if devices} == {expected: 2}


def test_every_device_is_counted_once() -> None:
    site = fleet(4)
    job = running(spec(ranks=2, spares=SparePolicy(1)), [(0, (0,)), (0, (1,))], site, spares=(1,))
    site.acc_state[2, 0] = AcceleratorState.FAILED
    tally = count(site)
    expected = {Bucket.UNKNOWN: 0, Bucket.QUARANTINED: 1, Bucket.SPARE: 2, Bucket.IDLE: 1, Bucket.QUEUED: 2}
    assert tally.of(job) == 2
    assert tally.idle(wanted=2) == expected
    assert tally.idle(wanted=99)[Bucket.QUEUED] == 3
    assert sum(expected.values()) + tally.of(job) == tally.devices == site.total_accelerators()


@pytest.mark.parametrize(
    ("buckets", "share"),
    [({}, 0.0), ({Bucket.PRODUCTIVE: 3, Bucket.STARTUP: 1}, 0.75), ({Bucket.STARTUP: 1}, 0.0)],
)
def test_ettr(buckets: dict[str, int], share: float) -> None:
    assert ettr(buckets) == share
