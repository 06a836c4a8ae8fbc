"""Doing a step again: when it is decided, what the generation that follows keeps, and when nothing is decided at all."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from controlplane.core import records as r
from controlplane.core.draft import Draft, Policy
from controlplane.core.fleet import Fleet
from controlplane.core.jobs import Incident, Job, LostRank
from controlplane.core.recovery.decide import Verdict, decide
from controlplane.core.recovery.phase_times import LadderPolicy
from controlplane.core.recovery.ruling import Circumstances
from controlplane.core.spec import Budget, RestartPolicy
from controlplane.core.sweeping.pauses import pause, since
from controlplane.core.units import NS_PER_S, seconds
from controlplane.core.vocabulary import Blame, JobState, NodeLiveness, Rung
from tests.support.fleets import fleet, lose, running
from tests.support.world import World, spec

NOW = 1_000 * NS_PER_S
AGAIN, BACK, ANEW = Rung.RETRY_STEP, Rung.ROLLBACK, Rung.RESTART_JOB
PATIENCE_S = 20.0
PATIENT = Policy(ladder=LadderPolicy(pause_patience_ms=int(PATIENCE_S * 1000)))


def verdict(*, says: bool, intact: bool, lost: bool, spent: tuple[Rung, ...]) -> Verdict:
    site: Fleet = fleet(3)
    policy = RestartPolicy(infrastructure=Budget(2, 60_000), retry_step=says)
    job: Job = running(
        spec(restart_policy=policy), [(0, (0,)), (0, (1,)), (1, (0,)), (1, (1,))], site, (2,)
    )  # fmt: skip
    gone = (LostRank(2, 3, "it broke", Blame.INFRASTRUCTURE, NOW - 1, "evidence", False),) if lost else ()
    lose(job, *(loss.rank for loss in gone))
    job.incident = replace(Incident(0, 0, 0, gone, 10, "it broke"), intact=intact, spent_rungs=tuple(spent))
    return decide(job, site, Circumstances(now_ns=NOW, step=10))


@pytest.mark.parametrize(
    ("says", "intact", "lost", "spent"),
    [*itertools.product((True, False), (True, False), (True, False), ((), (AGAIN,), (BACK,), (AGAIN, BACK)))],
)
def test_it_is_decided_only_where_all_of_this_holds(
    says: bool, intact: bool, lost: bool, spent: tuple[Rung, ...]
) -> None:
    found = verdict(says=says, intact=intact, lost=lost, spent=spent)
    may = says and intact and not lost and AGAIN not in spent
    assert (found.rung is AGAIN) == may
    if may:
        assert (found.ranks, found.moved, found.moves, found.fence) == ((), (), None, ()), "nobody is touched"
    elif not lost:
        assert found.rung is (ANEW if BACK in spent else BACK)
    reasons = [line for line in found.tried if line.startswith("RETRY_STEP")]
    assert len(reasons) == (intact and not lost), "a torn state is no question of rungs"
    if reasons and not says:
        assert reasons == ["RETRY_STEP: the job does not say that it can do a step again (`restartPolicy.retryStep`)"]


def flapped(*, says: bool = True) -> World:
    """A job that runs, and whose ranks have just said that they cannot go on."""
    world = World(4, policy=PATIENT)
    world.submit(spec("moe", 4, restart_policy=RestartPolicy(retry_step=says)))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(3)
    world.gangs.flap(world.job("moe").uid)
    world.run(1)
    return world


def starts(world: World) -> list[r.GenerationStarted]:
    entries = world.journal.newest(1_000, types=("GenerationStarted",))
    found = [r.decode(entry.type, entry.version, entry.body) for entry in entries]
    return [record for record in found if isinstance(record, r.GenerationStarted)]


@pytest.mark.parametrize("says", [True, False])
def test_it_is_a_generation_of_its_own_in_which_all_keep_process_and_state(says: bool) -> None:
    world = flapped(says=says)
    before = world.job("moe")
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING and world.job("moe").generation > 1)
    after, (_, record) = world.job("moe"), starts(world)
    assert (record.generation, record.keeps_state) == (2, says), "what carries the older number is refused, as ever"
    assert (record.hosts, record.changed_ranks) == ((), ())
    assert after.rank_host.tolist() == before.rank_host.tolist()
    recovery = after.recoveries[-1]
    assert (recovery.rung, recovery.steps_lost) == ((AGAIN, 0) if says else (BACK, recovery.steps_lost))
    assert recovery.restore_step == record.restore_step
    if says:
        assert record.restore_step > 0
        assert not record.restore_id


def test_a_rank_that_is_lost_before_the_verdict_takes_the_state_with_it() -> None:
    world = flapped()
    world.kill_rank("moe", 2)
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING and world.job("moe").generation > 1)
    assert [record.keeps_state for record in starts(world)[1:]] == [False]
    assert world.job("moe").recoveries[-1].rung != AGAIN


@pytest.mark.parametrize(
    ("waited_s", "session", "liveness", "decided"),
    [
        (PATIENCE_S + 1, True, NodeLiveness.ALIVE, True),
        (PATIENCE_S - 1, True, NodeLiveness.ALIVE, False),
        (PATIENCE_S + 1, False, NodeLiveness.ALIVE, False),
        (PATIENCE_S + 1, True, NodeLiveness.SUSPECT, False),
        (PATIENCE_S + 1, True, NodeLiveness.UNKNOWN, False),
    ],
)
def test_ranks_that_wait_are_believed_only_while_every_node_of_the_job_is_seen(
    waited_s: float, session: bool, liveness: NodeLiveness, decided: bool
) -> None:
    """What they wait for may have been lost on a node that does not say so now."""
    world = flapped()
    state, job = world.state().fork(), world.job("moe")
    fleet = state.own_fleet()
    fleet.session, fleet.liveness = fleet.session.copy(), fleet.liveness.copy()
    node = job.nodes()[-1]
    fleet.session[node], fleet.liveness[node] = session, liveness
    begun_ns = since(job, 0)
    assert begun_ns is not None
    draft = Draft(state, begun_ns + round(waited_s * NS_PER_S), world.soft, PATIENT)
    pause(draft, job)
    assert [getattr(record, "intact", None) for record in draft.records] == [True] * decided


@pytest.mark.parametrize("job_state", [JobState.STARTING, JobState.RECOVERING, JobState.RUNNING])
def test_a_job_that_is_being_recovered_is_left_alone(job_state: JobState) -> None:
    world = flapped()
    job = replace(world.job("moe"), state=job_state, incident=Incident(0, 0, 0, (), 10, "it broke"))
    draft = Draft(world.state(), world.now_ns + seconds(10 * PATIENCE_S), world.soft, PATIENT)
    pause(draft, job)
    assert draft.records == []
    pause(draft, replace(job, incident=None))
    assert len(draft.records) == (job_state is JobState.RUNNING)
