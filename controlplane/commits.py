"""What follows every durable turn, in the brain's thread, before the next one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from controlplane.brain import Clock
from controlplane.core import records as r
from controlplane.core.traces import Trace, account_of, trace_of
from controlplane.engine.soft import SoftColumns
from controlplane.engine.turn import TurnResult
from controlplane.observability import Metrics, chronicle
from controlplane.observability.detection import detected
from controlplane.observability.recoveries import RecoveryWatch
from controlplane.rpc.progress import ProgressGate
from controlplane.rpc.router import Router


@dataclass(frozen=True, slots=True)
class AfterCommit:
    """Called by the engine with every turn that wrote something. `export`: where ended recoveries go as traces."""

    progress: ProgressGate
    router: Router
    soft: SoftColumns
    clock: Clock
    metrics: Metrics
    recoveries: RecoveryWatch
    export: Callable[[Trace], None] | None = None

    def __call__(self, result: TurnResult) -> None:
        """Tell everybody who follows the state."""
        self.progress.committed(result.records)
        for record in result.records:
            if isinstance(record, r.NodeSessionChanged) and record.open:
                # A hello is a sign of life: without this, the next tick would see a node that has never beaten.
                self.soft.beat(result.state.fleet.index[record.node], self.clock.now_ns())
        self.router.committed(result.records)
        self._tell(result)

    def _tell(self, result: TurnResult) -> None:
        self.metrics.committed(result.records)
        now_ns = self.clock.now_ns()
        for failure, after_ns in detected(result.records, result.entries, result.state, self.soft.last_beat_ns, now_ns):
            self.metrics.detected(failure, after_ns)
        chronicle.tell(result.records, result.state)
        for job, recovery in self.recoveries.ended(result.records, result.state):
            self.metrics.recovered(recovery)
            chronicle.tell_recovery(job, recovery)
            if self.export is not None:
                self.export(trace_of(account_of(job, recovery)))
