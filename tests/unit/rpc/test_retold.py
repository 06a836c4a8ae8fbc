"""A hello that tells again what is known leaves nothing to write down."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.core import events as ev
from controlplane.core.jobs import NONE, Exit
from controlplane.core.units import NS_PER_MS
from controlplane.core.vocabulary import RankState
from controlplane.rpc.retold import SAME_NS, as_known
from tests.benchmarks.core.site import GangSite

LATER_NS = 40 * NS_PER_MS


@pytest.fixture(scope="module")
def site() -> GangSite:
    one = GangSite(24)
    one.open()
    return one


def told(site: GangSite, shift_ns: int) -> ev.HostRow:
    """What the agent of rank 0 says of it, on our clock."""
    job, hosts = site.job, site.job.hosts
    at = hosts.row(int(job.rank_host[0]))
    times = [moment + shift_ns for moment in job.rank_times[0].tolist()]
    return ev.HostRow(
        job.uid, int(hosts.serial[at]), RankState(int(hosts.state[at])), 0, job.generation, int(hosts.pid[at]),
        int(hosts.host_pid[at]), int(hosts.since_ms[at]) * NS_PER_MS + shift_ns, None, *times,
    )  # fmt: skip


@pytest.mark.parametrize("shift_ns", [LATER_NS, -LATER_NS, SAME_NS])
def test_another_way_of_the_message_is_no_news(site: GangSite, shift_ns: int) -> None:
    assert as_known((told(site, shift_ns),), site.state) == (told(site, 0),)


def test_what_is_news_stays_as_it_is_told(site: GangSite) -> None:
    row = told(site, LATER_NS)
    for news in (
        told(site, 2 * SAME_NS),
        replace(row, state=RankState.PAUSED),
        replace(row, generation=row.generation + 1),
        replace(row, rank=NONE),
        replace(row, exit=Exit(observed=True, signal=9)),
        replace(row, serial=9_999_999),
        replace(row, job="another-1"),
        replace(
            row, joining_ns=0, rendezvous_ns=0, restored_ns=0, first_step_ns=0, since_ns=row.since_ns + 2 * SAME_NS
        ),
    ):
        assert as_known((news,), site.state) == (news,)


def test_rows_of_several_jobs(site: GangSite) -> None:
    other = replace(told(site, LATER_NS), job="another-1")
    assert {*as_known((other, told(site, LATER_NS)), site.state)} == {other, told(site, 0)}
    assert as_known((), site.state) == ()
