"""Reports: nothing unconfirmed is lost, nothing grows without bound."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from phalanx.v1 import agent_pb2, types_pb2

from agents.node.outbox import (
    EVENT_LIMIT,
    FINDING_LIMIT,
    FINDINGS_BYTES,
    RESEND_AFTER_S,
    WINDOW,
    EventFinding,
    FaultKey,
    ReportOutbox,
    ShardFinding,
)
from agents.node.outcomes import OUTCOME_LIMIT, RUNNING_LIMIT, Outcome, OutcomeMemory


class View:
    """A node with hosts whose state is a number."""

    def __init__(self) -> None:
        self.hosts: dict[str, int] = {}
        self.faults: set[FaultKey] = set()
        self.blind: list[str] = []

    def host_row(self, host_id: str, now: float) -> agent_pb2.HostStatus | None:
        del now
        pid = self.hosts.get(host_id)
        return agent_pb2.HostStatus(host_id=host_id, pid=pid) if pid is not None else None

    def host_ids(self) -> Iterable[str]:
        return list(self.hosts)

    def accelerator_row(self, position: int) -> agent_pb2.AcceleratorStatus:
        return agent_pb2.AcceleratorStatus(index=position, serial=f"d{position}")

    def positions(self) -> Iterable[int]:
        return [0]

    def fault_row(self, key: FaultKey, now: float) -> agent_pb2.FaultStatus:
        del now
        stands = key in self.faults
        assertion = types_pb2.FAULT_ASSERTION_OCCURRED if stands else types_pb2.FAULT_ASSERTION_RECOVERED
        return agent_pb2.FaultStatus(entity=key[0], code=key[1], assertion=assertion)

    def fault_keys(self) -> Iterable[FaultKey]:
        return list(self.faults)

    def broken_links(self) -> agent_pb2.BrokenLinks | None:
        return None

    def unreadable(self) -> agent_pb2.UnreadableSources:
        return agent_pb2.UnreadableSources(sources=[agent_pb2.UnreadableSource(name=name) for name in self.blind])


def shard(step: int, files: int = 0) -> ShardFinding:
    message = agent_pb2.ShardWritten(job_uid="j", generation=1, step=step, rank=0)
    message.files.extend(types_pb2.ShardFile(path="p" * 1000) for _ in range(files))
    return ShardFinding("h", message, 10.0)


def test_rows_are_rendered_when_sent() -> None:
    view = View()
    outbox = ReportOutbox(view)
    for pid in (1, 2, 3):
        view.hosts["h"] = pid
        outbox.touch_host("h")
    report = outbox.next_report(0.0)
    assert report is not None
    assert [row.pid for row in report.hosts] == [3]
    assert outbox.next_report(0.0) is None


def test_a_change_after_sending_is_not_covered_by_the_old_acknowledgement() -> None:
    view = View()
    view.hosts["h"] = 1
    outbox = ReportOutbox(view)
    outbox.touch_host("h")
    assert outbox.next_report(0.0) is not None
    view.hosts["h"] = 2
    outbox.touch_host("h")
    outbox.acknowledge(1, 0.0)
    report = outbox.next_report(0.0)
    assert report is not None
    assert [row.pid for row in report.hosts] == [2]


def test_a_new_session_starts_with_rows_only_and_repeats_findings() -> None:
    outbox = ReportOutbox(View())
    outbox.add_finding(shard(1))
    first = outbox.next_report(11.0)
    assert first is not None
    assert (first.sequence, first.shards[0].step_age_ms) == (1, 1000)
    snapshot = outbox.hello_snapshot(12.0)
    assert (snapshot.sequence, snapshot.full, len(snapshot.shards)) == (2, True, 0)
    assert outbox.acknowledge(2, 12.0) == [], "the snapshot's acknowledgement confirms no finding"
    again = outbox.next_report(13.0)
    assert again is not None
    assert (again.sequence, again.shards[0].step_age_ms) == (3, 3000)
    assert [finding.key for finding in outbox.acknowledge(3, 13.0)] == [shard(1).key]
    assert outbox.unacknowledged == 0


def test_a_full_window_ends_in_one_full_snapshot() -> None:
    view = View()
    view.hosts["h"] = 1
    outbox = ReportOutbox(view)
    for _ in range(WINDOW):
        outbox.touch_host("h")
        assert outbox.next_report(0.0) is not None
    outbox.touch_host("h")
    assert outbox.next_report(0.0) is None
    outbox.acknowledge(WINDOW, 0.0)
    report = outbox.next_report(0.0)
    assert report is not None
    assert report.full


def test_silence_of_the_controller_makes_everything_due_again() -> None:
    outbox = ReportOutbox(View())
    outbox.add_finding(shard(1))
    assert outbox.next_report(0.0) is not None
    assert outbox.next_report(RESEND_AFTER_S - 1) is None
    again = outbox.next_report(RESEND_AFTER_S + 1)
    assert again is not None
    assert (again.full, len(again.shards)) == (True, 1)


def test_large_findings_are_spread_over_reports() -> None:
    outbox = ReportOutbox(View())
    for step in range(10):
        outbox.add_finding(shard(step, files=300))
    sent = 0
    while (report := outbox.next_report(0.0)) is not None:
        assert report.ByteSize() < FINDINGS_BYTES + 400_000
        sent += len(report.shards)
    assert sent == 10


def test_findings_are_bounded_and_the_oldest_go() -> None:
    outbox = ReportOutbox(View())
    for step in range(FINDING_LIMIT + 3):
        outbox.add_finding(shard(step))
    assert outbox.unacknowledged == FINDING_LIMIT
    assert outbox.dropped_findings == 3


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["touch", "shard", "send", "ack", "break", "late"]), max_size=60))
def test_the_controller_ends_up_with_the_truth(actions: list[str]) -> None:
    """Whatever is lost with a broken session, a controller that applies reports in order converges."""
    view, now, known, shards, step = View(), 0.0, {}, set(), 0
    outbox = ReportOutbox(view)
    wire: list[agent_pb2.Report] = [outbox.hello_snapshot(now)]

    def deliver() -> None:
        for report in wire:
            if report.full:
                known.clear()
            known.update({row.host_id: row.pid for row in report.hosts})
            shards.update(row.step for row in report.shards)
        if wire:
            outbox.acknowledge(wire[-1].sequence, now)
        wire.clear()

    for action in actions:
        now += 0.1
        match action:
            case "touch":
                host_id = f"h{step % 3}"
                view.hosts[host_id] = step
                step += 1
                outbox.touch_host(host_id)
            case "shard":
                step += 1
                outbox.add_finding(shard(step))
            case "send":
                report = outbox.next_report(now)
                wire.extend([report] if report is not None else [])
            case "ack":
                deliver()
            case "late":
                now += RESEND_AFTER_S
            case _:
                wire[:] = [outbox.hello_snapshot(now)]
    written = {finding.message.step for finding, _ in outbox._findings.values() if isinstance(finding, ShardFinding)}
    while True:
        deliver()
        report = outbox.next_report(now)
        if report is None:
            break
        wire.append(report)
    assert known == view.hosts
    assert written <= shards
    assert outbox.unacknowledged == 0


def test_one_outcome_per_effect() -> None:
    memory = OutcomeMemory()
    assert memory.begin("e")
    assert not memory.begin("e"), "it is under way"
    memory.end("e", Outcome(ok=True, message="first"), 0.0)
    first = memory.next_result()
    assert first is not None
    assert not memory.begin("e")
    again = memory.next_result()
    assert again == first
    assert memory.next_result() is None


def test_quiet_success_goes_without_saying_and_failure_does_not() -> None:
    memory = OutcomeMemory()
    assert memory.begin("done")
    memory.end("done", Outcome(ok=True), 0.0, quiet=True)
    assert memory.next_result() is None
    assert not memory.begin("done")
    again = memory.next_result()
    assert again is not None, "who asks again is answered"
    assert again.ok
    assert memory.begin("failed")
    memory.end("failed", Outcome(ok=False, message="no room"), 0.0, quiet=True)
    failed = memory.next_result()
    assert failed is not None
    assert (failed.effect_id, failed.message) == ("failed", "no room")


def test_an_effect_that_did_nothing_may_be_tried_again() -> None:
    memory = OutcomeMemory()
    assert memory.begin("e")
    memory.end("e", Outcome(ok=False, message="need full table", final=False), 0.0)
    assert memory.begin("e")


def test_outcomes_and_running_effects_are_bounded() -> None:
    memory = OutcomeMemory()
    for number in range(RUNNING_LIMIT):
        assert memory.begin(f"r{number}")
    assert not memory.begin("one too many")
    busy = memory.next_result()
    assert busy is not None
    assert not busy.ok
    for number in range(OUTCOME_LIMIT + 10):
        memory.end(f"e{number}", Outcome(ok=True), 0.0)
    assert len(memory._outcomes) == OUTCOME_LIMIT
    assert len(memory._due) == OUTCOME_LIMIT


def test_results_of_the_last_minute_go_out_again_in_a_new_session() -> None:
    memory = OutcomeMemory()
    for effect_id, ended_at in (("old", 10.0), ("new", 95.0)):
        memory.begin(effect_id)
        memory.end(effect_id, Outcome(ok=True), ended_at)
        memory.next_result()
    memory.new_session(None)
    assert memory.next_result() is None
    memory.new_session(100.0)
    again = memory.next_result()
    assert again is not None
    assert again.effect_id == "new"
    assert memory.next_result() is None


def test_the_end_of_a_fault_is_told_until_it_is_confirmed() -> None:
    view = View()
    outbox = ReportOutbox(view)
    key = ("accelerator/0", "E1")
    view.faults.add(key)
    outbox.touch_fault(key)
    first = outbox.next_report(0.0)
    assert first is not None
    view.faults.clear()
    outbox.touch_fault(key)
    outbox.acknowledge(first.sequence, 0.0)
    ended = outbox.next_report(0.0)
    assert ended is not None
    assert [row.assertion for row in ended.faults] == [types_pb2.FAULT_ASSERTION_RECOVERED]
    outbox.request_full()
    full = outbox.next_report(0.0)
    assert full is not None
    assert [row.code for row in full.faults] == ["E1"], "not confirmed yet"
    outbox.acknowledge(full.sequence, 0.0)
    outbox.request_full()
    last = outbox.next_report(0.0)
    assert last is not None
    assert not last.faults
    assert outbox.unacknowledged == 0


def test_sources_are_the_whole_truth_when_they_are_told() -> None:
    view = View()
    outbox = ReportOutbox(view)
    view.blind = ["probe"]
    outbox.touch_sources()
    told = outbox.next_report(0.0)
    assert told is not None
    assert [source.name for source in told.unreadable.sources] == ["probe"]
    view.blind = []
    outbox.touch_sources()
    over = outbox.next_report(0.0)
    assert over is not None
    assert over.HasField("unreadable")
    assert not over.unreadable.sources


def test_a_flood_of_events_leaves_room_for_shards() -> None:
    outbox = ReportOutbox(View())
    outbox.add_finding(shard(1))
    for number in range(EVENT_LIMIT + 100):
        event = agent_pb2.FaultStatus(entity="accelerator/0", code="E", sequence=number + 1)
        outbox.add_finding(EventFinding(event, 1.0))
    report = outbox.next_report(3.0)
    assert report is not None
    assert len(report.shards) == 1
    assert len(report.faults) == EVENT_LIMIT
    assert report.faults[0].raised_age_ms == 2_000
    assert outbox.dropped_findings == 100
