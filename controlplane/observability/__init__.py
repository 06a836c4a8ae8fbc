"""What the controller tells about itself: JSON logs, Prometheus metrics, a line per decision."""

from controlplane.observability.logs import configure_logging, name_process
from controlplane.observability.metrics import Metrics
from controlplane.observability.sight import Sight
from controlplane.observability.timed_journal import TimedJournal

__all__ = ["Metrics", "Sight", "TimedJournal", "configure_logging", "name_process"]
