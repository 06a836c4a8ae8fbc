"""Looks for strain a few times a second and keeps what is told of it."""

from __future__ import annotations

import structlog

from controlplane.core.fleet import Fleet
from controlplane.core.health.strain import Shown, Strain, after, late_beats
from controlplane.core.units import ms
from controlplane.core.vocabulary import NodeLiveness
from controlplane.engine.soft import SoftColumns
from controlplane.observability.processor import ProcessorWait

LOOK_NS = ms(100)
"""From one look to the next at least; a tick may come sooner."""

log = structlog.get_logger(__name__)


class StrainWatch:
    """Belongs to the brain's thread; `shown` may be read by any."""

    def __init__(self, soft: SoftColumns, beat_ns: int, processor: ProcessorWait) -> None:
        self._soft = soft
        self._beat_ns = beat_ns
        self._processor = processor
        self._next_ns = 0
        self.shown = Shown()

    def look(self, fleet: Fleet, now_ns: int, monotonic_ns: int) -> None:
        """Take a look, if it is time. Nodes count that are ALIVE and have a session: others are shown as not seen."""
        if monotonic_ns < self._next_ns:
            return
        self._next_ns = monotonic_ns + LOOK_NS
        heard_ns, waited_ns = self._soft.newest(fleet.size)
        mask = fleet.session & (fleet.liveness == NodeLiveness.ALIVE) & (heard_ns > 0)
        late = late_beats(heard_ns[mask], waited_ns[mask], now_ns, self._beat_ns)
        strain = Strain(self._processor.share(monotonic_ns), late, int(mask.sum()))
        before, self.shown = self.shown, after(self.shown, strain, now_ns)
        if bool(before.reasons) == bool(self.shown.reasons):
            return
        if self.shown.reasons:
            log.warning("detector_strained", reasons=self.shown.reasons, late=late, heard=strain.heard)
        else:
            log.info("detector_unstrained", lasted_ms=(now_ns - before.since_ns) // ms(1))
