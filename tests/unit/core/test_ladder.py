"""Rungs: what each would cost, which is taken, what is remembered of those that failed, and how long each has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controlplane.core.fleet import Fleet
from controlplane.core.jobs import Incident, Job, LostRank, Recovery, Restart
from controlplane.core.recovery.decide import decide
from controlplane.core.recovery.ladder import Option, cheapest, deadline_ns, ranks_text, spans
from controlplane.core.recovery.phase_times import LadderPolicy, PhaseTimes, measure, quantile
from controlplane.core.recovery.ruling import Circumstances, owes
from controlplane.core.spec import Budget, Elastic, JobRule, Match, Parallel, RestartPolicy, RuleAction, SparePolicy
from controlplane.core.units import NS_PER_S, ms, seconds
from controlplane.core.vocabulary import Blame, Phase, RankState, Rung
from tests.support.fleets import fleet, lose, running, spoil
from tests.support.world import spec

NOW = 1_000 * NS_PER_S
AT = Circumstances(now_ns=NOW, step=10)
POLICY = RestartPolicy(infrastructure=Budget(2, 60_000))


def loss(rank: int, *, consequence: bool = False) -> LostRank:
    return LostRank(rank, rank + 1, "it broke", Blame.INFRASTRUCTURE, NOW - 1, f"evidence {rank}", consequence)


def hurt(site: Fleet, *ranks: int, spares: tuple[int, ...] = (2,), **incident: object) -> Job:
    wanted = spec(restart_policy=POLICY, spares=SparePolicy(1))
    job = running(wanted, [(0, (0,)), (0, (1,)), (1, (0,)), (1, (1,))], site, spares)
    lose(job, *ranks)
    job.incident = replace(Incident(0, 0, 0, tuple(loss(k) for k in ranks), 10, "it broke"), **incident)  # type: ignore[arg-type]
    return job


def park(job: Job, *nodes: int) -> None:
    """Parked processes, one for each node named."""
    hosts, count = job.hosts, len(nodes)
    first = int(hosts.serial.max()) + 1

    def more(column: np.ndarray, values: object) -> np.ndarray:
        return np.append(column, np.full(count, 0, dtype=column.dtype) + np.array(values, dtype=column.dtype))

    job.hosts = replace(
        hosts, serial=more(hosts.serial, np.arange(first, first + count)), node=more(hosts.node, nodes),
        state=more(hosts.state, RankState.PARKED), rank=more(hosts.rank, -1), generation=more(hosts.generation, 0),
        pid=more(hosts.pid, 0), host_pid=more(hosts.host_pid, 0), since_ms=more(hosts.since_ms, 0), empty=more(hosts.empty, 0),
    )  # fmt: skip


def took(rung: Rung, total_s: float, *, warm: bool = False, overtaken: bool = False) -> Recovery:
    phases = dict.fromkeys((phase.value for phase in Phase), round(total_s / 5 * NS_PER_S))
    return Recovery(2, "c", rung, (1,), 0, 0, "", phases, overtaken, "infrastructure", 0, warm)


# -- prices --------------------------------------------------------------------------------------------------------------


def test_a_warm_spare_beats_a_cold_start_in_place() -> None:
    site = fleet(3)
    job = hurt(site, 2)
    assert decide(job, site, AT).rung is Rung.RESTART_RANK, "both would start cold: nobody moves"
    park(job, 2)
    verdict = decide(job, site, AT)
    assert (verdict.rung, verdict.warm) == (Rung.REPLACE_RANK, True)
    assert verdict.moves is not None
    assert verdict.moves.nodes == (2,)
    park(job, 1)
    assert decide(job, site, AT).rung is Rung.RESTART_RANK, "warm in place and warm elsewhere cost the same"


def test_a_rule_has_its_rung_where_it_can_work() -> None:
    site = fleet(3)
    for action, rung in ((RuleAction.RESTART_RANK, Rung.RESTART_RANK), (RuleAction.RETRY_STEP, Rung.RESTART_RANK)):
        job = hurt(site, 2)
        job.spec = replace(job.spec, restart_policy=replace(POLICY, job_rules=(JobRule(Match(), action),)))
        park(job, 2)
        assert decide(job, site, AT).rung is rung, "although a warm spare would be faster"


def test_measured_times_change_the_choice() -> None:
    site = fleet(3)
    job = hurt(site, 2)
    park(job, 2)
    slow = PhaseTimes(
        own={("REPLACE_RANK warm", Phase.PLACE): (500.0,) * 3, ("RESTART_RANK cold", Phase.PLACE): (1.0,) * 3}
    )
    assert decide(job, site, AT, slow).rung is Rung.RESTART_RANK


def test_every_price_is_written_down() -> None:
    site = fleet(3)
    job = hurt(site, 0, 1)
    spoil(site, 0, "DEAD")
    verdict = decide(job, site, AT)
    assert verdict.tried == (
        "RESTART_RANK: hardware of ranks 0-1 is not usable",
        "REPLACE_RANK: ranks 0-1 fit on n2, processes have to start, expected loss 1,040 accelerator-s",
    )


def test_the_cheapest_open_option_wins_and_ties_disturb_least() -> None:
    options = (
        Option(Rung.ROLLBACK, "", blocked="no", loss=1.0),
        Option(Rung.REPLACE_RANK, "", loss=5.0),
        Option(Rung.RESTART_RANK, "", loss=5.0),
        Option(Rung.RESTART_JOB, "", loss=9.0),
    )
    assert cheapest(options) is options[2]
    assert cheapest(options, Rung.ROLLBACK) is options[2], "the next dearer rung that can work"
    assert cheapest(options, Rung.RESTART_JOB) is options[3]
    assert cheapest(options[:1]) is None


# -- what has failed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "intact", "spent", "rung"),
    [
        (True, True, (), Rung.RETRY_STEP),
        (True, False, (), Rung.ROLLBACK),
        (False, True, (), Rung.ROLLBACK),
        (True, True, ("RETRY_STEP",), Rung.ROLLBACK),
        (True, True, ("RETRY_STEP", "ROLLBACK"), Rung.RESTART_JOB),
    ],
)
def test_who_keeps_everything(retry: bool, intact: bool, spent: tuple[str, ...], rung: Rung) -> None:
    site = fleet(3)
    job = hurt(site, intact=intact, spent_rungs=spent)
    job.spec = replace(job.spec, restart_policy=replace(POLICY, retry_step=retry))
    verdict = decide(job, site, AT)
    assert verdict.rung is rung
    assert verdict.fence == ((1, 2, 3, 4) if rung is Rung.RESTART_JOB else ())


def test_a_node_that_did_not_bring_its_rank_up_is_left() -> None:
    site = fleet(3)
    verdict = decide(hurt(site, 2, spent_nodes=(1,), spent_rungs=("RESTART_RANK",)), site, AT)
    assert (verdict.rung, verdict.moved) == (Rung.REPLACE_RANK, (2,))
    assert verdict.tried[0] == "RESTART_RANK: rank 2 did not come up there"


def test_without_another_place_everybody_starts_anew_where_they_are() -> None:
    site = fleet(2)
    job = hurt(site, 2, spares=(), spent_nodes=(1,))
    verdict = decide(job, site, AT)
    assert (verdict.rung, verdict.moved, verdict.ranks) == (Rung.RESTART_JOB, (), (0, 1, 2, 3))


def test_the_other_spare_when_the_first_did_not_come_up() -> None:
    site = fleet(4)
    job = hurt(site, 2, spent_nodes=(1, 2))
    verdict = decide(job, site, AT)
    assert verdict.moves is not None
    assert verdict.moves.nodes == (3,)


# -- who pays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({}, True),
        ({"charged_generation": 1}, False),
        ({"charged_generation": 0}, True),
        ({"charged_generation": 1, "spent_rungs": ("RESTART_RANK", "REPLACE_RANK")}, False),
        ({"charged_generation": 1, "spent_rungs": ("RESTART_JOB",)}, True),
    ],
)
def test_an_incident_pays_once_for_each_round(changes: dict[str, object], due: bool) -> None:
    job = hurt(fleet(3), 2, **changes)
    assert job.incident is not None
    assert owes(job, job.incident) is due


def test_what_follows_from_the_failure_is_not_paid_for_again() -> None:
    job = hurt(fleet(3), 2, charged_generation=0, lost=(loss(2, consequence=True),))
    assert job.incident is not None
    assert not owes(job, job.incident)
    job.incident = replace(job.incident, lost=(replace(loss(2), fault_ns=5),))
    job.clock = replace(job.clock, announced_ns=6)
    assert not owes(job, job.incident), "it fell before the generation that follows was announced"


def test_a_paid_incident_is_decided_again_with_an_empty_budget() -> None:
    site = fleet(3)
    job = hurt(site, 2, charged_generation=1)
    job.restarts = (Restart(Blame.INFRASTRUCTURE, NOW - NS_PER_S, 10),) * 2
    verdict = decide(job, site, AT)
    assert (verdict.rung, verdict.charged) == (Rung.RESTART_RANK, False)
    job.incident = replace(job.incident, charged_generation=-1) if job.incident else None
    assert decide(job, site, AT).rung is Rung.FAIL


# -- time ----------------------------------------------------------------------------------------------------------------


def test_measured_values_are_quantiles_of_the_job_itself_first() -> None:
    site = fleet(3)
    job, other = hurt(site, 2), running(spec("b"), [(2, (0,))], site)
    other.uid = "b-8"
    policy = LadderPolicy(samples=3)
    other.recoveries = tuple(took(Rung.RESTART_RANK, total) for total in (100.0, 200.0, 300.0))
    times = measure(job, [job, other], policy)
    assert times.expected_s(Rung.RESTART_RANK, warm=False) == pytest.approx(200.0)
    job.recoveries = (
        *(took(Rung.RESTART_RANK, total) for total in (10.0, 20.0, 30.0)),
        took(Rung.RESTART_RANK, 9_000.0, overtaken=True),
    )
    times = measure(job, [job, other], policy)
    assert times.expected_s(Rung.RESTART_RANK, warm=False) == pytest.approx(20.0)
    assert times.late_after_s(Rung.RESTART_RANK, warm=False) == pytest.approx(30.0 * policy.deadline_margin)
    assert times.late_after_s(Rung.RESTART_JOB, warm=False) is None, "nobody has measured it"


def test_what_is_the_same_work_is_measured_together() -> None:
    job = hurt(fleet(3), 2)
    job.recoveries = tuple(took(Rung.REPLACE_RANK, 5.0) for _ in range(3))
    times = measure(job, [job], LadderPolicy(process_cold_s=40.0))
    assert times.expected_s(Rung.RESTART_RANK, warm=False) == pytest.approx(40.0 + 4.0), (
        "groups, restore, step: as measured"
    )


@pytest.mark.parametrize(
    ("usual_s", "limit_s"),
    [(None, 180.0), (1.0, 10.0), (20.0, 60.0), (100.0, 180.0)],
    ids=["nothing measured", "floor", "a multiple", "cap"],
)
def test_the_deadline_of_a_rung(usual_s: float | None, limit_s: float) -> None:
    job = hurt(fleet(3), 2)
    own = {} if usual_s is None else measure_all(usual_s)
    option = Option(Rung.RESTART_RANK, "", ranks=(2,))
    assert deadline_ns(job, option, PhaseTimes(own=own), NOW) == NOW + seconds(limit_s)


def measure_all(total_s: float) -> dict[tuple[str, Phase], tuple[float, ...]]:
    phases = (Phase.START, Phase.RENDEZVOUS, Phase.RESTORE, Phase.FIRST_STEP)
    kept = {("survivors", phase): (total_s / 5,) * 3 for phase in phases}
    return {**kept, ("RESTART_RANK cold", Phase.PLACE): (total_s / 5,) * 3}


def test_a_rung_that_starts_nothing_has_only_the_join_time() -> None:
    job = hurt(fleet(3))
    assert deadline_ns(job, Option(Rung.ROLLBACK, ""), PhaseTimes(), NOW) == NOW + ms(job.spec.timeouts.join_ms)


def test_quantiles() -> None:
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.95)] == [1.0, 2.0, 3.0]


# -- size ----------------------------------------------------------------------------------------------------------------


def test_ranks_are_named_in_spans() -> None:
    assert spans(()) == "none"
    assert spans((5, 0, 1, 2)) == "0-2, 5"
    assert spans(range(0, 100, 2)) == "0, 2, 4, 6, 8, 10, 12, 14 and more, 50 in all"
    assert [ranks_text((3,)), ranks_text((3, 4))] == ["rank 3", "ranks 3-4"]


def test_a_verdict_on_many_ranks_stays_small() -> None:
    """A super-pod of 1,000 nodes is lost from a job of 6,000: nothing that is told of it grows with its ranks."""
    nodes, width = 6_000, 8
    site = wide(nodes + 1_000, width)
    ranks = nodes * width
    job = Job("big", "big-1", 1, spec("big", ranks, parallel=Parallel(tp=8, dp=ranks // 8), elastic=Elastic(10)), running(
        spec("small"), [(nodes, (0,))], site).state, 0, generation=1)  # fmt: skip
    job.rank_node = np.repeat(np.arange(nodes), width).astype(np.int32)
    job.rank_acc = np.tile(np.arange(width), nodes).reshape(-1, 1).astype(np.int32)
    job.rank_host = np.full(ranks, -1, dtype=np.int32)
    site.acc_owner[:nodes] = 1
    site.liveness[:1_000] = 4
    job.incident = Incident(0, 0, 0, (loss(0),), 10, "power")
    verdict = decide(job, site, AT)
    assert (verdict.rung, len(verdict.dropped)) == (Rung.SHRINK, 1), "7,999 places for 8,000 ranks: one replica leaves"
    assert len("".join((*verdict.tried, *verdict.evidence))) < 2_000


def wide(nodes: int, width: int) -> Fleet:
    one = fleet(1, width)
    site = Fleet()
    for name in Fleet.__dataclass_fields__:
        value = getattr(one, name)
        setattr(site, name, np.repeat(value, nodes, axis=0) if isinstance(value, np.ndarray) else value)
    site.facts = tuple(replace(one.facts[0], name=f"n{i}") for i in range(nodes))
    site.index = {facts.name: i for i, facts in enumerate(site.facts)}
    return site
