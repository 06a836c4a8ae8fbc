"""Rows of health from agents: bounded, refused with a reason, and told again without occurring anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from phalanx.v1 import agent_pb2
from phalanx.v1 import types_pb2 as pb

from controlplane.catalogues import built_in
from controlplane.core import events as ev
from controlplane.core.draft import Policy
from controlplane.core.fleet import Accelerator
from controlplane.core.vocabulary import AcceleratorState, Assertion
from controlplane.rpc import health_rows, observations
from controlplane.rpc.errors import RequestRefused
from controlplane.rpc.views import node_message
from tests.support.world import World

SECOND = 1_000_000_000


def site() -> World:
    return World(2, 2, 1, Policy(catalogue=built_in()))


def fault(code: str = "SIM-ECC", entity: str = "accelerator/1", **changes: object) -> agent_pb2.FaultStatus:
    fields = {"vendor": "simulated", "assertion": pb.FAULT_ASSERTION_OCCURRED, **changes}
    return agent_pb2.FaultStatus(entity=entity, code=code, **fields)  # type: ignore[arg-type]


def tell(world: World, *rows: agent_pb2.FaultStatus, after_s: float = 0.0) -> None:
    """A report as the wire brings it, `after_s` later."""
    world.run(after_s)
    node = world.nodes["node-00"]
    report = agent_pb2.Report(sequence=1, faults=rows)
    world.turn(observations.node_report("node-00", node.boot_id, report, world.now_ns, world.state()))


def seen(world: World, code: str = "SIM-ECC") -> int:
    return len(world.state().health.sightings.get(f"node-00-1/{code}", ()))


@pytest.mark.parametrize("row", [{"raised_age_ms": 500}, {}, {"sequence": 9, "raised_age_ms": 500}])
def test_a_standing_fault_told_again_after_delays_occurred_once(row: dict[str, int]) -> None:
    world = site()
    for after_s, late_ms in ((0.0, 0), (2.0, 1_000), (5.0, 4_500), (60.0, 59_000)):
        again = dict(row)
        if "raised_age_ms" in again:
            again["raised_age_ms"] += int(after_s * 1_000) - late_ms  # delays make it look younger than it is
        tell(world, fault(**again), after_s=after_s)
    assert seen(world) == 1


def test_an_event_told_again_over_a_slow_network_happened_once_and_a_later_one_is_another() -> None:
    world = site()
    once = {"assertion": pb.FAULT_ASSERTION_ONCE}
    tell(world, fault(raised_age_ms=100, **once))
    tell(world, fault(raised_age_ms=4_000, **once), after_s=8.0)
    assert seen(world) == 1
    tell(world, fault(raised_age_ms=1, **once), after_s=30.0)
    assert seen(world) == 2


def test_a_word_for_severity_that_is_not_known_is_no_mild_one() -> None:
    world = site()
    tell(world, fault("NEW-CODE", severity="negligible"))
    assert world.state().fleet.acc_state[0][1] == AcceleratorState.FAILED
    (message,) = [node_message(world.state(), 0, 0, world.now_ns)]
    assert [device.fault_code for device in message.accelerators] == ["", "NEW-CODE"]


def test_a_source_of_the_node_itself_leaves_its_accelerators_alone() -> None:
    world = site()
    node = world.nodes["node-00"]
    report = agent_pb2.Report(sequence=1)
    report.unreadable.sources.add(name="host: /dev/kmsg", reason="no right", node_only=True)
    report.broken_links.nodes.append("node-01")
    event = observations.node_report("node-00", node.boot_id, report, world.now_ns, world.state())
    assert event.unreadable == (ev.SourceRow("host: /dev/kmsg", "no right", health_rows.NODE_ONLY),)
    assert event.broken_links == ("node-01",)
    world.turn(event)
    assert set(world.state().fleet.acc_state[0].tolist()) == {AcceleratorState.HEALTHY}
    assert world.state().health.sources["node-00"][0].name == "host: /dev/kmsg"


def test_a_full_report_ends_faults_that_it_does_not_name_unless_nobody_can_see() -> None:
    world = site()
    tell(world, fault("SIM-SLOW"), fault("SIM-LEAK", entity="node"))
    node = world.nodes["node-00"]

    def full(**fields: object) -> list[str]:
        report = agent_pb2.Report(sequence=2, full=True, **fields)  # type: ignore[arg-type]
        world.turn(observations.node_report("node-00", node.boot_id, report, world.now_ns, world.state()))
        return sorted(known.note.code for known in world.state().health.on("node-00"))

    blind = agent_pb2.UnreadableSources(sources=[agent_pb2.UnreadableSource(name="ascend: probe", accelerators=[1])])
    assert full() == ["SIM-LEAK", "SIM-SLOW"], "an agent that does not know faults has not said that they ended"
    assert full(unreadable=blind) == ["SIM-SLOW"]
    assert full(unreadable=agent_pb2.UnreadableSources(), faults=[fault("SIM-SLOW")]) == ["SIM-SLOW"]
    assert full(unreadable=agent_pb2.UnreadableSources()) == []


def test_what_a_report_does_not_say_stays_unsaid() -> None:
    world = site()
    event = observations.node_report("node-00", "b", agent_pb2.Report(sequence=1), world.now_ns, world.state())
    assert (event.faults, event.unreadable, event.broken_links) == ((), None, None)


def test_a_hello_brings_faults_and_sources() -> None:
    world = site()
    hello = agent_pb2.AgentHello(node="node-09", boot_id="b", address="10.0.0.9", agent_version="0.2.0")
    hello.snapshot.full = True
    hello.snapshot.faults.append(fault(entity="node", severity="minor", sequence=3))
    hello.snapshot.unreadable.sources.add(name="ascend: probe", reason="has not answered", accelerators=[1, 0, 1])
    event = observations.node_hello(hello, world.now_ns, world.state())
    assert event.faults == (ev.FaultRow("node", "SIM-ECC", "simulated", "minor", Assertion.OCCURRED, 3),)
    assert event.unreadable == (ev.SourceRow("ascend: probe", "has not answered", (0, 1)),)


def _report(**fields: object) -> agent_pb2.Report:
    return agent_pb2.Report(sequence=1, **fields)  # type: ignore[arg-type]


def _sources(*sources: agent_pb2.UnreadableSource) -> agent_pb2.Report:
    return _report(unreadable=agent_pb2.UnreadableSources(sources=sources))


@pytest.mark.parametrize(
    ("report", "place"),
    [
        (_report(faults=[fault()] * (health_rows.MAX_FAULTS + 1)), "report.faults"),
        (_report(faults=[fault(entity="accelerator/256")]), "report.faults[0].entity"),
        (_report(faults=[fault(entity="accelerator/-1")]), "report.faults[0].entity"),
        (_report(faults=[fault(entity="rack/1")]), "report.faults[0].entity"),
        (_report(faults=[fault(), fault(code="")]), "report.faults[1].code"),
        (_report(faults=[fault(code="a b")]), "report.faults[0].code"),
        (_report(faults=[fault(code="X" * 65)]), "report.faults[0].code"),
        (_report(faults=[fault(vendor="Simulated!")]), "report.faults[0].vendor"),
        (_report(faults=[fault(assertion=0)]), "report.faults[0].assertion"),
        (_sources(*[agent_pb2.UnreadableSource(name="s")] * 65), "report.unreadable"),
        (_sources(agent_pb2.UnreadableSource(name="")), "report.unreadable[0].name"),
        (_sources(agent_pb2.UnreadableSource(name="s", accelerators=[256])), "report.unreadable[0].accelerators"),
        (
            _sources(agent_pb2.UnreadableSource(name="s", accelerators=[1], node_only=True)),
            "report.unreadable[0].node_only",
        ),
        (_report(broken_links=agent_pb2.BrokenLinks(nodes=["n"] * 1_025)), "report.broken_links"),
        (_report(broken_links=agent_pb2.BrokenLinks(nodes=["a b"])), "report.broken_links"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(report: agent_pb2.Report, place: str) -> None:
    world = site()
    with pytest.raises(RequestRefused) as refused:
        observations.node_report("node-00", "b", report, world.now_ns, world.state())
    assert place in str(refused.value)


def test_the_worst_of_several_faults_is_shown_with_the_device() -> None:
    world = site()
    tell(world, fault("SIM-WARM"), fault("SIM-MEMORY", message="row 7"), fault("SIM-SLOW"))
    device = node_message(world.state(), 0, 0, world.now_ns).accelerators[1]
    assert (device.fault_code, device.fault_message) == ("SIM-MEMORY", "row 7")
    known = world.state().fleet.facts[0].accelerators[1]
    assert replace(known, fault_code="") == Accelerator(
        known.serial, known.pci_address, known.vendor, known.model, reported=known.reported
    )
