"""Quarantine, checks, trial and the words of operators, on the simulated site."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.catalogues import built_in
from controlplane.core import events as ev
from controlplane.core.draft import Answer, Policy, QuarantinePolicy, Refusal
from controlplane.core.health.suspicion import SuspicionPolicy
from controlplane.core.jobs import Exit
from controlplane.core.spec import JobRule, Match, NodeAction, NodeRule, RestartPolicy, RuleAction, SparePolicy
from controlplane.core.vocabulary import AcceleratorState, Assertion, JobState, NodeLiveness, NodeService, Rung
from tests.support.world import World, spec

DAY_S = 86_400
POLICY = Policy(
    suspicion=SuspicionPolicy(dead_without_witness_s=20.0), catalogue=built_in(),
    quarantine=QuarantinePolicy(trial_ms=100_000, memory_ms=DAY_S * 1_000, trial_most_ms=350_000, retry_ms=1_000),
)  # fmt: skip
BROKEN = ev.FaultRow("node", "BOARD-7", "simulated")
NOTHING_HELD = SparePolicy()


def site(nodes: int = 4, racks: int = 1, accelerators: int = 2) -> World:
    return World(nodes, accelerators, racks, POLICY)


def service(world: World, name: str) -> NodeService:
    fleet = world.state().fleet
    return NodeService(int(fleet.service[fleet.index[name]]))


def cordons(world: World, name: str) -> dict[str, str]:
    fleet = world.state().fleet
    return {cordon.owner: cordon.reason for cordon in fleet.facts[fleet.index[name]].cordons}


def fall_ill(world: World, name: str, row: ev.FaultRow = BROKEN) -> None:
    world.agents.raise_fault(world.nodes[name], row)


def recover(world: World, name: str, row: ev.FaultRow = BROKEN) -> None:
    fall_ill(world, name, replace(row, assertion=Assertion.RECOVERED))


def running(world: World, ranks: int = 4, name: str = "moe", **changes: object) -> World:
    world.submit(spec(name, ranks, **{"spares": NOTHING_HELD, **changes}))
    world.run_until(lambda: world.job(name).state is JobState.RUNNING)
    return world


def told(world: World, word: str) -> list[str]:
    return [line for line in world.lines if line.split()[1] == word]


# -- the way back -----------------------------------------------------------------------------------------------------


def test_trials_grow_with_each_repair_of_the_same_part_up_to_a_limit() -> None:
    world, lengths = site(), []
    for _ in range(4):
        fall_ill(world, "node-00")
        world.run_until(lambda: service(world, "node-00") is NodeService.PROBATION)
        lengths.append(world.state().health.stays["node-00"].next_ns - world.now_ns)
        world.run(400, 5)
        assert service(world, "node-00") is NodeService.IN_SERVICE
    assert [round(length / 1e9) for length in lengths] == [100, 200, 350, 350]


def test_repairs_of_long_ago_count_no_more() -> None:
    world = site()
    for pause_s in (DAY_S + 10, 1):
        fall_ill(world, "node-00")
        world.run_until(lambda: service(world, "node-00") is NodeService.PROBATION)
        length_s = (world.state().health.stays["node-00"].next_ns - world.now_ns) / 1e9
        assert round(length_s) == 100
        world.run(pause_s, 500)


def test_nobody_is_struck_off_for_life() -> None:
    world = site()
    for _ in range(12):
        fall_ill(world, "node-00")
        world.run(400, 5)
    assert service(world, "node-00") is NodeService.IN_SERVICE
    assert not cordons(world, "node-00")


def test_on_trial_less_is_enough() -> None:
    """What costs others a process costs a node on trial its place."""
    world = site()
    fall_ill(world, "node-00")
    world.run(1)
    for name in ("node-00", "node-01"):
        world.set_fault(name, 0, "SIM-APP")
    assert service(world, "node-00") is NodeService.QUARANTINED
    assert service(world, "node-01") is NodeService.IN_SERVICE
    assert "on trial" in cordons(world, "node-00")["health"]


def test_new_work_goes_to_nodes_on_trial_last() -> None:
    world = site()
    fall_ill(world, "node-00")
    world.run(1)
    assert service(world, "node-00") is NodeService.PROBATION
    running(world, 6)
    assert world.job("moe").nodes() == (1, 2, 3)
    running(world, 2, "late")
    assert world.job("late").nodes() == (0,), "but it goes there"


def test_checks_begin_when_the_node_is_empty() -> None:
    world = running(site(), 2)
    (node,) = {world.process("moe", rank)[0].name for rank in (0, 1)}
    for process in world.nodes[node].live():
        process.obeys = False
    world.cut(node, down=True)  # the fence does not get through
    fall_ill(world, node)
    world.run(10)
    assert service(world, node) is NodeService.QUARANTINED
    assert not told(world, "ChecksStarted")


def test_a_job_that_waits_for_its_own_node_does_not_keep_it_from_its_checks() -> None:
    world = running(site(nodes=2))
    fall_ill(world, "node-00")
    world.run_until(lambda: world.job("moe").state is JobState.SUSPENDED)
    world.run_until(lambda: service(world, "node-00") is NodeService.PROBATION)
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)


def test_a_suspended_job_gives_up_its_processes_on_a_node_in_quarantine() -> None:
    rules = RestartPolicy(
        job_rules=(JobRule(Match(), RuleAction.SUSPEND),), node_rules=(NodeRule(Match(), NodeAction.QUARANTINE),)
    )
    world = running(site(nodes=2), restart_policy=rules)
    node, process = world.process("moe", 0)
    world.agents.exit(process, Exit(observed=True, code=1, group_empty=True))
    world.run_until(lambda: service(world, node.name) is NodeService.PROBATION)
    world.run(60)
    assert world.job("moe").state is JobState.SUSPENDED, "only an operator lets it go on"
    assert isinstance(world.turn(ev.RestartJob("go", "moe", "looked at"))[0], Answer)
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)


def test_a_node_that_dies_in_its_checks_stays_in_quarantine_and_is_checked_again() -> None:
    world = site()
    world.cut("node-00", down=True)  # nothing reaches it: the checks are ordered and not carried out
    fall_ill(world, "node-00")
    world.run(1)
    assert service(world, "node-00") is NodeService.VALIDATING
    world.destroy("node-00")
    world.run(30)
    assert world.state().fleet.liveness[0] == NodeLiveness.DEAD
    assert service(world, "node-00") is NodeService.QUARANTINED
    world.thaw("node-00")
    world.repair("node-00")
    world.run_until(lambda: service(world, "node-00") is NodeService.PROBATION)


@pytest.mark.parametrize("ill", [False, True])
def test_a_dead_node_that_returns_is_checked_only_if_its_fault_says_so(*, ill: bool) -> None:
    world = site()
    if ill:
        world.nodes["node-00"].incurable = True
        fall_ill(world, "node-00")
    world.destroy("node-00")
    world.run(30)
    world.repair("node-00")
    assert service(world, "node-00") is (NodeService.QUARANTINED if ill else NodeService.IN_SERVICE)


def test_what_goes_back_to_its_vendor_is_checked_with_another_part_in_its_place() -> None:
    world = site()
    world.set_fault("node-00", 0, "SIM-DEAD")
    world.run(60, 1)
    assert service(world, "node-00") is NodeService.QUARANTINED
    assert not told(world, "ChecksStarted")
    machine = world.nodes["node-00"]
    rows = machine.devices()
    other = replace(
        rows[0], device=replace(rows[0].device, serial="new", fault_code=""), state=AcceleratorState.HEALTHY
    )
    world.turn(ev.NodeReport("node-00", machine.boot_id, accelerators=(other, rows[1])))
    world.run(1)
    assert told(world, "ChecksStarted")


# -- words of operators -----------------------------------------------------------------------------------------------


def test_an_operators_word_ends_a_quarantine_and_the_same_evidence_does_not_bring_it_back() -> None:
    world = site()
    world.nodes["node-00"].incurable = True
    fall_ill(world, "node-00")
    world.run(2)
    world.turn(ev.UncordonNode("", "node-00", "health"))
    assert service(world, "node-00") is NodeService.IN_SERVICE
    world.agents.snapshot(world.nodes["node-00"])
    world.run(900, 5)
    assert service(world, "node-00") is NodeService.IN_SERVICE
    assert world.state().health.released["node-00"]
    fall_ill(world, "node-00", replace(BROKEN, code="BOARD-8"))
    assert service(world, "node-00") is NodeService.QUARANTINED, "fresh evidence does"


def test_each_owner_takes_back_its_own_reason_only() -> None:
    world = site()
    world.turn(ev.CordonNode("", "node-00", "ann", "look"))
    fall_ill(world, "node-00")
    world.run(1)
    assert service(world, "node-00") is NodeService.PROBATION
    assert cordons(world, "node-00") == {"ann": "look"}
    world.turn(ev.UncordonNode("", "node-00", "ann"))
    assert service(world, "node-00") is NodeService.PROBATION
    refused = world.turn(ev.CordonNode("", "node-00", "health", "mine"))[0]
    assert isinstance(refused, Refusal)
    assert refused.reason == "NOT_YOURS"


def test_a_drain_during_quarantine_and_trial_goes_on_after_them() -> None:
    world = site()
    fall_ill(world, "node-00")
    world.turn(ev.DrainNode("", "node-00", "ann", "firmware"))
    assert service(world, "node-00") is NodeService.QUARANTINED
    world.run(1)
    assert service(world, "node-00") is NodeService.OUT_OF_SERVICE
    world.turn(ev.UncordonNode("", "node-00", "ann"))
    assert service(world, "node-00") is NodeService.PROBATION, "it comes back the way it went: on trial"
    world.turn(ev.DrainNode("", "node-00", "ann", "firmware"))
    world.run(200, 1)
    world.turn(ev.UncordonNode("", "node-00", "ann"))
    world.run(1)
    assert service(world, "node-00") is NodeService.IN_SERVICE


# -- faults and their reach -------------------------------------------------------------------------------------------


def test_seven_good_devices_of_eight_are_a_place() -> None:
    world = site(nodes=1, accelerators=8)
    world.set_fault("node-00", 3, "SIM-MEMORY")
    running(world, 7)
    assert sorted(world.job("moe").rank_acc.ravel().tolist()) == [0, 1, 2, 4, 5, 6, 7]
    assert service(world, "node-00") is NodeService.IN_SERVICE


def test_a_degraded_device_is_a_place() -> None:
    world = site(nodes=1)
    world.set_fault("node-00", 0, "SIM-SLOW")
    assert world.state().fleet.acc_state[0][0] == AcceleratorState.DEGRADED
    running(world, 2)


def test_a_muted_code_takes_no_rank_of_its_job_and_the_device_takes_no_other() -> None:
    world = site()
    running(world, 2, muted_faults=("SIM-MEMORY",))
    running(world, 2, name="other")
    for name in ("moe", "other"):
        world.set_fault(world.process(name, 0)[0].name, 0, "SIM-MEMORY")
    assert world.job("moe").state is JobState.RUNNING
    assert world.job("other").state is JobState.RECOVERING
    assert np_failed(world) == 2


def np_failed(world: World) -> int:
    return int((world.state().fleet.acc_state == AcceleratorState.FAILED).sum())


def test_a_cordon_of_health_goes_with_its_fault() -> None:
    world = running(site(), 2)
    leak = replace(BROKEN, code="SIM-LEAK")
    fall_ill(world, "node-00", leak)
    assert list(cordons(world, "node-00")) == ["health"]
    assert service(world, "node-00") is NodeService.IN_SERVICE
    assert world.job("moe").state is JobState.RUNNING
    recover(world, "node-00", leak)
    assert cordons(world, "node-00") == {}


def test_a_driver_that_lost_its_device_takes_the_rank_and_then_the_node() -> None:
    world = running(site(), 2)
    node = world.process("moe", 0)[0].name
    world.set_fault(node, 0, "SIM-DRIVER")
    assert service(world, node) is NodeService.QUARANTINED
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    assert node not in {world.process("moe", rank)[0].name for rank in (0, 1)}, "the other rank left as well"
    assert world.state().acts == (), "the job was broken already: nothing that works was disturbed"


def test_a_reset_that_does_not_help_isolates() -> None:
    world = site()
    world.nodes["node-00"].incurable = True
    world.set_fault("node-00", 0, "SIM-PAGES")
    assert world.state().fleet.acc_state[0][0] == AcceleratorState.SUSPECT
    world.run(1)
    assert world.state().fleet.acc_state[0][0] == AcceleratorState.FAILED
    assert "a reset did not end it" in world.state().health.on("node-00")[0].note.reason


def test_a_reset_waits_until_the_device_is_idle() -> None:
    world = running(site(), 2)
    node = world.process("moe", 0)[0].name
    world.set_fault(node, 0, "SIM-PAGES")
    world.run(30)
    assert world.job("moe").generation == 1
    assert world.nodes[node].faults
    world.turn(ev.CancelJob("", "moe", ""))
    world.run(2)
    assert not world.nodes[node].faults


def test_counters_and_standing_faults_survive_a_restart_of_the_controller() -> None:
    world = site()
    fall_ill(world, "node-00", ev.FaultRow("accelerator/0", "SIM-ECC", "simulated", assertion=Assertion.ONCE))
    fall_ill(world, "node-01", replace(BROKEN, code="SIM-LEAK"))
    before = world.state().health
    world.restart_controller()
    world.run(2)
    after = world.state().health
    assert after.sightings == before.sightings
    assert after.standing == before.standing


def test_a_fault_told_twice_happened_once() -> None:
    world = site()
    row = ev.FaultRow("accelerator/0", "SIM-ECC", "simulated", sequence=7)
    for _ in range(3):
        fall_ill(world, "node-00", row)
    fall_ill(world, "node-00", replace(row, sequence=8))
    assert len(world.state().health.sightings["node-00-0/SIM-ECC"]) == 2


def test_a_hello_is_the_whole_truth_about_faults() -> None:
    world = site()
    fall_ill(world, "node-00", replace(BROKEN, code="SIM-LEAK"))
    world.lose_agent("node-00")
    world.nodes["node-00"].events.clear()
    world.return_agent("node-00")
    assert world.state().health.standing == {}
    assert cordons(world, "node-00") == {}


def test_a_hello_ends_no_fault_whose_source_cannot_be_read() -> None:
    """An agent that has just started has not heard from its probes yet."""
    world = site()
    fall_ill(world, "node-00", replace(BROKEN, code="SIM-LEAK"))
    fall_ill(world, "node-01", ev.FaultRow("accelerator/1", "SIM-SLOW", "simulated"))
    blind = {"node-00": ev.SourceRow("probe", "has not answered yet"), "node-01": ev.SourceRow("probe", "hangs", (0,))}
    for name, source in blind.items():
        world.lose_agent(name)
        world.nodes[name].events.clear()
        world.nodes[name].unreadable = (source,)
        world.return_agent(name)
    assert [fault.note.code for fault in world.state().health.on("node-00")] == ["SIM-LEAK"]
    assert world.state().health.on("node-01") == (), "its source answers for device 1"


def test_an_event_told_again_after_a_lost_acknowledgement_happened_once() -> None:
    world = site()
    raised_ns = world.now_ns
    row = ev.FaultRow("accelerator/0", "SIM-ECC", "simulated", assertion=Assertion.ONCE, raised_ns=raised_ns)
    for _ in range(3):
        fall_ill(world, "node-00", row)
    assert world.state().health.sightings["node-00-0/SIM-ECC"] == (raised_ns,)


def test_a_muted_code_takes_no_rank_although_it_fails_the_device() -> None:
    world = running(site(), 2, muted_faults=("SIM-MEMORY",))
    node = world.process("moe", 0)[0]
    fall_ill(world, node.name, ev.FaultRow("accelerator/0", "SIM-MEMORY", "simulated"))
    world.run(30)
    assert world.job("moe").generation == 1


def test_the_same_fault_on_one_node_is_not_blamed_on_the_job() -> None:
    """Eight devices behind one switch fail together because of that switch."""
    world = site(nodes=4, accelerators=4)
    running(world, 8)
    node = world.process("moe", 0)[0]
    for position in range(4):
        node.faults[position] = "SIM-MEMORY"
    world.agents.report_devices(node)
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    assert world.job("moe").recoveries[0].rung == Rung.REPLACE_RANK
    assert world.job("moe").recoveries[0].blame == "infrastructure"
    assert np_failed(world) == 4
