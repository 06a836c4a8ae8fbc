"""A step is told once in a session, and again in the next one."""

from __future__ import annotations

from pathlib import Path

from phalanx.v1 import agent_pb2, types_pb2

from agents.node.devices import Devices, DeviceSettings
from agents.node.hosts import HeldAssignment, HostIdentity, HostRecord, HostTable
from agents.node.state import NodeState


def node(folder: Path) -> NodeState:
    """A node with one rank of generation 3."""
    settings = DeviceSettings(
        node="a", vendors=(), simulated=1, kept_path=folder / "kept", telemetry_path=folder / "told"
    )
    table = HostTable()
    assigned = HeldAssignment(3, 0, "")
    table.records["j-1"] = HostRecord(HostIdentity("j-1", "j", "", 1, 1, 1, ""), 1, assigned=assigned)
    return NodeState(folder / "hosts.json", table, Devices(settings))


def step(number: int, generation: int = 3) -> agent_pb2.StepProgress:
    return agent_pb2.StepProgress(host_id="j-1", job_uid="j", rank=0, generation=generation, step=number, age_ms=1)


def told(state: NodeState) -> list[tuple[int, int]]:
    return [(row.generation, row.step) for row in state.progress_rows()]


def test_a_step_is_told_once_in_a_session(tmp_path: Path) -> None:
    state = node(tmp_path)
    state.note_progress(step(7))
    assert told(state) == [(3, 7)]
    assert told(state) == []
    state.note_progress(step(8))
    assert told(state) == [(3, 8)]
    state.progress_anew()
    assert told(state) == [(3, 8)], "the next session knows nothing"


def test_the_same_step_of_another_generation_is_another_one(tmp_path: Path) -> None:
    state = node(tmp_path)
    state.note_progress(step(7))
    assert told(state) == [(3, 7)]
    state.note_progress(step(7, generation=4))
    assert told(state) == [], "not before the rank is assigned to it"
    record = state.table.records["j-1"]
    record.assigned = HeldAssignment(4, 0, "")
    assert told(state) == [(4, 7)]
    record.state = types_pb2.RANK_STATE_EXITED
    assert told(state) == []


def test_a_step_that_goes_back_is_counted_and_not_told(tmp_path: Path) -> None:
    state = node(tmp_path)
    state.note_progress(step(7))
    state.note_progress(step(3))
    assert told(state) == [(3, 7)]
    assert state.counters.values["steps_backwards"] == 1
    state.note_progress(step(2, generation=4))
    state.table.records["j-1"].assigned = HeldAssignment(4, 0, "")
    assert told(state) == [(4, 2)], "a new generation may begin below"
