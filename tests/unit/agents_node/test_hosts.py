"""The host table: who may say what, and how ends are recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from phalanx.v1 import agent_pb2, local_pb2, types_pb2

from agents.node import hosts_file
from agents.node.hosts import (
    AGE_LIMIT_MS,
    ARCHIVE_LIMIT,
    HeldAssignment,
    HostIdentity,
    HostTable,
    moment_of,
    well_formed,
)

PARKED, JOINING, RUNNING = types_pb2.RANK_STATE_PARKED, types_pb2.RANK_STATE_JOINING, types_pb2.RANK_STATE_RUNNING
EXITED, LOST = types_pb2.RANK_STATE_EXITED, types_pb2.RANK_STATE_LOST
NOW = 1000.0


def identity(host_id: str = "h", pid: int = 100, start: int = 5) -> HostIdentity:
    return HostIdentity(host_id, "job", "name", pid, start, pid + 1, f"/logs/{host_id}.log")


def table_with(*host_ids: str) -> HostTable:
    table = HostTable()
    for number, host_id in enumerate(host_ids):
        assert table.register_host(identity(host_id, 100 + number), NOW) is None
    return table


def status(state: int, generation: int = 0, token: str = "", host_id: str = "h") -> local_pb2.RankStatus:
    return local_pb2.RankStatus(host_id=host_id, state=state, generation=generation, token=token)  # type: ignore[arg-type]


def assigned(generation: int = 2, token: str = "t") -> HostTable:
    table = table_with("h")
    table.assign("h", HeldAssignment(generation, 3, token))
    return table


@pytest.mark.parametrize(
    ("state", "generation", "token", "kind"),
    [
        (JOINING, 2, "t", None),
        (RUNNING, 2, "t", None),
        (PARKED, 0, "", None),  # said before the assignment reached it
        (RUNNING, 2, "x", "wrong_token"),
        (RUNNING, 2, "", "wrong_token"),
        (RUNNING, 1, "t", "older_generation"),
        (RUNNING, 3, "t", "unknown_generation"),
        (RUNNING, 0, "t", "older_generation"),
        (RUNNING, 0, "", "state"),
        (EXITED, 2, "t", "state"),
        (LOST, 2, "t", "state"),
        (0, 2, "t", "state"),
    ],
)
def test_a_status_counts_only_for_the_newest_assignment(
    state: int, generation: int, token: str, kind: str | None
) -> None:
    table = assigned()
    refusal = table.apply_status(status(state, generation, token), 2, NOW)
    assert (refusal.kind if refusal else None) == kind
    if kind is not None:
        assert table.records["h"].state == types_pb2.RANK_STATE_STARTING


def test_a_rank_cannot_go_back_to_parked_after_it_took_a_generation() -> None:
    table = assigned()
    assert table.apply_status(status(JOINING, 2, "t"), 2, NOW) is None
    refusal = table.apply_status(status(PARKED), 2, NOW)
    assert refusal is not None
    assert refusal.kind == "older_generation"


def test_a_new_assignment_silences_the_old_generation_at_once() -> None:
    table = assigned()
    assert table.apply_status(status(RUNNING, 2, "t"), 2, NOW) is None
    table.assign("h", HeldAssignment(3, 4, "new"))
    refusal = table.apply_status(status(RUNNING, 2, "t"), 3, NOW)
    assert refusal is not None
    assert refusal.kind == "older_generation"
    row = table.records["h"].row(NOW)
    assert (row.rank, row.generation) == (3, 2), "the row shows what the process obeys, not what it was told"


def test_a_repeated_assignment_keeps_its_token() -> None:
    table = assigned()
    table.assign("h", HeldAssignment(2, 3, "another"))
    held = table.records["h"].assigned
    assert held is not None
    assert held.token == "t"


@pytest.mark.parametrize(("newest", "believed"), [(0, True), (2, True), (3, False)])
def test_a_process_whose_assignment_was_lost_with_the_agents_files(newest: int, believed: bool) -> None:
    table = table_with("h")
    refusal = table.apply_status(status(RUNNING, 2, "t"), newest, NOW)
    assert (refusal is None) == believed


@pytest.mark.parametrize(
    ("host_id", "job_uid", "fits"),
    [
        ("j-1-7", "j-1", True),
        ("j-0", "j", True),
        ("j-1", "k", False),
        ("j-x", "j", False),
        ("j-", "j", False),
        ("-1", "", False),
        ("j", "", False),
        ("../j-1", "../j", False),
        ("a/b-1", "a/b", False),
        ("j-1\n", "j", False),
    ],
)
def test_the_shape_of_a_host_id(host_id: str, job_uid: str, fits: bool) -> None:
    assert well_formed(host_id, job_uid) == fits


def test_another_process_under_a_living_id_is_refused() -> None:
    table = table_with("h")
    assert table.register_host(identity("h"), NOW) is None
    for impostor in (identity("h", pid=101), identity("h", start=6)):
        refusal = table.register_host(impostor, NOW)
        assert refusal is not None
        assert refusal.kind == "second_process"


def test_ages_come_from_moments_and_are_never_zero() -> None:
    table = assigned()
    message = status(RUNNING, 2, "t")
    message.times.CopyFrom(agent_pb2.GenerationTimes(joining_age_ms=500))
    assert table.apply_status(message, 2, NOW) is None
    row = table.records["h"].row(NOW + 2)
    assert (row.age_ms, row.times.joining_age_ms, row.times.restored_age_ms) == (2000, 2500, 0)
    assert table.records["h"].row(NOW).age_ms == 1


@pytest.mark.parametrize("said", [2**64 - 1, 2**63])
def test_an_age_that_no_process_can_have_stays_one_that_the_wire_carries(said: int) -> None:
    table = assigned()
    message = status(RUNNING, 2, "t")
    message.times.CopyFrom(agent_pb2.GenerationTimes(joining_age_ms=said))
    assert table.apply_status(message, 2, NOW) is None
    assert table.records["h"].row(NOW + 2).times.joining_age_ms == AGE_LIMIT_MS + 2000
    assert moment_of(said, NOW) == NOW - AGE_LIMIT_MS / 1000


def test_an_own_exit_is_exited_at_once_and_empty_later() -> None:
    table = table_with("h")
    table.exit_seen("h", types_pb2.ExitInfo(observed=True, signal=9), NOW)
    record = table.records["h"]
    assert (record.state, record.empty) == (EXITED, False)
    assert record.exit is not None
    assert record.exit.sender == types_pb2.ExitInfo.SENDER_UNKNOWN
    table.group_empty("h", NOW + 1)
    assert record.empty
    assert (record.exit.observed, record.exit.signal, record.state_since) == (True, 9, NOW)


def test_a_fenced_host_is_not_exited_before_its_group_is_empty() -> None:
    table = table_with("h")
    record = table.records["h"]
    record.fence_reason = "replaced"
    table.exit_seen("h", types_pb2.ExitInfo(observed=True, signal=15), NOW)
    assert not record.exited
    table.group_empty("h", NOW)
    assert record.empty
    assert record.exit is not None
    assert (record.exit.sender, record.exit.message) == (types_pb2.ExitInfo.SENDER_AGENT, "fenced: replaced")


def test_an_observed_end_replaces_a_concluded_one_and_not_the_other_way_round() -> None:
    table = table_with("h")
    table.group_empty("h", NOW)
    table.exit_seen("h", types_pb2.ExitInfo(observed=True, code=7), NOW)
    table.exit_seen("h", types_pb2.ExitInfo(observed=True, code=8), NOW)
    table.exit_seen("h", types_pb2.ExitInfo(observed=False), NOW)
    exit_info = table.records["h"].exit
    assert exit_info is not None
    assert (exit_info.observed, exit_info.code, exit_info.group_empty) == (True, 7, True)


@pytest.mark.parametrize(("marked", "counts"), [(2, True), (1, False)])
def test_the_final_marker_counts_only_in_its_generation(marked: int, counts: bool) -> None:
    table = assigned(marked)
    marker = local_pb2.FinalMarker(host_id="h", generation=marked, token="t", result={"a": "b"})
    assert table.final_marker(marker) is None
    table.assign("h", HeldAssignment(2, 3, "t2"))
    table.exit_seen("h", types_pb2.ExitInfo(observed=True), NOW)
    exit_info = table.records["h"].exit
    assert exit_info is not None
    assert exit_info.final_marker == counts


def test_forgetting_waits_for_an_empty_group_and_keeps_the_log() -> None:
    table = table_with("h", "living")
    table.assign("h", HeldAssignment(2, 3, "t"))
    table.exit_seen("h", types_pb2.ExitInfo(observed=True), NOW)
    assert table.forget(["h", "living", "unknown"]) == ["h", "living"]
    table.group_empty("h", NOW)
    assert table.forget(["h"]) == []
    assert table.ended_before("h")
    found = table.newest_of_rank("job", 3)
    assert found is not None
    assert (found.host_id, found.log_path) == ("h", "/logs/h.log")


def test_the_newest_process_of_a_rank_is_that_of_the_highest_generation() -> None:
    table = table_with("a", "b", "c")
    table.assign("a", HeldAssignment(5, 1, "t"))
    table.assign("b", HeldAssignment(6, 1, "t"))
    table.assign("c", HeldAssignment(7, 2, "t"))
    newest = table.newest_of_rank("job", 1)
    assert newest is not None
    assert newest.host_id == "b"
    table.group_empty("b", NOW)
    table.forget(["b"])
    newest = table.newest_of_rank("job", 1)
    assert newest is not None
    assert newest.host_id == "b"
    assert table.newest_of_rank("job", 9) is None


def test_the_archive_is_bounded() -> None:
    table = HostTable()
    for number in range(ARCHIVE_LIMIT + 5):
        table.add_absent(f"h{number}", "r", NOW)
    table.forget([f"h{number}" for number in range(ARCHIVE_LIMIT + 5)])
    assert len(table.archive) == ARCHIVE_LIMIT
    assert "h0" not in table.archive


def test_the_file_gives_back_the_same_table(tmp_path: Path) -> None:
    table = assigned()
    assert table.apply_status(status(RUNNING, 2, "t"), 2, NOW) is None
    assert table.final_marker(local_pb2.FinalMarker(host_id="h", generation=2, token="t", result={"a": "b"})) is None
    table.register_host(identity("gone", 200), NOW)
    table.exit_seen("gone", types_pb2.ExitInfo(observed=True, code=3, message="x"), NOW)
    table.add_absent("old", "r", NOW)
    table.forget(["old"])
    path = tmp_path / "hosts.json"
    hosts_file.save_hosts(path, table)
    loaded = hosts_file.load_hosts(path)
    assert loaded.records == table.records
    assert loaded.archive == table.archive
    assert loaded.next_serial == table.next_serial
    assert path.stat().st_mode & 0o777 == 0o600


def test_after_a_reboot_nobody_is_left(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    hosts_file.save_hosts(path, assigned())
    text = path.read_text()
    path.write_text(text.replace(hosts_file.kernel_boot_id(), "another-boot"))
    record = hosts_file.load_hosts(path).records["h"]
    assert record.empty
    assert record.exit is not None
    assert not record.exit.observed


@pytest.mark.parametrize("text", ["", "{", '{"version": 99}', '{"version": 1}'])
def test_a_broken_file_is_an_error_and_not_an_empty_table(tmp_path: Path, text: str) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(text)
    with pytest.raises(hosts_file.HostsFileError):
        hosts_file.load_hosts(path)
