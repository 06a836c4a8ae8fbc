"""What the parts of one agent share: the host table, the outbox, soft progress, counters and the wake-up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

import structlog
from phalanx.v1 import agent_pb2

from agents.node.devices import Devices
from agents.node.hosts import HostTable, moment_of
from agents.node.hosts_file import save_hosts
from agents.node.observability import Counters
from agents.node.outbox import FaultKey, ReportOutbox

log = structlog.get_logger(__name__)


class NodeState:
    """Truth about the node, in memory, with its persistence. Lives on the event loop; not thread-safe."""

    def __init__(self, hosts_path: Path, table: HostTable, devices: Devices) -> None:
        self._hosts_path = hosts_path
        self.table = table
        self.devices = devices
        self.counters = Counters()
        self.outbox = ReportOutbox(self)
        self.wake = asyncio.Event()
        self._progress: dict[str, tuple[agent_pb2.StepProgress, float]] = {}
        self._told_steps: dict[str, tuple[int, int]] = {}
        self._final_steps = False
        devices.tell(self.outbox, self.wake.set)

    def host_changed(self, host_id: str) -> None:
        """A host's record has changed: keep it on disk, then tell the controller.

        A full disk must not keep the controller from learning it; only a restart of the agent would then know less.
        """
        try:
            self.save()
        except OSError as error:
            self.counters.add("hosts_not_saved")
            if self.counters.first("hosts", str(error)):
                log.error("hosts.not_saved", reason=str(error))  # noqa: TRY400  the reason is for an operator
        self.outbox.touch_host(host_id)
        self.wake.set()

    def save(self) -> None:
        """Write the host table. Raises OSError; the caller acknowledges nothing before this has returned."""
        save_hosts(self._hosts_path, self.table)

    def note_progress(self, progress: agent_pb2.StepProgress) -> None:
        """Soft state: only the newest counts, it travels with the next beat. Steps of a generation never go back."""
        known, _ = self._progress.get(progress.host_id, (None, 0.0))
        if known is not None and known.generation == progress.generation and progress.step < known.step:
            self.counters.add("steps_backwards")
            return
        self._progress[progress.host_id] = (progress, moment_of(progress.age_ms, time.monotonic()))

    def last_step(self, host_id: str, generation: int) -> int:
        """The newest step of a generation that a rank has told; 0: none."""
        known = self._progress.get(host_id)
        return known[0].step if known is not None and known[0].generation == generation else 0

    def workload_finished(self) -> None:
        """A rank has done its last step: it is told before its end, which the next regular beat might not be."""
        self._final_steps = True
        self.wake.set()

    def take_final_steps(self) -> bool:
        """Whether there are last steps to tell; once."""
        due, self._final_steps = self._final_steps, False
        return due

    def progress_anew(self) -> None:
        """A new session begins: whoever is at its other end knows no steps."""
        self._told_steps.clear()

    def progress_rows(self) -> list[agent_pb2.StepProgress]:
        """Last known step of every living rank, with its age now. What was told in this session is not told again: its stream
        loses nothing, and a step of a large gang takes many beats."""
        now = time.monotonic()
        rows = []
        for host_id in list(self._progress):
            record = self.table.get(host_id)
            if record is None or record.exited:
                del self._progress[host_id]
                self._told_steps.pop(host_id, None)
                continue
            progress, ended_at = self._progress[host_id]
            step = (progress.generation, progress.step)
            if record.assigned is None or record.assigned.generation != progress.generation:
                continue
            if self._told_steps.get(host_id) == step:
                continue
            self._told_steps[host_id] = step
            row = agent_pb2.StepProgress()
            row.CopyFrom(progress)
            row.age_ms = max(0, round((now - ended_at) * 1000))
            rows.append(row)
        return rows

    def host_row(self, host_id: str, now: float) -> agent_pb2.HostStatus | None:
        """One host, or None when it is forgotten."""
        record = self.table.get(host_id)
        return record.row(now) if record is not None else None

    def host_ids(self) -> Iterable[str]:
        """All hosts."""
        return list(self.table.records)

    def accelerator_row(self, position: int) -> agent_pb2.AcceleratorStatus:
        """One accelerator."""
        return self.devices.board.accelerator(position)

    def busy_positions(self) -> frozenset[int] | None:
        """Accelerators that processes of ranks may use now: all of them while one has no assignment; None: none lives here."""
        living = [record for record in self.table if not record.empty]
        if not living:
            return None
        if any(record.assigned is None for record in living):
            return frozenset(self.positions())
        return frozenset(position for r in living if r.assigned is not None for position in r.assigned.accelerators)

    def positions(self) -> Iterable[int]:
        """All accelerators."""
        return self.devices.board.positions()

    def fault_row(self, key: FaultKey, now: float) -> agent_pb2.FaultStatus:
        """A fault as it stands now; RECOVERED when it does not."""
        return self.devices.board.fault(key, now)

    def fault_keys(self) -> Iterable[FaultKey]:
        """All faults that stand."""
        return self.devices.board.fault_keys()

    def broken_links(self) -> agent_pb2.BrokenLinks | None:
        """Nodes that the network does not lead to; None while nobody has tried."""
        found = self.devices.broken_links
        return None if found is None else agent_pb2.BrokenLinks(nodes=sorted(found))

    def unreadable(self) -> agent_pb2.UnreadableSources:
        """Sources of health that cannot be read."""
        return self.devices.board.unreadable()
