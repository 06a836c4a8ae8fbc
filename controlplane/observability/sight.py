"""The published state as metrics, read at the moment of a scrape."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from controlplane.core.accounting.ledger import ettr
from controlplane.core.fleet import FREE
from controlplane.core.health.strain import Shown
from controlplane.core.identity import CELL, NODE
from controlplane.core.jobs import Job
from controlplane.core.state import State, free_devices
from controlplane.core.units import to_s
from controlplane.core.vocabulary import AcceleratorState, Bucket, JobState, NodeLiveness, NodeService


@dataclass(frozen=True, slots=True)
class Sight:
    """What a scrape shows beside this process's counters. `state` is booked up to `now_ns`.

    `step_ns`: Unix ns of the newest step by job uid. `sessions`: open streams by kind of agent. `authority_expires_s`: end
    of the site authority's certificate, Unix seconds; None without identities. `journal_bytes` None: it cannot be read.
    """

    state: State
    now_ns: int
    version: str
    leader: bool
    step_ns: Mapping[str, int]
    sessions: Mapping[str, int]
    inbox_depth: int
    inbox_limit: int
    loop_lag_s: float
    degraded: bool
    strained: Shown
    journal_blocked: bool
    journal_bytes: int | None = None
    authority_expires_s: float | None = None


def standing_by(version: str, epoch: int, revision: int) -> Iterable[Metric]:
    """What a standby shows: that it stands by, and how far it has followed. The fleet and the jobs are the leader's to tell,
    or sums over all controllers would count them twice.
    """
    yield _build_info(version)
    yield _gauge("phalanx_leader", "1 while this controller leads, 0 while it stands by.", 0)
    yield _gauge("phalanx_epoch", "Epoch of the leadership that it follows.", epoch)
    yield _gauge("phalanx_journal_revision", "Newest record that it has read.", revision)


class StateCollector:
    """Turns a `Sight` into metric families. Remembers the ledger's highest values, because counters must not fall."""

    def __init__(self, sight: Callable[[], Sight]) -> None:
        self._sight = sight
        self._highest_s: dict[Bucket, float] = {}

    def __call__(self) -> Iterable[Metric]:
        """All families, with every scrape."""
        seen = self._sight()
        yield from _process(seen)
        yield from _fleet(seen.state)
        yield from _jobs(seen)
        yield from self._ledger(seen.state)

    def _ledger(self, state: State) -> Iterable[Metric]:
        """The counter never falls: what a rollback takes from a bucket later is made up before it grows again."""
        total = CounterMetricFamily(
            "phalanx_accelerator_seconds", "Accelerator-seconds by bucket, highest value so far.", labels=["bucket"]
        )
        ledger = GaugeMetricFamily(
            "phalanx_ledger_accelerator_seconds", "Accelerator-seconds by bucket as booked now.", labels=["bucket"]
        )
        for bucket in Bucket:
            value = to_s(state.ledger.site.get(bucket, 0))
            self._highest_s[bucket] = max(self._highest_s.get(bucket, 0.0), value)
            total.add_metric([bucket.value], self._highest_s[bucket])
            ledger.add_metric([bucket.value], value)
        yield total
        yield ledger


def _process(seen: Sight) -> Iterable[Metric]:
    yield _build_info(seen.version)
    sessions = GaugeMetricFamily(
        "phalanx_sessions", "Open sessions by kind of agent; nodes behind relays are among the nodes.", labels=["kind"]
    )
    for kind, count in sorted(seen.sessions.items()):
        sessions.add_metric([kind], count)
    yield sessions
    yield _expiries(seen)
    if seen.journal_bytes is not None:
        yield _gauge("phalanx_journal_size_bytes", "What the journal takes on disk.", seen.journal_bytes)
    yield _gauge("phalanx_leader", "1 while this controller leads, 0 while it stands by.", seen.leader)
    yield _gauge("phalanx_epoch", "Epoch of this leadership.", seen.state.epoch)
    yield _gauge("phalanx_journal_revision", "Newest durable record.", seen.state.revision)
    yield _gauge("phalanx_journal_blocked", "1 while the journal takes nothing.", seen.journal_blocked)
    yield _gauge("phalanx_inbox_depth", "Events that wait for a turn.", seen.inbox_depth)
    yield _gauge("phalanx_inbox_limit", "Events that may wait; beyond it commands are refused.", seen.inbox_limit)
    yield _gauge("phalanx_loop_lag_seconds", "How late the controller's loops run.", seen.loop_lag_s)
    yield _gauge("phalanx_detector_degraded", "1 while silence is not trusted.", seen.degraded)
    strain = seen.strained.strain
    yield _gauge(
        "phalanx_detector_strained",
        "1 while beats are seen late and silence is trusted still.",
        bool(seen.strained.reasons),
    )
    yield _gauge(
        "phalanx_processor_wait_ratio",
        "Share of the last second in which the thread that waited longest had no processor; NaN: the system does not tell.",
        strain.waits,
    )
    yield _gauge(
        "phalanx_late_beats_ratio", "Share of the nodes that are heard whose newest beat is late.", strain.late_share
    )
    yield _gauge("phalanx_effects_outstanding", "Effects that agents have not answered.", len(seen.state.effects))


def _build_info(version: str) -> Metric:
    build = GaugeMetricFamily("phalanx_build_info", "1, labelled with the version that runs.", labels=["version"])
    build.add_metric([version], 1)
    return build


