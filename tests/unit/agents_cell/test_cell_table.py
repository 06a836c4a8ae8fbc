"""Reports of a cell: deltas on change, snapshots, acknowledgements, one life per host id."""

from __future__ import annotations

from phalanx.v1 import cell_pb2

from agents.cell.table import ALIVE, DEAD, RESEND_AFTER_S, STARTING, WINDOW, ActorRow, CellTable


def rows(report: cell_pb2.CellReport | None) -> list[tuple[str, int]]:
    assert report is not None
    return [(row.host_id, row.state) for row in report.actors]


def test_only_changes_travel() -> None:
    table = CellTable()
    assert table.set_nodes({"n0": True, "n1": False}) == [("n0", True), ("n1", False)]
    assert not table.hello_snapshot(0.0).actors
    assert table.next_report(0.0) is None
    assert table.set_nodes({"n0": True, "n1": False}) == []
    assert table.next_report(0.0) is None
    table.set_actor(ActorRow("h-1", "n0", STARTING))
    table.set_actor(ActorRow("h-1", "n0", ALIVE))
    report = table.next_report(0.0)
    assert rows(report) == [("h-1", ALIVE)]
    assert report is not None
    assert (report.sequence, report.full, list(report.nodes)) == (2, False, [])


def test_a_node_that_ray_forgot_is_not_alive() -> None:
    table = CellTable()
    table.set_nodes({"n0": True})
    assert table.set_nodes({}) == [("n0", False)]


def test_the_store_address_is_in_every_report() -> None:
    table = CellTable()
    assert table.set_store("127.0.0.1:1")
    assert not table.set_store("127.0.0.1:1")
    report = table.next_report(0.0)
    assert report is not None
    assert report.store_address == "127.0.0.1:1"
    table.set_nodes({"n0": True})
    report = table.next_report(0.0)
    assert report is not None
    assert report.store_address == "127.0.0.1:1"


def test_a_dead_row_stays_until_it_is_acknowledged_and_its_id_is_never_used_again() -> None:
    table = CellTable()
    table.set_actor(ActorRow("h-1", "n0", DEAD, "gone"))
    first = table.next_report(0.0)
    assert first is not None
    assert rows(table.hello_snapshot(1.0)) == [("h-1", DEAD)]  # the session broke before the acknowledgement
    table.acknowledge(2, 1.0)
    assert rows(table.hello_snapshot(2.0)) == []
    assert not table.set_actor(ActorRow("h-1", "n0", STARTING))
    known = table.actor("h-1")
    assert known is not None
    assert known.state == DEAD
    table.report_again("h-1")
    assert rows(table.next_report(3.0)) == [("h-1", DEAD)]


def test_what_is_not_acknowledged_comes_again_as_a_snapshot() -> None:
    table = CellTable()
    table.hello_snapshot(0.0)
    table.acknowledge(1, 0.0)
    table.set_actor(ActorRow("h-1", "n0", ALIVE))
    assert table.next_report(1.0) is not None
    assert table.next_report(1.0 + RESEND_AFTER_S) is None
    again = table.next_report(1.1 + RESEND_AFTER_S)
    assert again is not None
    assert again.full
    assert rows(again) == [("h-1", ALIVE)]


def test_a_full_window_gathers_changes_into_one_snapshot() -> None:
    table = CellTable()
    for index in range(WINDOW):
        table.set_actor(ActorRow(f"h-{index}", "n0", ALIVE))
        assert table.next_report(0.0) is not None
    table.set_actor(ActorRow("h-last", "n0", ALIVE))
    assert table.next_report(0.0) is None
    table.acknowledge(WINDOW, 0.0)
    report = table.next_report(0.0)
    assert report is not None
    assert report.full
    assert len(report.actors) == WINDOW + 1


def test_living_leaves_the_dead_out() -> None:
    table = CellTable()
    table.set_actor(ActorRow("h-1", "n0", ALIVE))
    table.set_actor(ActorRow("h-2", "n0", DEAD))
    assert [row.host_id for row in table.living()] == ["h-1"]
