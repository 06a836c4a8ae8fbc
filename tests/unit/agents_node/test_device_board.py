"""The board: stable positions, faults that stand until somebody saw them end, and nothing healthy that could not be read."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from phalanx.v1 import agent_pb2
from phalanx.v1 import types_pb2 as pb

from agents.node.board import (
    EVENT_COALESCE_S,
    MAX_ACCELERATORS,
    MAX_FAULTS,
    MAX_SOURCES,
    MAX_STANDING,
    DeviceBoard,
    Kept,
)
from agents.node.probes.reading import Assertion, Device, Fault, Health, Reading, Severity, Unread
from agents.node.probes.wire import message_of

NOW_NS = 1_800_000_000_000_000_000
HEALTHY, FAILED, UNKNOWN = (
    pb.ACCELERATOR_STATE_HEALTHY,
    pb.ACCELERATOR_STATE_FAILED,
    pb.ACCELERATOR_STATE_UNKNOWN,
)


def device(index: int, serial: str = "", health: Health = Health.HEALTHY, bus: int | None = None) -> Device:
    number = index if bus is None else bus
    return Device(index, serial or f"S{index}", f"0000:{number:02x}:00.0", "Model", health)


def reading(
    devices: Sequence[Device] = (), faults: Sequence[Fault] = (), unread: Sequence[Unread] = (), vendor: str = "ascend"
) -> agent_pb2.ProbeReading:
    return message_of(Reading(vendor, tuple(devices), tuple(faults), tuple(unread)), NOW_NS)


def board(*serials: str) -> DeviceBoard:
    made = DeviceBoard(["ascend", "host"])
    made.take(reading([device(index, serial) for index, serial in enumerate(serials or ("S0", "S1", "S2", "S3"))]), 0.0)
    made.take(reading(vendor="host"), 0.0)
    return made


def states(board: DeviceBoard) -> list[int]:
    return [board.accelerator(position).state for position in board.positions()]


def standing(board: DeviceBoard) -> list[tuple[str, str]]:
    return sorted(board.fault_keys())


def test_before_the_first_reading_everything_that_is_remembered_is_unknown() -> None:
    kept = [Kept("ascend", 0, "S0", "0000:00:00.0", "Model"), Kept("gone", 0, "X", "", "Other vendor")]
    made = DeviceBoard(["ascend", "host"], kept)
    assert states(made) == [UNKNOWN]
    sources = made.unreadable().sources
    assert [(source.name, list(source.accelerators), source.node_only) for source in sources] == [
        ("ascend: probe", [0], False),
        ("host: probe", [], True),
    ]


def test_a_reading_without_news_changes_nothing() -> None:
    made = board()
    again = reading([device(index) for index in range(4)], [Fault("accelerator/1", "E1")])
    assert made.take(again, 1.0).faults == {("accelerator/1", "E1")}
    assert not made.take(again, 2.0)


def test_a_source_speaks_for_each_device_once_however_often_it_names_it() -> None:
    """A tool that prints its list a hundred times over; the controller takes at most as many positions as there are."""
    made = board()
    blind = [device(index, health=Health.UNKNOWN) for index in range(4)]
    made.take(reading(blind, unread=[Unread("tool", "it prints nonsense", (0, 2) * 200)]), 1.0)
    (source,) = made.unreadable().sources
    assert list(source.accelerators) == [0, 2]


def test_an_accelerator_that_is_not_named_any_more_is_lost_and_comes_back() -> None:
    made = board()
    changes = made.take(reading([device(0), device(1), device(3)]), 1.0)
    assert changes.accelerators == {2}
    assert states(made) == [HEALTHY, HEALTHY, FAILED, HEALTHY]
    assert standing(made) == [("accelerator/2", "DEVICE-LOST")]
    made.take(reading([device(index) for index in range(4)]), 2.0)
    assert states(made) == [HEALTHY] * 4
    assert standing(made) == []


def test_an_accelerator_lost_while_the_agent_was_away_is_noticed() -> None:
    made = DeviceBoard(["ascend"], board().to_keep())
    made.take(reading([device(0), device(1), device(2)]), 1.0)
    assert states(made) == [HEALTHY, HEALTHY, HEALTHY, FAILED]
    assert standing(made) == [("accelerator/3", "DEVICE-LOST")]


def test_nothing_is_lost_that_could_not_be_looked_for() -> None:
    made = board()
    changes = made.take(reading(unread=[Unread("npu-smi", "gave no answer")]), 1.0)
    assert changes.sources
    assert states(made) == [UNKNOWN] * 4
    assert standing(made) == []
    (source,) = made.unreadable().sources
    assert list(source.accelerators) == [0, 1, 2, 3]


def test_an_exchanged_accelerator_takes_the_place_of_the_old_one() -> None:
    made = board()
    changes = made.take(reading([device(0), device(1), device(2, "NEW"), device(3)]), 1.0)
    assert changes.kept
    assert [made.accelerator(position).serial for position in made.positions()] == ["S0", "S1", "NEW", "S3"]
    assert standing(made) == []


def test_positions_follow_the_serial_number_not_the_index() -> None:
    made = board()
    swapped = [device(0, "S1", bus=1), device(1, "S0", bus=0), device(2), device(3, health=Health.FAILED)]
    made.take(reading(swapped, [Fault("accelerator/0", "E1")]), 1.0)
    assert [made.accelerator(position).serial for position in made.positions()] == ["S0", "S1", "S2", "S3"]
    assert standing(made) == [("accelerator/1", "E1")], "index 0 of the vendor is the device at position 1"


def test_a_device_that_only_the_bus_shows_is_the_one_that_was_there() -> None:
    made = board()
    shown = [device(index, f"pci-0000:{index:02x}:00.0", Health.UNKNOWN) for index in range(4)]
    made.take(reading(shown, unread=[Unread("npu-smi", "is not installed")]), 1.0)
    assert [made.accelerator(position).serial for position in made.positions()] == ["S0", "S1", "S2", "S3"]
    assert states(made) == [UNKNOWN] * 4


def test_numbers_that_the_vendor_leaves_out_stay_free() -> None:
    made = DeviceBoard(["ascend"])
    made.take(reading([device(0), device(2)]), 0.0)
    assert states(made) == [HEALTHY, UNKNOWN, HEALTHY]
    assert standing(made) == []


def test_two_vendors_have_positions_one_after_the_other() -> None:
    made = DeviceBoard(["ascend", "nvidia"])
    made.take(reading([device(0), device(1)]), 0.0)
    made.take(reading([device(0, "G0"), device(1, "G1")], [Fault("accelerator/1", "XID-79")], vendor="nvidia"), 0.0)
    assert [made.accelerator(position).serial for position in made.positions()] == ["S0", "S1", "G0", "G1"]
    assert standing(made) == [("accelerator/3", "XID-79")]


def test_a_fault_stands_while_its_source_is_silent() -> None:
    made = board()
    devices = [device(index) for index in range(4)]
    made.take(reading(devices, [Fault("accelerator/1", "E1"), Fault("node", "E2"), Fault("accelerator/2", "E3")]), 1.0)
    made.take(reading(devices, unread=[Unread("errors", "busy", (1,))]), 2.0)
    assert standing(made) == [("accelerator/1", "E1")], "nobody could see whether that one has ended"
    made.take(reading(devices), 3.0)
    assert standing(made) == []


def test_a_garbled_value_is_named_and_leaves_a_device_that_was_judged_alone() -> None:
    made = board()
    devices = [device(0), device(1, health=Health.UNKNOWN), device(2), device(3)]
    made.take(reading(devices, unread=[Unread("power", "7 furlongs", (0,)), Unread("health", "mauve", (1,))]), 1.0)
    power, health = made.unreadable().sources
    assert (list(power.accelerators), power.node_only) == ([], True)
    assert list(health.accelerators) == [1]


def test_a_source_of_events_alone_holds_nothing_and_makes_nobody_unknown() -> None:
    made = board()
    devices = [device(index) for index in range(4)]
    blind = Unread("kernel log", "no right", events_only=True)
    made.take(reading(devices, [Fault("accelerator/1", "E1"), Fault("node", "E2")], [blind]), 1.0)
    (source,) = made.unreadable().sources
    assert (source.name, list(source.accelerators), source.node_only) == ("ascend: kernel log", [], True)
    made.take(reading(devices, unread=[blind]), 2.0)
    assert standing(made) == []
    assert states(made) == [HEALTHY] * 4


def test_a_recovery_that_is_told_ends_a_fault_although_another_source_is_silent() -> None:
    made = board()
    devices = [device(index) for index in range(4)]
    made.take(reading(devices, [Fault("accelerator/1", "E1")]), 1.0)
    over = Fault("accelerator/1", "E1", assertion=Assertion.RECOVERED)
    changes = made.take(reading(devices, [over], [Unread("log", "no right")]), 2.0)
    assert changes.faults == {("accelerator/1", "E1")}
    assert made.fault(("accelerator/1", "E1"), 3.0).assertion == pb.FAULT_ASSERTION_RECOVERED


def test_an_occurrence_with_a_later_number_is_a_new_one() -> None:
    made = board()
    devices = [device(index) for index in range(4)]
    made.take(reading(devices, [Fault("accelerator/1", "E1", sequence=7, raised_ns=NOW_NS - 5_000_000_000)]), 10.0)
    assert made.fault(("accelerator/1", "E1"), 10.0).raised_age_ms == 5_000
    assert not made.take(reading(devices, [Fault("accelerator/1", "E1", sequence=7, raised_ns=NOW_NS)]), 11.0)
    assert made.fault(("accelerator/1", "E1"), 12.0).raised_age_ms == 7_000
    assert made.take(reading(devices, [Fault("accelerator/1", "E1", sequence=8, raised_ns=NOW_NS)]), 12.0).faults


def test_an_event_is_told_once_and_a_burst_of_it_too() -> None:
    made = board()
    devices = [device(index) for index in range(4)]

    def events(sequence: int, now: float) -> int:
        once = Fault("accelerator/1", "E1", assertion=Assertion.ONCE, sequence=sequence, raised_ns=NOW_NS)
        return len(made.take(reading(devices, [once]), now).events)

    assert [events(7, 1.0), events(7, 1_000.0), events(8, 1.5), events(9, 1.5 + EVENT_COALESCE_S)] == [1, 0, 0, 1]


def test_a_probe_in_trouble_is_a_fault_and_blinds_its_vendor_only() -> None:
    made = DeviceBoard(["ascend", "nvidia"])
    made.take(reading([device(0)], [Fault("accelerator/0", "E1")]), 0.0)
    made.take(reading([device(0, "G0")], vendor="nvidia"), 0.0)
    changes = made.trouble("ascend", "PROBE-HUNG", "it hangs", 5.0, 1_000)
    assert changes.accelerators == {0}
    assert states(made) == [UNKNOWN, HEALTHY]
    assert standing(made) == [("accelerator/0", "E1"), ("node", "PROBE-HUNG")]
    assert not made.trouble("ascend", "PROBE-HUNG", "it hangs", 6.0, 2_000), "the same trouble is no news"
    both = made.trouble("nvidia", "PROBE-HUNG", "it hangs", 6.0, 2_000)
    assert both.sources
    made.take(reading([device(0)], [Fault("accelerator/0", "E1")]), 7.0)
    assert ("node", "PROBE-HUNG") in standing(made), "the other vendor's still hangs"
    made.take(reading([device(0, "G0")], vendor="nvidia"), 7.0)
    assert standing(made) == [("accelerator/0", "E1")]
    assert states(made) == [HEALTHY, HEALTHY]


def test_what_is_told_is_bounded() -> None:
    made = DeviceBoard(["ascend"])
    many = [device(index) for index in range(MAX_ACCELERATORS + 50)]
    mild = [Fault("accelerator/0", f"E{number}", Severity.HINT) for number in range(MAX_FAULTS * 2)]
    made.take(reading(many, [*mild, Fault("accelerator/0", "BAD", Severity.CRITICAL)]), 0.0)
    assert len(list(made.positions())) == MAX_ACCELERATORS
    assert len(standing(made)) == MAX_FAULTS
    assert ("accelerator/0", "BAD") in standing(made)


def test_ports_of_the_machine_are_the_nodes_and_no_accelerators() -> None:
    made = board()
    down = [Fault(f"port/{n}", "LINK-DOWN", message=f"eth{n} is down") for n in (0, 1)]
    flaps = [Fault(f"port/{n}", "LINK-FLAP", assertion=Assertion.ONCE, sequence=9 - n) for n in (0, 1)]
    changes = made.take(reading(faults=[*down, *flaps], vendor="host"), 1.0)
    assert standing(made) == [("node", "LINK-DOWN")]
    assert made.fault(("node", "LINK-DOWN"), 1.0).message == "eth0 is down; eth1 is down"
    assert [event.message.entity for event in changes.events] == ["node", "node"]
    assert not made.take(reading(faults=[*down, *flaps], vendor="host"), 2.0)
    made.take(reading(faults=down[1:], vendor="host"), 3.0)
    assert standing(made) == [("node", "LINK-DOWN")]
    made.take(reading(vendor="host"), 4.0)
    assert standing(made) == []


@pytest.mark.parametrize("entity", ["accelerator/9", "accelerator/x", "port/77", "accelerator/"])
def test_a_fault_of_a_device_that_is_not_there_is_shown_as_such(entity: str) -> None:
    made = board()
    made.take(reading([device(index) for index in range(4)], [Fault(entity, "E1")]), 1.0)
    assert standing(made) == []
    (source,) = [source for source in made.unreadable().sources if source.name == "ascend: faults"]
    assert (source.reason, source.node_only) == (f"cannot be told: E1 of {entity}", True)


def test_a_list_that_is_there_twice_makes_no_second_device() -> None:
    made = DeviceBoard(["ascend"])
    made.take(reading([device(0), device(1), device(0), device(1)]), 0.0)
    assert states(made) == [HEALTHY, HEALTHY]


def test_more_sources_than_a_report_names_are_told_as_one_that_covers_them_all() -> None:
    made = board()
    unread = [Unread(f"question {number}", "no answer", (number % 4,)) for number in range(100)]
    made.take(reading([device(index, health=Health.UNKNOWN) for index in range(4)], unread=unread), 1.0)
    sources = made.unreadable().sources
    assert len(sources) == MAX_SOURCES
    assert sources[-1].name == "37 more sources"
    assert sorted(sources[-1].accelerators) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "row",
    [
        agent_pb2.FaultStatus(entity="node", code="no code", assertion=pb.FAULT_ASSERTION_OCCURRED),
        agent_pb2.FaultStatus(entity="accelerator/\u00b2", code="C1", assertion=pb.FAULT_ASSERTION_OCCURRED),
        agent_pb2.FaultStatus(entity="fan/0", code="C1", assertion=pb.FAULT_ASSERTION_OCCURRED),
        agent_pb2.FaultStatus(entity="node", code="C1"),
    ],
    ids=["code", "number", "kind", "assertion"],
)
def test_a_fault_that_no_controller_takes_is_told_as_a_blind_spot(row: agent_pb2.FaultStatus) -> None:
    made = board()
    told = reading([device(index) for index in range(4)])
    told.faults.append(row)
    made.take(told, 1.0)
    assert standing(made) == []
    assert any("cannot be told" in source.reason for source in made.unreadable().sources)


def test_so_many_faults_stand_and_no_more() -> None:
    made = DeviceBoard(["ascend", "host", "nvidia"])
    for vendor in ("ascend", "host", "nvidia"):
        faults = [Fault("node", f"{vendor}-{number}", Severity.MAJOR) for number in range(MAX_FAULTS)]
        made.take(reading(faults=faults, vendor=vendor), 0.0)
    assert len(standing(made)) == MAX_STANDING
