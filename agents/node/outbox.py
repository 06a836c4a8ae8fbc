"""What the controller has not yet confirmed: rows of changed hosts, accelerators and faults, and one-time findings.

States are kept by key and rendered when sent, so a row that changed twice while the controller was away travels once,
as the truth of that moment with its true age. Findings (shards, failed restores, checks, events of devices) are kept as
such. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from phalanx.v1 import agent_pb2

from agents.node.hosts import age_ms

WINDOW = 64
"""Reports sent and not acknowledged; beyond it changes gather, and one full snapshot follows."""
FINDING_LIMIT = 4096
FINDINGS_BYTES = 1 << 20
"""Findings in one report; gRPC servers refuse messages over 4 MiB by default."""
REPORT_FAULTS = 256
"""Faults and events in one report: controllers refuse more, and with them the session."""
EVENT_LIMIT = 256
"""Events of devices that wait: a flood of them does not push out what ranks have written."""
RESEND_AFTER_S = 10.0

FaultKey = tuple[str, str]
"""Entity and code of a fault."""
Key = tuple[str | int, ...]
K = TypeVar("K")


class Finding(Protocol):
    """A one-time message to the controller."""

    @property
    def key(self) -> Key:
        """Identity: a repeat replaces the former one."""

    def bytes(self) -> int:
        """Size on the wire."""

    def add_to(self, report: agent_pb2.Report, now: float) -> None:
        """Put it into a report that leaves at `now`."""


@dataclass(frozen=True, slots=True)
class ShardFinding:
    """A checkpoint shard is written; `host_id` is told when the controller has it."""

    host_id: str
    message: agent_pb2.ShardWritten
    reached_at: float

    @property
    def key(self) -> Key:
        """One rank writes one shard of a step in a generation."""
        return ("shard", self.message.job_uid, self.message.generation, self.message.step, self.message.rank)

    def bytes(self) -> int:
        """Size on the wire."""
        return self.message.ByteSize()

    def add_to(self, report: agent_pb2.Report, now: float) -> None:
        """Put it into a report that leaves at `now`."""
        row = report.shards.add()
        row.CopyFrom(self.message)
        row.step_age_ms = age_ms(self.reached_at, now)


@dataclass(frozen=True, slots=True)
class RestoreFailedFinding:
    """A rank could not use a checkpoint."""

    message: agent_pb2.RestoreFailed

    @property
    def key(self) -> Key:
        """One rank fails once per file in a generation."""
        found = self.message
        return ("restore", found.job_uid, found.generation, found.rank, found.checkpoint_id, found.file)

    def bytes(self) -> int:
        """Size on the wire."""
        return self.message.ByteSize()

    def add_to(self, report: agent_pb2.Report, now: float) -> None:
        """Put it into a report."""
        del now
        report.restore_failures.add().CopyFrom(self.message)


@dataclass(frozen=True, slots=True)
class SaveTroubleFinding:
    """A rank could not save as it should."""

    message: agent_pb2.SaveFinding

    @property
    def key(self) -> Key:
        """The newest of its kind of a rank is what counts."""
        found = self.message
        return ("save", found.job_uid, found.generation, found.rank, found.word)

    def bytes(self) -> int:
        """Size on the wire."""
        return self.message.ByteSize()

    def add_to(self, report: agent_pb2.Report, now: float) -> None:
        """Put it into a report."""
        del now
        report.save_findings.add().CopyFrom(self.message)


@dataclass(frozen=True, slots=True)
class CheckedFinding:
    """A checkpoint was read back."""

    message: agent_pb2.CheckpointChecked

    @property
    def key(self) -> Key:
        """The newest check of a checkpoint is what counts."""
        return ("checked", self.message.job_uid, self.message.checkpoint_id)

    def bytes(self) -> int:
        """Size on the wire."""
        return self.message.ByteSize()

    def add_to(self, report: agent_pb2.Report, now: float) -> None:
        """Put it into a report."""
        del now
        report.checked.add().CopyFrom(self.message)


@dataclass(frozen=True, slots=True)
class EventFinding:
    """Something happened to a device and left no state behind. `raised_at`: monotonic seconds."""

    message: agent_pb2.FaultStatus
    raised_at: float

    @property
    def key(self) -> Key:
        """The source numbers its events, or else the moment tells them apart."""
        found = self.message
        return ("event", found.vendor, found.entity, found.code, found.sequence or round(self.raised_at * 1_000))

    def bytes(self) -> int:
        """Size on the wire."""
        return self.message.ByteSize()

    def add_to(self, report: agent_pb2.Report, now: float) -> None:
        """Put it into a report that leaves at `now`."""
        row = report.faults.add()
        row.CopyFrom(self.message)
        row.raised_age_ms = max(1, age_ms(self.raised_at, now))


class NodeView(Protocol):
    """Where rows come from at the moment they are sent."""

    def host_row(self, host_id: str, now: float) -> agent_pb2.HostStatus | None:
        """One host, or None when it is forgotten."""

    def host_ids(self) -> Iterable[str]:
        """All hosts."""

    def accelerator_row(self, position: int) -> agent_pb2.AcceleratorStatus:
        """One accelerator."""

    def positions(self) -> Iterable[int]:
        """All accelerators."""

    def fault_row(self, key: FaultKey, now: float) -> agent_pb2.FaultStatus:
        """A fault as it stands now; RECOVERED when it does not."""

    def fault_keys(self) -> Iterable[FaultKey]:
        """All faults that stand."""

    def unreadable(self) -> agent_pb2.UnreadableSources:
        """Sources of health that cannot be read."""

    def broken_links(self) -> agent_pb2.BrokenLinks | None:
        """Nodes that the network does not lead to; None while nobody has tried."""


@dataclass(slots=True)
class _Sent:
    sequence: int | None = None


class ReportOutbox:
    """Turns changes into reports with growing sequence numbers and keeps them until they are acknowledged."""

    def __init__(self, view: NodeView) -> None:
        self._view = view
        self._hosts: dict[str, _Sent] = {}
        self._accelerators: dict[int, _Sent] = {}
        self._faults: dict[FaultKey, _Sent] = {}
        self._sources: dict[str, _Sent] = {}  # one entry, because they are told together
        self._findings: OrderedDict[Key, tuple[Finding, _Sent]] = OrderedDict()
        self._sequence = 0
        self._acknowledged = 0
        self._oldest_sent_at: float | None = None
        self._full_due = False
        self.dropped_findings = 0

    @property
    def unacknowledged(self) -> int:
        """Rows and findings that the controller has not confirmed."""
        return sum(len(table) for table in self._tables) + len(self._findings)

    def touch_host(self, host_id: str) -> None:
        """The host's row has changed."""
        self._hosts[host_id] = _Sent()

    def touch_accelerator(self, position: int) -> None:
        """The accelerator's row has changed."""
        self._accelerators[position] = _Sent()

    def touch_fault(self, key: FaultKey) -> None:
        """A fault has begun to stand, has occurred anew, or stands no more."""
        self._faults[key] = _Sent()

    def touch_sources(self) -> None:
        """Other sources than before cannot be read, or other nodes cannot be reached."""
        self._sources["all"] = _Sent()

    def add_finding(self, finding: Finding) -> None:
        """Keep a finding until it is acknowledged. A repeat of one that waits changes nothing."""
        if finding.key in self._findings and not isinstance(finding, CheckedFinding):
            return
        if isinstance(finding, EventFinding) and self._waiting_events() >= EVENT_LIMIT:
            self.dropped_findings += 1
            return
        self._findings[finding.key] = (finding, _Sent())
        while len(self._findings) > FINDING_LIMIT:
            self._findings.popitem(last=False)
            self.dropped_findings += 1

    def request_full(self) -> None:
        """The next report is a full snapshot."""
        self._full_due = True

    def hello_snapshot(self, now: float) -> agent_pb2.Report:
        """The snapshot of a new session's hello. What was not acknowledged in the former session is due again.

        It holds rows only: findings follow in reports of their own, so that it stays small and its acknowledgement
        never covers a finding which it does not hold.
        """
        self._everything_due()
        # Nothing of the former session is in flight any more, and what it left unconfirmed gets new numbers.
        self._acknowledged = self._sequence
        report = self._full_rows(now)
        self._note_sent(now)
        return report

    def next_report(self, now: float) -> agent_pb2.Report | None:
        """The report to send now; None when nothing is due or the window is full."""
        if self._oldest_sent_at is not None and now - self._oldest_sent_at > RESEND_AFTER_S:
            self._everything_due()
            self._full_due = True
            self._acknowledged = self._sequence
            self._oldest_sent_at = None
        if not self._due():
            return None
        if self._sequence - self._acknowledged >= WINDOW:
            self._full_due = True
            return None
        report = self._full_rows(now) if self._full_due else self._changed_rows(now)
        self._full_due = False
        size, held = 0, False
        for finding, sent in self._findings.values():
            if sent.sequence is not None:
                continue
            if isinstance(finding, EventFinding) and len(report.faults) >= REPORT_FAULTS:
                continue
            size += finding.bytes()
            if size > FINDINGS_BYTES and held:
                break
            finding.add_to(report, now)
            held = True
            sent.sequence = report.sequence
        self._note_sent(now)
        return report

    def acknowledge(self, sequence: int, now: float) -> list[Finding]:
        """`sequence` and all earlier reports are durable; returns the findings that this confirms."""
        sequence = min(sequence, self._sequence)
        self._acknowledged = max(self._acknowledged, sequence)
        self._oldest_sent_at = None if self._acknowledged >= self._sequence else now
        for table in self._tables:
            for key in [key for key, sent in table.items() if _covered(sent, sequence)]:
                del table[key]
        confirmed = [finding for finding, sent in self._findings.values() if _covered(sent, sequence)]
        for finding in confirmed:
            del self._findings[finding.key]
        return confirmed

    @property
    def _tables(self) -> tuple[dict[Any, _Sent], ...]:
        return self._hosts, self._accelerators, self._faults, self._sources

    def _marks(self) -> Iterator[_Sent]:
        """What was sent of everything that is not confirmed."""
        for table in self._tables:
            yield from table.values()
        for _, sent in self._findings.values():
            yield sent

    def _waiting_events(self) -> int:
        return sum(isinstance(finding, EventFinding) for finding, _ in self._findings.values())

    def _due(self) -> bool:
        return self._full_due or any(sent.sequence is None for sent in self._marks())

    def _everything_due(self) -> None:
        for sent in self._marks():
            sent.sequence = None

    def _new_report(self) -> agent_pb2.Report:
        self._sequence += 1
        return agent_pb2.Report(sequence=self._sequence)

    def _full_rows(self, now: float) -> agent_pb2.Report:
        report = self._new_report()
        report.full = True
        rows = (self._view.host_row(host_id, now) for host_id in self._view.host_ids())
        report.hosts.extend(row for row in rows if row is not None)
        report.accelerators.extend(self._view.accelerator_row(position) for position in self._view.positions())
        standing = {*self._view.fault_keys()}
        # What recovered and is not confirmed yet goes along: only a hello ends what it does not name.
        ended = [key for key in self._faults if key not in standing]
        told = (*sorted(standing), *ended)[:REPORT_FAULTS]  # what has ended and is not named has ended all the same
        report.faults.extend(self._view.fault_row(key, now) for key in told)
        self._add_sources(report)
        for table in self._tables:
            for sent in table.values():
                sent.sequence = report.sequence
        return report

    def _changed_rows(self, now: float) -> agent_pb2.Report:
        report = self._new_report()
        for host_id in _take_due(self._hosts, report.sequence):
            row = self._view.host_row(host_id, now)
            if row is not None:
                report.hosts.append(row)
        for position in _take_due(self._accelerators, report.sequence):
            report.accelerators.append(self._view.accelerator_row(position))
        for fault in _take_due(self._faults, report.sequence, REPORT_FAULTS):
            report.faults.append(self._view.fault_row(fault, now))
        if _take_due(self._sources, report.sequence):
            self._add_sources(report)
        return report

    def _add_sources(self, report: agent_pb2.Report) -> None:
        report.unreadable.CopyFrom(self._view.unreadable())
        links = self._view.broken_links()
        if links is not None:
            report.broken_links.CopyFrom(links)

    def _note_sent(self, now: float) -> None:
        if self._oldest_sent_at is None:
            self._oldest_sent_at = now


def _take_due(table: dict[K, _Sent], sequence: int, most: int | None = None) -> list[K]:
    """Keys that are due, at most so many; they count as sent in the report of that number."""
    due = [key for key, sent in table.items() if sent.sequence is None][:most]
    for key in due:
        table[key].sequence = sequence
    return due


def _covered(sent: _Sent, sequence: int) -> bool:
    return sent.sequence is not None and sent.sequence <= sequence
