"""From a probe's reading to what the controller believes: the agent's board and outbox, the wire, the core."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from phalanx.v1 import agent_pb2

from agents.node.devices import Devices, DeviceSettings
from agents.node.hosts import HostTable
from agents.node.probes.reading import Assertion, Device, Fault, Health, Reading, Severity, Unread
from agents.node.probes.wire import message_of
from agents.node.state import NodeState
from controlplane.catalogues import built_in
from controlplane.core.draft import Policy
from controlplane.core.vocabulary import AcceleratorState
from controlplane.rpc import observations
from tests.support.world import World

NOW_NS = 1_800_000_000_000_000_000
NODE = "node-09"
TEST = "enflame"


class Pair:
    """An agent without processes and the core that it reports to. `forget` is a restart of the agent."""

    def __init__(self, folder: Path) -> None:
        self.world = World(1, 1, 1, Policy(catalogue=built_in()))
        self.folder = folder
        self.boots = 0
        self.now = 100.0
        self.start()

    def start(self) -> None:
        self.boots += 1
        settings = DeviceSettings(
            node=NODE, vendors=(TEST,), simulated=0, kept_path=self.folder / "kept.json",
            telemetry_path=self.folder / "telemetry.prom",
        )  # fmt: skip
        self.devices = Devices(settings)
        self.state = NodeState(self.folder / "hosts.json", HostTable(), self.devices)

    def hello(self) -> None:
        boot = f"{self.boots:04d}"
        hello = agent_pb2.AgentHello(node=NODE, boot_id=boot, address="10.0.0.9", agent_version="0.2.0")
        hello.snapshot.CopyFrom(self.state.outbox.hello_snapshot(self.now))
        self.world.turn(observations.node_hello(hello, self.world.now_ns, self.world.state()))
        self.state.outbox.acknowledge(hello.snapshot.sequence, self.now)

    def read(self, *faults: Fault, unread: tuple[Unread, ...] = (), health: Health = Health.HEALTHY) -> None:
        """A reading of two devices, and what is due goes up."""
        rows = tuple(Device(i, f"S{i}", f"0000:0{i}:00.0", "M", health) for i in range(2))
        self.devices.take(message_of(Reading(TEST, rows, faults, unread), NOW_NS))
        self.send()

    def send(self) -> None:
        while (report := self.state.outbox.next_report(self.now)) is not None:
            wire = agent_pb2.Report.FromString(report.SerializeToString())
            boot = f"{self.boots:04d}"
            self.world.turn(observations.node_report(NODE, boot, wire, self.world.now_ns, self.world.state()))
            self.state.outbox.acknowledge(report.sequence, self.now)

    def believed(self) -> list[AcceleratorState]:
        fleet = self.world.state().fleet
        return [AcceleratorState(int(state)) for state in fleet.acc_state[fleet.index[NODE]][:2]]

    def standing(self) -> list[str]:
        return sorted(known.note.code for known in self.world.state().health.on(NODE))

    def seen(self, code: str) -> int:
        return len(self.world.state().health.sightings.get(f"S1/{code}", ()))


def story(tell: Callable[[Pair], None]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        async def inside() -> None:  # an agent's parts live on an event loop
            tell(Pair(tmp_path))

        asyncio.run(inside())

    return run


def slow(code: str = "PCIE-WIDTH", **changes: object) -> Fault:
    return Fault("accelerator/1", code, Severity.MINOR, **changes)  # type: ignore[arg-type]


@story
def test_a_fault_comes_and_goes(pair: Pair) -> None:
    pair.hello()
    pair.read()
    assert pair.believed() == [AcceleratorState.HEALTHY] * 2
    pair.read(slow())
    assert (pair.believed()[1], pair.standing()) == (AcceleratorState.DEGRADED, ["PCIE-WIDTH"])
    pair.read()
    assert (pair.believed()[1], pair.standing()) == (AcceleratorState.HEALTHY, [])


@story
def test_the_same_fault_through_restarts_of_the_agent_occurred_once(pair: Pair) -> None:
    pair.hello()
    pair.read()
    for _ in range(3):
        pair.read(slow(raised_ns=NOW_NS - 3_600_000_000_000))
        pair.world.run(60)
        pair.start()
        pair.hello()
        assert pair.believed() == [AcceleratorState.UNKNOWN] * 2, "nothing was read yet"
        assert pair.standing() == ["PCIE-WIDTH"], "and nothing has ended"
    pair.read(slow(raised_ns=NOW_NS - 3_600_000_000_000))
    assert pair.seen("PCIE-WIDTH") == 1
    assert pair.believed() == [AcceleratorState.HEALTHY, AcceleratorState.DEGRADED]


@story
def test_a_fault_that_ended_while_no_agent_was_there_ends_with_the_first_reading(pair: Pair) -> None:
    pair.hello()
    pair.read(slow())
    pair.start()
    pair.hello()
    pair.read(unread=(Unread("tool", "hangs"),), health=Health.UNKNOWN)
    assert pair.standing() == ["PCIE-WIDTH"], "the first reading saw nothing"
    pair.start()
    pair.hello()
    pair.read()
    assert pair.standing() == []


@story
def test_an_event_that_is_read_again_after_a_restart_happened_once(pair: Pair) -> None:
    pair.hello()
    once = slow("ECC-UNCORRECTED", assertion=Assertion.ONCE, sequence=17, raised_ns=NOW_NS - 1_000_000_000)
    pair.read(once)
    pair.read(once)
    pair.start()
    pair.hello()
    pair.read(once)
    assert pair.seen("ECC-UNCORRECTED") == 1


@story
def test_a_device_that_is_gone_is_lost_and_its_sister_goes_on(pair: Pair) -> None:
    pair.hello()
    pair.read()
    rows = (Device(0, "S0", "0000:00:00.0", "M", Health.HEALTHY),)
    pair.devices.take(message_of(Reading(TEST, rows), NOW_NS))
    pair.send()
    assert pair.believed() == [AcceleratorState.HEALTHY, AcceleratorState.FAILED]
    assert pair.standing() == ["DEVICE-LOST"]