def _expiries(seen: Sight) -> Metric:
    """The certificate that ends first, of each kind of connected agent; agents renew at two thirds of a life."""
    family = GaugeMetricFamily(
        "phalanx_certificate_expiry_timestamp_seconds",
        "When the first certificate ends: of the authority, and of agents that are connected. Unix time.",
        labels=["certificate"],
    )
    state = seen.state
    nodes = {fact.name for fact, open_now in zip(state.fleet.facts, state.fleet.session, strict=True) if open_now}
    cells = {cell.name for cell in state.cells.values() if cell.open}
    ends_ns: dict[str, int] = {}
    for identity in state.identity.identities.values():
        connected = nodes if identity.kind == NODE else cells if identity.kind == CELL else ()
        if identity.name in connected and identity.expires_ns:
            ends_ns[identity.kind] = min(ends_ns.get(identity.kind, identity.expires_ns), identity.expires_ns)
    for kind, end_ns in sorted(ends_ns.items()):
        family.add_metric([kind], to_s(end_ns))
    if seen.authority_expires_s is not None:
        family.add_metric(["authority"], seen.authority_expires_s)
    return family


def _fleet(state: State) -> Iterable[Metric]:
    fleet = state.fleet
    ours = fleet.service != NodeService.RETIRED
    yield _by_word("phalanx_nodes", "Nodes by liveness.", "liveness", NodeLiveness, fleet.liveness[ours])
    yield _by_word("phalanx_nodes_by_service", "Nodes by service state.", "service", NodeService, fleet.service)
    yield _by_word(
        "phalanx_accelerators",
        "Accelerators by state.",
        "state",
        AcceleratorState,
        fleet.acc_state[fleet.acc_state != 0],
    )
    yield _gauge("phalanx_nodes_cordoned", "Nodes that take no new work.", np.count_nonzero(fleet.cordoned))
    yield _gauge("phalanx_nodes_spare", "Nodes held back for jobs.", np.count_nonzero(fleet.reserved != FREE))
    wanted = sum(job.wanted_spares for job in state.active_jobs() if job.placed)
    yield _gauge("phalanx_nodes_spare_wanted", "Nodes that should be held back for jobs.", wanted)
    yield _gauge(
        "phalanx_accelerators_free",
        "Accelerators that a new rank could take now.",
        np.count_nonzero(free_devices(fleet)),
    )
    open_cells = sum(cell.open for cell in state.cells.values())
    cells = GaugeMetricFamily("phalanx_cells", "Cells by whether their agent is connected.", labels=["state"])
    cells.add_metric(["connected"], open_cells)
    cells.add_metric(["away"], len(state.cells) - open_cells)
    yield cells


def _jobs(seen: Sight) -> Iterable[Metric]:
    jobs = GaugeMetricFamily(
        "phalanx_jobs", "Jobs by state, ended ones that are still listed included.", labels=["state"]
    )
    counts = Counts(job.state for job in seen.state.jobs.values())
    for state in JobState:
        jobs.add_metric([state.name], counts.get(state, 0))
    yield jobs
    active = seen.state.active_jobs()
    yield _ettr(active)
    running = [job for job in active if job.state is JobState.RUNNING]
    for name, text, since in (
        ("phalanx_oldest_queued_seconds", "Since the longest waiting QUEUED job was submitted; 0: none waits.",
         [job.submitted_ns for job in active if job.state is JobState.QUEUED]),
        ("phalanx_oldest_recovery_seconds", "Since the oldest fault from which a job has not recovered; 0: none.",
         [job.incident.fault_ns for job in active if job.incident]),
        ("phalanx_oldest_step_seconds", "Since the newest step of the RUNNING job that is slowest to make one; 0: none.",
         [at_ns for job in running if (at_ns := seen.step_ns.get(job.uid, 0))]),
        ("phalanx_oldest_checkpoint_seconds",
         "Since the newest committed checkpoint of the RUNNING job with the oldest one; 0: none.",
         [at_ns for job in running if (at_ns := _newest_checkpoint_ns(job))]),
        ("phalanx_oldest_save_failure_seconds",
         "Since the first failed or late save of the job that has saved nothing newer for longest; 0: all save.",
         [job.save_trouble.since_ns for job in active if job.save_trouble]),
    ):  # fmt: skip
        yield _gauge(name, text, max(0.0, to_s(seen.now_ns - min(since))) if since else 0)


def _ettr(active: list[Job]) -> Metric:
    shares = GaugeMetricFamily(
        "phalanx_ettr",
        "Productive share of the device time of jobs that have not ended: of all of it, of the last hour; 0: they hold none.",
        labels=["window"],
    )
    total: Counts[str] = Counts()
    for job in active:
        total.update(job.ledger_ns)
    shares.add_metric(["total"], ettr(total))
    held = sum(int(job.hour.total.sum()) for job in active)
    useful = sum(int(job.hour.productive.sum()) for job in active)
    shares.add_metric(["hour"], useful / held if held else 0.0)
    return shares


def _newest_checkpoint_ns(job: Job) -> int:
    return max((checkpoint.committed_ns for checkpoint in job.checkpoints.values()), default=0)


def _by_word(name: str, text: str, label: str, words: type[IntEnum], column: np.ndarray) -> Metric:
    """A gauge per word, 0 for words that no entity has now."""
    counts = np.bincount(column.ravel(), minlength=max(words) + 1)
    family = GaugeMetricFamily(name, text, labels=[label])
    for word in words:
        family.add_metric([word.name], int(counts[word]))
    return family


def _gauge(name: str, text: str, value: float | np.integer) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))
