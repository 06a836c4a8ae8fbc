"""What the controller has not yet confirmed: rows of changed hosts and accelerators, and one-time findings.

States are kept by key and rendered when sent, so a row that changed twice while the controller was away travels once,
as the truth of that moment with its true age. Findings (shards, failed restores, checks) are kept as such. Nothing
here does I/O or reads a clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from phalanx.v1 import agent_pb2

from agents.node.hosts import age_ms

WINDOW = 64
"""Reports sent and not acknowledged; beyond it changes gather, and one full snapshot follows."""
FINDING_LIMIT = 4096
FINDINGS_BYTES = 1 << 20
"""Findings in one report; gRPC servers refuse messages over 4 MiB by default."""
RESEND_AFTER_S = 10.0

Key = tuple[str | int, ...]


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


class NodeView(Protocol):
    """Where rows come from at the moment they are sent."""

    def host_row(self, host_id: str, now: float) -> agent_pb2.HostStatus | None:
        """One host, or None when it is forgotten."""

    def host_ids(self) -> Iterable[str]:
        """All hosts."""

    def accelerator_row(self, serial: str) -> agent_pb2.AcceleratorStatus | None:
        """One accelerator."""

    def serials(self) -> Iterable[str]:
        """All accelerators."""


@dataclass(slots=True)
class _Sent:
    sequence: int | None = None


class ReportOutbox:
    """Turns changes into reports with growing sequence numbers and keeps them until they are acknowledged."""

    def __init__(self, view: NodeView) -> None:
        self._view = view
        self._hosts: dict[str, _Sent] = {}
        self._accelerators: dict[str, _Sent] = {}
        self._findings: OrderedDict[Key, tuple[Finding, _Sent]] = OrderedDict()
        self._sequence = 0
        self._acknowledged = 0
        self._oldest_sent_at: float | None = None
        self._full_due = False
        self.dropped_findings = 0

    @property
    def unacknowledged(self) -> int:
        """Rows and findings that the controller has not confirmed."""
        return len(self._hosts) + len(self._accelerators) + len(self._findings)

    def touch_host(self, host_id: str) -> None:
        """The host's row has changed."""
        self._hosts[host_id] = _Sent()

    def touch_accelerator(self, serial: str) -> None:
        """The accelerator's row has changed."""
        self._accelerators[serial] = _Sent()

    def add_finding(self, finding: Finding) -> None:
        """Keep a finding until it is acknowledged. A repeat of one that waits changes nothing."""
        if finding.key in self._findings and not isinstance(finding, CheckedFinding):
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
        size = 0
        for finding, sent in self._findings.values():
            if sent.sequence is not None:
                continue
            size += finding.bytes()
            if size > FINDINGS_BYTES and report.ByteSize() and _holds_findings(report):
                break
            finding.add_to(report, now)
            sent.sequence = report.sequence
        self._note_sent(now)
        return report

    def acknowledge(self, sequence: int, now: float) -> list[Finding]:
        """`sequence` and all earlier reports are durable; returns the findings that this confirms."""
        sequence = min(sequence, self._sequence)
        self._acknowledged = max(self._acknowledged, sequence)
        self._oldest_sent_at = None if self._acknowledged >= self._sequence else now
        self._hosts = {key: sent for key, sent in self._hosts.items() if not _covered(sent, sequence)}
        self._accelerators = {key: sent for key, sent in self._accelerators.items() if not _covered(sent, sequence)}
        confirmed = [finding for finding, sent in self._findings.values() if _covered(sent, sequence)]
        for finding in confirmed:
            del self._findings[finding.key]
        return confirmed

    def _due(self) -> bool:
        if self._full_due:
            return True
        marks = [*self._hosts.values(), *self._accelerators.values(), *(sent for _, sent in self._findings.values())]
        return any(sent.sequence is None for sent in marks)

    def _everything_due(self) -> None:
        for sent in (*self._hosts.values(), *self._accelerators.values()):
            sent.sequence = None
        for _, sent in self._findings.values():
            sent.sequence = None

    def _new_report(self) -> agent_pb2.Report:
        self._sequence += 1
        return agent_pb2.Report(sequence=self._sequence)

    def _full_rows(self, now: float) -> agent_pb2.Report:
        report = self._new_report()
        report.full = True
        rows = (self._view.host_row(host_id, now) for host_id in self._view.host_ids())
        report.hosts.extend(row for row in rows if row is not None)
        devices = (self._view.accelerator_row(serial) for serial in self._view.serials())
        report.accelerators.extend(row for row in devices if row is not None)
        for sent in (*self._hosts.values(), *self._accelerators.values()):
            sent.sequence = report.sequence
        return report

    def _changed_rows(self, now: float) -> agent_pb2.Report:
        report = self._new_report()
        for host_id, sent in self._hosts.items():
            if sent.sequence is None:
                sent.sequence = report.sequence
                row = self._view.host_row(host_id, now)
                if row is not None:
                    report.hosts.append(row)
        for serial, sent in self._accelerators.items():
            if sent.sequence is None:
                sent.sequence = report.sequence
                device = self._view.accelerator_row(serial)
                if device is not None:
                    report.accelerators.append(device)
        return report

    def _note_sent(self, now: float) -> None:
        if self._oldest_sent_at is None:
            self._oldest_sent_at = now


def _covered(sent: _Sent, sequence: int) -> bool:
    return sent.sequence is not None and sent.sequence <= sequence


def _holds_findings(report: agent_pb2.Report) -> bool:
    return bool(report.shards or report.restore_failures or report.checked)
