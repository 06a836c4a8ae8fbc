"""The ledger's parts: counts that follow changes, the sliding hour, the pace of a job."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.core.accounting.ledger import Ledger, book, rebook
from controlplane.core.accounting.pace import WINDOW_NS, Pace, saved
from controlplane.core.accounting.tally import count, recount, wanted_by
from controlplane.core.accounting.window import MINUTES, Hour
from controlplane.core.columns import put
from controlplane.core.fleet import FREE, Fleet
from controlplane.core.jobs import GenerationClock, Incident, Job
from controlplane.core.units import NS_PER_MINUTE, NS_PER_S, seconds
from controlplane.core.vocabulary import AcceleratorState, Bucket, JobState, NodeLiveness, NodeService
from tests.support.fleets import fleet, running
from tests.support.world import spec

# --- counts -----------------------------------------------------------------------------------------------------------

changes = st.lists(
    st.tuples(st.integers(0, 23), st.sampled_from(["dead", "alive", "owned", "freed", "spare", "failed", "cordoned", "away"])),
    max_size=8,
)  # fmt: skip


def change(site: Fleet, node: int, how: str) -> None:
    """One change of a node, without writing in place."""
    match how:
        case "dead" | "alive":
            site.liveness = put(site.liveness, node, NodeLiveness.DEAD if how == "dead" else NodeLiveness.ALIVE)
        case "owned" | "freed":
            site.acc_owner = put(site.acc_owner, node, node % 5 if how == "owned" else FREE)
        case "spare":
            site.reserved = put(site.reserved, node, 3)
        case "failed":
            site.acc_state = put(site.acc_state, (node, 0), AcceleratorState.FAILED)
        case "cordoned":
            site.cordoned = put(site.cordoned, node, True)
        case "away":
            site.service = put(site.service, node, NodeService.QUARANTINED)


@settings(max_examples=60, deadline=None)
@given(changes, changes)
def test_counting_what_changed_is_counting_all(first: list[tuple[int, str]], then: list[tuple[int, str]]) -> None:
    site = fleet(24)
    for node, how in first:
        change(site, node, how)
    tally = count(site)
    for node, how in then:
        change(site, node, how)
    after, whole = recount(tally, site), count(site)
    assert after.outside.tolist() == whole.outside.tolist()
    assert [int(n) for n in after.owned if n] == [int(n) for n in whole.owned if n]
    assert after.devices == site.total_accelerators()
    assert recount(whole, site) is whole


def test_new_nodes_are_counted() -> None:
    grown = fleet(40)
    tally = count(fleet(39))
    assert recount(tally, grown).outside.tolist() == count(grown).outside.tolist()


def test_idle_devices_that_a_job_waits_for_are_queued() -> None:
    waiting = Job("a", "a-1", 1, spec(ranks=3), JobState.QUEUED, 0)
    ending = Job("b", "b-2", 2, spec(ranks=5), JobState.QUEUED, 0, ending=JobState.CANCELLED)
    assert wanted_by([waiting, ending]) == 3
    idle = count(fleet(1)).idle(wanted_by([waiting]))
    assert (idle[Bucket.QUEUED], idle[Bucket.IDLE]) == (2, 0)


# --- the last hour ----------------------------------------------------------------------------------------------------

stretches = st.lists(
    st.tuples(st.integers(1, 40 * 60), st.integers(0, 3), st.booleans()), min_size=1, max_size=12
)  # seconds, devices, productive


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), stretches)
def test_the_hour_is_what_the_seconds_say(begin_s: int, parts: list[tuple[int, int, bool]]) -> None:
    hour, now = Hour(), begin_s
    useful: dict[int, int] = {}
    total: dict[int, int] = {}
    for length, devices, productive in parts:
        hour = hour.booked(now * NS_PER_S, (now + length) * NS_PER_S, devices, productive=productive)
        for second in range(now, now + length):
            total[second // 60] = total.get(second // 60, 0) + devices
            useful[second // 60] = useful.get(second // 60, 0) + devices * productive
        now += length
    newest = now * NS_PER_S // NS_PER_MINUTE
    kept = range(newest - MINUTES + 1, newest + 1)
    assert int(hour.total.sum()) == NS_PER_S * sum(total.get(minute, 0) for minute in kept)
    assert int(hour.productive.sum()) == NS_PER_S * sum(useful.get(minute, 0) for minute in kept)
    assert 0 <= hour.ettr() <= 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**14), st.integers(0, 10**14))
def test_what_is_taken_can_be_given_back(taken: int, given_back: int) -> None:
    hour = Hour().booked(0, seconds(3000), 8, productive=True).booked(seconds(3000), seconds(3300), 8, productive=False)
    less = hour.taken(taken)
    assert int(less.productive.sum()) == max(0, int(hour.productive.sum()) - taken)
    assert (less.productive >= 0).all()
    more = less.given(given_back)
    assert int(more.productive.sum()) == min(int(hour.total.sum()), int(less.productive.sum()) + given_back)
    assert (more.productive <= more.total).all()


def test_lost_work_is_the_newest() -> None:
    hour = Hour().booked(0, seconds(600), 1, productive=True).taken(seconds(90))
    assert hour.productive[:10].tolist() == [*[NS_PER_MINUTE] * 8, seconds(30), 0]


def test_an_old_hour_is_forgotten() -> None:
    hour = Hour().booked(0, seconds(1800), 1, productive=True)
    later = hour.booked(seconds(7200), seconds(7260), 1, productive=False)
    assert (hour.ettr(), later.ettr()) == (1.0, 0.0)
    assert int(later.total.sum()) == NS_PER_MINUTE


# --- the pace ---------------------------------------------------------------------------------------------------------


def paced(*saves: tuple[int, float], generation: int = 1, stall: float = 1.0) -> tuple[Pace, list[float]]:
    """The pace after (step, reached at s), and what was lost at each, in s."""
    pace, lost = Pace(), []
    for step, at_s in saves:
        pace, slow = saved(pace, generation, step, seconds(at_s), seconds(stall))
        lost.append(slow / NS_PER_S)
    return pace, lost


def test_step_time_and_stall_are_measured_between_saves() -> None:
    pace, _ = paced((20, 100), (40, 141), (60, 182))
    assert pace.step_ns == seconds(2)
    assert pace.stall_ns == seconds(1)
    assert Pace().stall_ns == 0


def test_slower_than_its_own_best_is_lost() -> None:
    pace, lost = paced((0, 0), (50, 101), (100, 252), (150, 353))
    assert lost == [0, 0, 50, 0], "two seconds a step is its best, three were lost time"
    assert pace.best_ns == seconds(2)


@pytest.mark.parametrize("second", [(50, 103), (50, 105)])
def test_noise_is_not_lost(second: tuple[int, float]) -> None:
    _, lost = paced((0, 0), (50, 101), (100, 101 + second[1]))
    assert lost == [0, 0, 0]


def test_short_stretches_say_nothing_until_they_add_up() -> None:
    pace, lost = paced((0, 0), (5, 11), (10, 30), (15, 45))
    assert lost == [0, 0, 0, 0]
    assert pace.best_ns == 0
    pace, slow = saved(pace, 1, 30, seconds(45) + WINDOW_NS, seconds(1))
    assert (slow, pace.best_ns) == (0, (seconds(45 - 3) + WINDOW_NS - seconds(1)) // 30)


def test_another_generation_begins_anew() -> None:
    pace, _ = paced((0, 0), (50, 101))
    pace, slow = saved(pace, 2, 60, seconds(900), seconds(1))
    assert (slow, pace.since_ns, pace.best_ns) == (0, seconds(900), seconds(2))


# --- what a job is doing ----------------------------------------------------------------------------------------------

OPEN = Incident(1, 1, 1, (), 0, "")
PLACED = Incident(1, 1, 1, (), 0, "", decided_ns=1, placed_ns=1)
STATES = [
    (JobState.STARTING, None, GenerationClock(1), Bucket.STARTUP),
    (JobState.STARTING, None, GenerationClock(1, 1, 1), Bucket.CHECKPOINT_RESTORE),
    (JobState.STARTING, None, GenerationClock(1, 1, 1, 1), Bucket.DATA_LOADING),
    (JobState.RUNNING, None, GenerationClock(1, 1, 1, 1, 1), Bucket.PRODUCTIVE),
    (JobState.RECOVERING, OPEN, GenerationClock(1, 1, 1, 1, 1), Bucket.RECOVERY),
    (JobState.RECOVERING, OPEN, GenerationClock(1, 1, 1), Bucket.RECOVERY),
    (JobState.RECOVERING, PLACED, GenerationClock(1), Bucket.RECOVERY),
    (JobState.RECOVERING, PLACED, GenerationClock(1, 1, 1), Bucket.CHECKPOINT_RESTORE),
    (JobState.RECOVERING, PLACED, GenerationClock(1, 1, 1, 1), Bucket.DATA_LOADING),
    (JobState.SUSPENDED, PLACED, GenerationClock(1, 1, 1), Bucket.PAUSED),
]


@pytest.mark.parametrize(("state", "incident", "clock", "bucket"), STATES)
def test_bucket_of_a_job(state: JobState, incident: Incident | None, clock: GenerationClock, bucket: Bucket) -> None:
    job = Job("a", "a-1", 1, spec(), state, 0, incident=incident, clock=clock, restore_step=20)
    assert job.bucket() is bucket
    job.restore_step = 0
    assert job.bucket() is not Bucket.CHECKPOINT_RESTORE, "from the start there is nothing to restore"


def test_a_move_back_in_time_shows_in_totals_and_in_the_hour() -> None:
    job = running(spec(ranks=2), [(0, (0,)), (0, (1,))], fleet(1))
    ledger = Ledger(begun_ns=0, last_ns=0)
    ledger.last_ns = seconds(60)
    assert book(ledger, job, 2, seconds(120)) == 2 * NS_PER_MINUTE
    assert rebook(ledger, job, Bucket.PRODUCTIVE, Bucket.WASTED_PROGRESS, NS_PER_MINUTE) == NS_PER_MINUTE
    assert (job.hour.ettr(), sum(job.ledger_ns.values())) == (0.5, 2 * NS_PER_MINUTE)
    assert rebook(ledger, job, Bucket.WASTED_PROGRESS, Bucket.PRODUCTIVE, 10**18) == NS_PER_MINUTE
    assert job.hour.ettr() == 1.0
    assert np.array_equal(sorted(ledger.site.values()), [0, 2 * NS_PER_MINUTE])
