"""Many new nodes at once are what the same hellos one by one would have made of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.catalogues import built_in
from controlplane.core import events as ev
from controlplane.core.draft import Policy, Refusal
from controlplane.core.fleet import Accelerator
from controlplane.core.vocabulary import AcceleratorState, NodeService, RankState
from tests.support.world import World


def hellos(count: int = 5) -> tuple[ev.NodeHello, ...]:
    """Nodes of different widths in two racks, one with a broken device."""
    made = []
    for number in range(count):
        rows = tuple(
            ev.AcceleratorRow(
                k,
                AcceleratorState.FAILED if number == k == 1 else AcceleratorState.HEALTHY,
                Accelerator(f"s{number}-{k}"),
            )
            for k in range(1 + number % 3)
        )
        made.append(ev.NodeHello(f"new-{number}", "1", (("rack", f"q{number % 2}"),), "10.0.0.1", "0", (), rows))
    return tuple(made)


def test_one_event_or_many_the_fleet_is_the_same() -> None:
    together, single = World(nodes=2), World(nodes=2)
    together.turn(ev.NodesJoined(hellos()))
    for hello in hellos():
        single.turn(hello)
    a, b = together.state(), single.state()
    assert a.fleet.index == b.fleet.index
    assert replace(a, revision=0).to_json() == replace(b, revision=0).to_json()


@pytest.mark.parametrize(
    ("code", "service", "cordoned"),
    [
        ("SIM-WARM", NodeService.IN_SERVICE, False),
        ("SIM-LEAK", NodeService.IN_SERVICE, True),
        ("SIM-MEMORY", NodeService.QUARANTINED, True),
        ("SIM-DEAD", NodeService.QUARANTINED, True),
    ],
)
def test_a_new_node_that_is_not_well_from_its_first_word_on_takes_no_work(
    code: str, service: NodeService, *, cordoned: bool
) -> None:
    world = World(2, 2, 1, Policy(catalogue=built_in()))
    first = replace(hellos()[0], faults=(ev.FaultRow("node", code, "simulated"),))
    world.turn(first)
    fleet = world.state().fleet
    number = fleet.index["new-0"]
    assert fleet.service[number] == service
    assert bool(fleet.facts[number].cordons) == cordoned


def test_one_event_or_many_a_device_that_takes_its_node_takes_it() -> None:
    def ill() -> tuple[ev.NodeHello, ...]:
        first, *others = hellos()
        device = Accelerator("s0-0", vendor="simulated", fault_code="SIM-DEAD")
        row = ev.AcceleratorRow(0, AcceleratorState.FAILED, device)
        return (replace(first, accelerators=(row,)), *others)

    together, single = (World(2, 2, 1, Policy(catalogue=built_in())) for _ in range(2))
    together.turn(ev.NodesJoined(ill()))
    for hello in ill():
        single.turn(hello)
    for world in (together, single):
        fleet = world.state().fleet
        assert fleet.service[fleet.index["new-0"]] == NodeService.QUARANTINED


def test_who_is_not_new_says_hello_alone() -> None:
    world = World(nodes=2)
    before = world.state()
    row = ev.HostRow("moe-1", 1, RankState.RUNNING, 0, 1)
    first, second, *_ = hellos()
    for wrong in (
        (replace(first, node="node-00"), second),
        (first, replace(second, node=first.node)),
        (replace(first, hosts=(row,)), second),
    ):
        (answer,) = world.turn(ev.NodesJoined(wrong))
        assert isinstance(answer, Refusal)
        assert answer.reason == "NOT_NEW"
    assert world.state() is before
