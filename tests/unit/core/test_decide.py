"""The recovery ladder: one incident, one verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.core.evidence import Facts
from controlplane.core.fleet import Fleet
from controlplane.core.jobs import Hosts, Incident, Job, LostRank, Restart, root_cause
from controlplane.core.placement.gang import Placement
from controlplane.core.recovery.decide import decide
from controlplane.core.recovery.ruling import Circumstances
from controlplane.core.recovery.rungs import MAX_FAILED_GENERATIONS, misplaced, survivors, unsure
from controlplane.core.spec import (
    Backoff,
    Budget,
    JobRule,
    Match,
    NodeAction,
    NodeRule,
    RestartPolicy,
    RuleAction,
    SparePolicy,
)
from controlplane.core.units import NS_PER_S, ms
from controlplane.core.vocabulary import AcceleratorState, Blame, Rung
from tests.support.fleets import SPOILED, fleet, lose, running, spoil
from tests.support.world import spec

NOW = 1_000 * NS_PER_S
AT = Circumstances(now_ns=NOW, step=10)
POLICY = RestartPolicy(
    user=Budget(2, 60_000, 100), infrastructure=Budget(2, 60_000), backoff=Backoff(1_000, 2.0, 5_000)
)
PLACES = [(0, (0,)), (0, (1,)), (1, (0,)), (1, (1,))]


def loss(rank: int, at_s: float = 900.0, blame: Blame = Blame.INFRASTRUCTURE, *, consequence: bool = False) -> LostRank:
    return LostRank(
        rank, rank + 1, f"rank {rank} was lost", blame, round(at_s * NS_PER_S), f"evidence {rank}", consequence
    )


def hurt(site: Fleet, *lost: LostRank, attempts: int = 0, spares: tuple[int, ...] = (2,)) -> Job:
    job = running(spec(restart_policy=POLICY, spares=SparePolicy(1)), PLACES, site, spares)
    lose(job, *(entry.rank for entry in lost))
    job.incident = Incident(0, 0, 0, lost, 10, "the cause", attempts=attempts)
    return job


def test_nobody_lost_is_a_rollback() -> None:
    site = fleet(3)
    verdict = decide(hurt(site), site, AT)
    assert (verdict.rung, verdict.reason, verdict.ranks) == (Rung.ROLLBACK, "the cause", ())
    assert verdict.charged
    assert verdict.evidence == ("the cause",)


def test_good_hardware_restarts_in_place() -> None:
    site = fleet(3)
    verdict = decide(hurt(site, loss(2)), site, AT)
    assert (verdict.rung, verdict.ranks, verdict.moved) == (Rung.RESTART_RANK, (2,), ())
    assert verdict.not_before_ns == NOW, "the machine's failures do not wait"


def test_rank_0_is_an_ordinary_rank() -> None:
    site = fleet(3)
    verdict = decide(hurt(site, loss(0)), site, AT)
    assert (verdict.rung, verdict.ranks) == (Rung.RESTART_RANK, (0,))


@pytest.mark.parametrize("how", [*SPOILED, "failed devices"])
def test_bad_hardware_moves_to_the_spare(how: str) -> None:
    site = fleet(3)
    job = hurt(site, loss(0), loss(1))
    spoil(site, 0, how)
    verdict = decide(job, site, AT)
    assert (verdict.rung, verdict.ranks, verdict.moved) == (Rung.REPLACE_RANK, (0, 1), (0, 1))
    assert isinstance(verdict.moves, Placement)
    assert verdict.moves.nodes == (2, 2)
    assert verdict.fence == ()


def test_only_ranks_on_bad_devices_move() -> None:
    site = fleet(3)
    job = hurt(site, loss(0), loss(1))
    site.acc_state[0, 0] = AcceleratorState.FAILED
    verdict = decide(job, site, AT)
    assert (verdict.rung, verdict.ranks, verdict.moved) == (Rung.REPLACE_RANK, (0, 1), (0,))


def test_all_at_once_is_a_restart_of_the_job() -> None:
    site = fleet(3)
    verdict = decide(hurt(site, *(loss(k) for k in range(4))), site, AT)
    assert (verdict.rung, verdict.ranks, verdict.fence) == (Rung.RESTART_JOB, (0, 1, 2, 3), ())


def test_generations_that_keep_failing_give_survivors_up() -> None:
    site = fleet(3)
    verdict = decide(hurt(site, loss(2), attempts=MAX_FAILED_GENERATIONS), site, AT)
    assert (verdict.rung, verdict.ranks) == (Rung.RESTART_JOB, (0, 1, 2, 3))
    assert verdict.fence == (1, 2, 4), "the survivors' processes"
    assert decide(hurt(fleet(3), loss(2), attempts=MAX_FAILED_GENERATIONS - 1), fleet(3), AT).rung is Rung.RESTART_RANK


MOVED = RestartPolicy(job_rules=(JobRule(Match(), RuleAction.REPLACE_RANK),))


@pytest.mark.parametrize("lost", [(2,), (0, 1, 2, 3)], ids=["one rank", "all ranks"])
def test_a_rule_that_moves_ranks_does_not_keep_a_job_off_good_hardware(lost: tuple[int, ...]) -> None:
    site = fleet(2)
    job = hurt(site, *(loss(rank) for rank in lost), spares=())
    job.spec = replace(job.spec, restart_policy=MOVED)
    verdict = decide(job, site, AT)
    assert (verdict.rung, verdict.moved) == (Rung.RESTART_JOB, ()), verdict.tried


@pytest.mark.parametrize("readmitted", [False, True], ids=["not checked", "checked since"])
def test_results_that_disagree_again_come_back_only_to_a_node_that_was_checked(*, readmitted: bool) -> None:
    site = fleet(2)
    wrong = replace(loss(2), facts=Facts(exit_code=17))
    job = hurt(site, wrong, spares=())
    verdict = decide(job, site, replace(AT, readmitted=readmitted))
    assert verdict.rung is (Rung.RESTART_JOB if readmitted else Rung.SUSPEND), verdict.tried
    roomy = fleet(3)
    verdict = decide(hurt(roomy, wrong), roomy, replace(AT, readmitted=readmitted))
    assert (verdict.rung, verdict.moved) == (Rung.REPLACE_RANK, (2,)), verdict.tried


def test_the_place_of_a_root_is_judged_once_and_is_where_the_root_was() -> None:
    site = fleet(3)
    wrong = replace(loss(2), facts=Facts(exit_code=17))
    job = hurt(site, wrong)
    first = decide(job, site, AT)
    assert first.ruling.leaving == {1}
    assert first.ruling.offence is not None
    job.rank_node[2] = 2  # it has moved there, and did not come up
    later = decide(job, site, replace(AT, offences=(first.ruling.offence,)))
    assert later.ruling.leaving == frozenset()
    assert later.ruling.offence == first.ruling.offence


@pytest.mark.parametrize("taken", [False, True], ids=["no rule", "a rule takes the root's node out"])
def test_no_rank_moves_to_a_node_that_the_same_verdict_takes_out(*, taken: bool) -> None:
    site = fleet(2, width=3)
    job = hurt(site, loss(0, 899.0), loss(3), spares=())
    cordon = NodeRule(Match(), NodeAction.CORDON)
    job.spec = replace(job.spec, restart_policy=replace(POLICY, node_rules=(cordon,) * taken))
    spoil(site, 1, "DEAD")
    verdict = decide(job, site, AT)
    assert verdict.ruling.leaving == frozenset({0} if taken else ())
    assert (verdict.rung, verdict.moved) == ((Rung.SUSPEND, ()) if taken else (Rung.REPLACE_RANK, (3,))), verdict.tried


def test_no_place_suspends_without_a_charge() -> None:
    site = fleet(2)
    job = hurt(site, loss(0), loss(1), spares=())
    spoil(site, 0, "DEAD")
    verdict = decide(job, site, AT)
    assert verdict.rung is Rung.SUSPEND
    assert not verdict.charged
    assert "no place for 2 ranks" in verdict.reason
    assert "rank 0 was lost" in verdict.reason


@pytest.mark.parametrize("blame", [Blame.USER, Blame.INFRASTRUCTURE])
def test_spent_budget_fails_with_the_last_error(blame: Blame) -> None:
    site = fleet(3)
    job = hurt(site, loss(2, blame=blame))
    job.restarts = (Restart(blame, NOW - NS_PER_S, 10),) * 2
    job.last_error = "ValueError: boom"
    verdict = decide(job, site, AT)
    assert verdict.rung is Rung.FAIL
    assert not verdict.charged
    assert f"{blame.value}: 2 of 2 used" in verdict.reason
    assert verdict.reason.endswith("last error: ValueError: boom")


def test_the_other_ledger_does_not_count() -> None:
    site = fleet(3)
    job = hurt(site, loss(2, blame=Blame.USER))
    job.restarts = (Restart(Blame.INFRASTRUCTURE, NOW - NS_PER_S, 10),) * 2
    assert decide(job, site, AT).rung is Rung.RESTART_RANK


def test_the_users_failures_wait_longer_each_time() -> None:
    site = fleet(3)
    job = hurt(site, loss(2, blame=Blame.USER))
    assert decide(job, site, AT).not_before_ns == NOW
    job.restarts = (Restart(Blame.USER, NOW - NS_PER_S, 10),)
    assert decide(job, site, AT).not_before_ns == NOW + ms(1_000)


@pytest.mark.parametrize(
    ("lost", "root"),
    [
        ((), None),
        ((loss(3, 2.0), loss(1, 1.0)), 1),
        ((loss(3, 1.0), loss(1, 1.0)), 1),
        # what follows from another loss is never the cause, however early its clock says it was
        ((loss(0, 1.0, consequence=True), loss(2, 5.0, Blame.USER)), 2),
        ((loss(2, 5.0, consequence=True), loss(1, 4.0, consequence=True)), 1),
    ],
)
def test_root_cause_is_the_earliest_that_is_no_consequence(lost: tuple[LostRank, ...], root: int | None) -> None:
    found = root_cause(lost)
    assert (found.rank if found else None) == root


def test_the_root_cause_decides_who_pays() -> None:
    site = fleet(3)
    user = loss(2, 5.0, Blame.USER)
    verdict = decide(hurt(site, user, loss(0, 6.0), loss(1, 4.0, consequence=True)), site, AT)
    assert (verdict.blame, verdict.reason) == (Blame.USER, "rank 2 was lost")
    assert len(verdict.evidence) == 3


def test_every_verdict_names_rungs_and_budgets() -> None:
    site = fleet(3)
    verdict = decide(hurt(site, loss(2)), site, AT)
    assert verdict.tried == (
        "RESTART_RANK: hardware good, processes have to start, expected loss 1,040 accelerator-s",
        "REPLACE_RANK: rank 2 fits on n2, processes have to start, expected loss 1,040 accelerator-s",
    ), "equal prices: the rung that moves nobody is taken"
    assert [text.partition(":")[0] for text in verdict.budgets] == [blame.value for blame in Blame]


def test_without_incident_there_is_nothing_to_decide() -> None:
    site = fleet(3)
    job = running(spec(), PLACES, site)
    with pytest.raises(ValueError, match="no incident"):
        decide(job, site, AT)


def test_survivors_hold_rank_and_process() -> None:
    job = hurt(fleet(3), loss(2))
    assert survivors(job).tolist() == [True, True, False, True]
    job.hosts = Hosts.none()
    assert survivors(job).tolist() == [False] * 4


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("SUSPECT", True),
        ("no session", True),
        ("no raylet", True),
        ("UNKNOWN", False),
        ("DEAD", False),
        ("cordoned", False),
    ],
)
def test_only_what_is_hidden_is_worth_a_wait(how: str, expected: bool) -> None:
    site = fleet(3)
    job = hurt(site, loss(0))
    spoil(site, 0, how)
    assert misplaced(job, site, (0,)) == (0,)
    assert (unsure(job, site, (0,)) == (0,)) is expected
    site.acc_state[0, 0] = AcceleratorState.FAILED
    assert unsure(job, site, (0,)) == ()
