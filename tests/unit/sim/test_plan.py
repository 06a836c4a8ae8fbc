"""What losing part of a site would lead to, on a small site that the simulator has brought up."""

from __future__ import annotations

import pytest

from controlplane.catalogues import built_in
from controlplane.core.draft import Policy
from controlplane.core.export import Export, JobProgress, UnreadableExport
from controlplane.core.units import seconds
from controlplane.core.vocabulary import Phase
from controlplane.sim.ettr import phases
from controlplane.sim.ettr.conduct import Cause, ours
from controlplane.sim.gang import Gang
from controlplane.sim.gang_shape import Shape
from controlplane.sim.plan import NothingLost, Verdict, plan, select

STEP_S = 5.0


@pytest.fixture(scope="module")
def site() -> Gang:
    """Racks of four nodes; a job on twelve of them, two warm spares, two more nodes."""
    gang = Gang(Shape(12, 4, rack_nodes=4, accelerators=2), ours(phases.load(), warm_nodes=2))
    gang.bring_up()
    gang.run(600.0)
    return gang


def export(gang: Gang) -> Export:
    step, at_ns = gang.last_step()
    steps = {gang.uid: JobProgress(step, at_ns, STEP_S)}
    return Export.from_json(Export(gang.engine.state, steps, gang.policy, gang.kernel.now_ns, "0").to_json())


def test_limits_and_fault_tables_travel_with_the_state(site: Gang) -> None:
    policy = Policy(catalogue=built_in())
    text = Export(site.engine.state, {}, policy, site.kernel.now_ns, "0").to_json()
    assert policy.catalogue.rules
    assert Export.from_json(text).policy == policy


def lose(gang: Gang, key: str, value: str) -> Verdict:
    exported = export(gang)
    return plan(exported, select(exported.state, key, value))


def test_a_lost_node_is_replaced_by_a_warm_spare(site: Gang) -> None:
    name = site.engine.state.fleet.name(int(site.job.rank_node[3]))
    verdict = lose(site, "node", name)
    (job,) = verdict.jobs
    assert (job.rung, job.ranks, job.moved) == ("REPLACE_RANK", 1, 1)
    assert verdict.recovers
    assert verdict.nodes == (name,)
    assert set(job.spares) <= {site.engine.state.fleet.name(node) for node in site.job.spare_nodes}
    assert job.back_s is not None
    assert job.decide_s is not None
    ranks_s = sum(
        verdict.durations[p].seconds for p in (Phase.START, Phase.RENDEZVOUS, Phase.RESTORE, Phase.FIRST_STEP)
    )
    assert job.back_s == pytest.approx(job.decide_s + ranks_s, abs=1.0)


def test_a_lost_rack_of_more_nodes_than_are_left_stops_the_job_and_says_what_it_waits_for(site: Gang) -> None:
    racks = {fact.label("rack") for fact in site.engine.state.fleet.facts}
    exported = export(site)
    lost = [n for rack in sorted(racks)[:2] for n in select(exported.state, "rack", rack)]
    verdict = plan(exported, lost)
    assert not verdict.recovers
    (job,) = verdict.jobs
    assert job.back_s is None
    assert job.waits


def test_a_lost_spare_touches_no_job(site: Gang) -> None:
    spare = site.engine.state.fleet.name(site.job.spare_nodes[0])
    verdict = lose(site, "node", spare)
    assert verdict.jobs == ()
    assert verdict.untouched == ("gang",)
    assert verdict.recovers


def test_the_exported_site_itself_is_not_changed(site: Gang) -> None:
    exported = export(site)
    before = exported.state.digest()
    plan(exported, select(exported.state, "rack", "r000"))
    assert exported.state.digest() == before


def test_phases_are_taken_from_the_sites_own_recoveries() -> None:
    gang = Gang(Shape(6, 3, rack_nodes=3, accelerators=1), ours(phases.load(), warm_nodes=2))
    gang.bring_up()
    gang.after_start(100.0, lambda: gang.strike_rank(2, Cause.PROCESS))
    gang.run(400.0)
    durations = lose(gang, "node", gang.engine.state.fleet.name(int(gang.job.rank_node[0]))).durations
    assert durations[Phase.RENDEZVOUS].source == "median of 1 recoveries of this site"
    assert durations[Phase.RENDEZVOUS].seconds == pytest.approx(phases.load()["rebuild_communicators.affected_groups"])


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("rack", "r9", "there is no rack r9; there are r000, r001"),
        ("node", "nine", "there is no node nine"),
        ("switch", "s1", "no node has a label switch; there are node, rack"),
    ],
)
def test_what_does_not_exist_cannot_be_lost(site: Gang, key: str, value: str, says: str) -> None:
    with pytest.raises(NothingLost) as caught:
        select(site.engine.state, key, value)
    assert says in str(caught.value)


def test_an_export_holds_no_identities_and_no_answers(site: Gang) -> None:
    exported = export(site)
    assert site.engine.state.answers
    assert not exported.state.answers
    assert not exported.state.identity.identities
    assert exported.at_ns - site.kernel.now_ns < seconds(1.0)


@pytest.mark.parametrize("text", ["", "{}", '{"format": 99}', "[1]"])
def test_what_is_no_export_is_refused(text: str) -> None:
    with pytest.raises(UnreadableExport):
        Export.from_json(text)


def test_a_plan_of_fifty_thousand_ranks_through_the_export_of_their_site() -> None:
    """A rack goes onto spares; 64 racks at once find no room, and the plan says what they wait for and is told of on the way."""
    gang = Gang(Shape(6_186, 64, ranks_per_node=8, rack_nodes=16), ours(phases.load(), warm_nodes=24))
    gang.bring_up()
    exported = export(gang)
    rack = plan(exported, select(exported.state, "rack", "r002"))
    assert [(job.rung, job.ranks, job.moved) for job in rack.jobs] == [("REPLACE_RANK", 128, 128)]
    assert len(rack.jobs[0].spares) == 16
    many = sorted(node for number in range(64) for node in select(exported.state, "rack", f"r{number:03}"))
    heard: list[tuple[float, int, int]] = []
    pod = plan(exported, many, lambda *told: heard.append(told))
    assert [(job.rung, job.ranks, job.state) for job in pod.jobs] == [("SUSPEND", 8_192, "SUSPENDED")]
    assert "no place for 8192 ranks" in pod.jobs[0].waits
    assert not pod.recovers
    assert heard[-1][1:] == (1, 1)
    assert heard == sorted(heard)
