"""Wires the controller together, starts it and ends it. The only place that knows all parts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NoReturn, Protocol

import structlog
from prometheus_client import start_http_server

from controlplane.adapters.journal.lease import SqlLease
from controlplane.adapters.journal.sql import SqlJournal
from controlplane.brain import Brain, BrainLimits, Clock, ExitCode
from controlplane.catalogues import CatalogueError, site_catalogue, site_policy
from controlplane.collector import leave_out_the_state, walk_seldom
from controlplane.commits import AfterCommit
from controlplane.config import Settings, parse_settings, split_address
from controlplane.core.draft import Policy, Refusal
from controlplane.core.health.distrust import DistrustPolicy
from controlplane.core.health.suspicion import SuspicionPolicy
from controlplane.core.machine import Machine
from controlplane.core.records import UnknownRecord
from controlplane.core.site_policy import BadPolicy
from controlplane.core.traces import Trace
from controlplane.core.units import ms, to_s
from controlplane.engine.ports import EpochLost, Journal, JournalCorrupt, JournalUnavailable
from controlplane.engine.recover import assume
from controlplane.engine.soft import STALL_TOLERANCE_NS, SoftColumns
from controlplane.engine.turn import Engine
from controlplane.follower import compact, store
from controlplane.leadership import Leadership, Standby, candidate
from controlplane.observability import Metrics, Sight, TimedJournal, configure_logging, name_process
from controlplane.observability.processor import ProcessorWait
from controlplane.observability.recoveries import RecoveryWatch
from controlplane.observability.sight import StateCollector, standing_by
from controlplane.observability.supervision import tell_supervisor
from controlplane.pki.authority import AuthorityError
from controlplane.rpc.admin_service import Storage
from controlplane.rpc.progress import ProgressGate
from controlplane.rpc.router import Router
from controlplane.rpc.server import AddressTaken, Edge, bind, serve
from controlplane.rpc.site import Site
from controlplane.rpc.wakeups import EdgeLoop
from controlplane.strain import StrainWatch
from controlplane.warm import load_late

WANTED_FILES = 65_536
"""One descriptor a connection: 6,250 nodes, their relays and some air."""
LEAST_FILES = 1_024
PROBE_S = 0.1
BRIEF_BEATS = 1.5
"""Silence, in beats, after which three agreeing witnesses need not wait for the lease."""
STOP_GRACE_S = 0.5
STOP_LIMIT_S = 10.0
LEASE_STATEMENT_MS = 2_000
"""A renewal waits this long for an append that holds the leader's row; then it is tried again."""
TRACES_LIMIT_S = 2.0
FOLLOWER_DELAY_S = 3.0
"""A start is busy enough with agents that come back."""
FOLLOWER_BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
FOLLOWER_STEADY_S = 120.0

log = structlog.get_logger(__name__)


class CannotStart(Exception):
    """Why the controller does not start; the message is for people."""


def main(arguments: list[str] | None = None) -> int:
    """Run the controller until SIGTERM or SIGINT. Returns the exit status (see `brain.ExitCode`)."""
    settings = parse_settings(arguments)
    configure_logging(settings.log_level, settings.log_format)
    walk_seldom()
    try:
        with asyncio.Runner(loop_factory=EdgeLoop) as runner:
            return runner.run(_Controller(settings).run())
    except (CannotStart, AddressTaken, AuthorityError, UnknownRecord, JournalCorrupt, JournalUnavailable) as error:
        sys.stderr.write(f"phalanx controller: {error}\n")
        return ExitCode.CANNOT_START
    except EpochLost as error:
        sys.stderr.write(f"phalanx controller: {error}\n")
        return ExitCode.EPOCH_LOST


def end_at_once(code: ExitCode) -> NoReturn:
    """End the process without touching anything: what is durable is durable, what is not must not happen."""
    sys.stdout.flush()
    os._exit(code)


@dataclass(slots=True)
class _Parts:
    """The running parts."""

    journal: Journal
    leadership: Leadership
    brain: Brain
    site: Site
    edge: Edge
    router: Router
    traces: Traces | None


class _Controller:
    """One life of a controller."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._stop = asyncio.Event()
        self._standby: Standby | None = None

    async def run(self) -> int:
        """Start, serve until a signal, end in order.

        Raises:
            CannotStart, AddressTaken, AuthorityError, UnknownRecord, JournalCorrupt, JournalUnavailable: not started,
                nothing changed.
            EpochLost: another controller took over while this one started.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        raise_file_limit()
        parts = await self._start(loop)
        if parts is None:
            return ExitCode.OK
        works = (_probe(parts.brain), self._keep_follower(), asyncio.to_thread(load_late))
        beside = [asyncio.create_task(work) for work in works]
        await self._stop.wait()
        log.info("controller_stopping", revision=parts.site.state.revision)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        return await self._end(parts)

    async def _start(self, loop: asyncio.AbstractEventLoop) -> _Parts | None:
        """Hold the ports, stand by while another controller leads, then lead. None: told to stop before that."""
        settings, metrics = self._settings, self._metrics
        traces = start_traces(settings, metrics)
        folder = Path(settings.dir)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the journal holds manifests and their secrets
        except OSError as error:
            raise CannotStart(f"cannot make the folder {folder}: {error.strerror}") from error
        # Both ports first: whoever holds the port of a former leader knows that it is dead.
        edge = bind(settings, metrics, lambda: self._standby.leader if self._standby else "")
        try:
            return await self._lead(loop, edge, traces)
        except BaseException:
            await edge.stop(0.0)  # a server that still runs when the loop has closed complains about it
            raise

    async def _lead(self, loop: asyncio.AbstractEventLoop, edge: Edge, traces: Traces | None) -> _Parts | None:
        settings, metrics = self._settings, self._metrics
        policy = _policy(settings)
        self._serve_metrics()
        journal, leadership = await asyncio.to_thread(open_journal, settings, metrics)
        standby = self._standby = Standby(journal, leadership)
        edge.access.attach(lambda: standby.state, time.time_ns, lambda claims: None)
        await edge.set_serving(serving=False)
        await edge.start()
        tell_supervisor("READY=1", f"STATUS=stands by at {settings.listen}")
        metrics.watch(lambda: standing_by(version(), leadership.seen.epoch, standby.state.revision))
        taken = await standby.until_leader(self._stop)
        if taken is None:
            await edge.stop(STOP_GRACE_S)
            leadership.close()
            journal.close()
            return None
        began_s = time.monotonic()
        epoch, before = taken
        machine = Machine(policy)
        state = assume(
            journal, machine, before, epoch=epoch, version=version(), now_ns=time.time_ns(), note_policy=True
        )
        clock = Clock(max(time.time_ns(), state.at_ns))
        soft = SoftColumns(clock.now_ns())
        journal.told = lambda took_ns: soft.appended(took_ns, clock.now_ns())
        engine = Engine(machine, journal, soft, lambda effects: None, state, draw=random.random)
        limits = BrainLimits(settings.inbox_limit, settings.batch_limit, ms(settings.tick_ms), ms(settings.lease_ms))
        strain = StrainWatch(soft, ms(settings.beat_ms), ProcessorWait())
        brain = Brain(engine, soft, clock, limits, metrics=metrics, strain=strain, fatal=end_at_once)
        site = Site(settings, brain, ProgressGate(soft), journal, metrics, version(), loop, edge.calls)
        compact = partial(self._compact, site)
        router = serve(edge, site, Storage(compact, leadership.held, machine.policy))
        engine.submit = router.submit
        name_process(epoch=state.epoch)
        engine.on_commit = AfterCommit(
            site.progress, router, soft, clock, metrics, RecoveryWatch(state), None if traces is None else traces.send
        )
        metrics.watch(StateCollector(lambda: sight(site, router, soft, journal, edge)))
        leadership.keep(state.epoch, brain.epoch_lost, brain.lease_trouble)
        leave_out_the_state()
        brain.start()
        edge.open()
        await edge.set_serving(serving=True)
        tell_supervisor(f"STATUS=leads with epoch {state.epoch} at {settings.listen}")
        log.info(
            "controller_started",
            epoch=state.epoch,
            revision=state.revision,
            outstanding_effects=len(state.effects),
            listen=settings.listen,
            replay_s=round(time.monotonic() - began_s, 3),
            version=version(),
            pid=os.getpid(),
        )
        return _Parts(journal, leadership, brain, site, edge, router, traces)

    def _compact(self, site: Site, now_ns: int, before: int) -> int:
        """Compact as far as retention, or somebody, wants; a fresh snapshot first, because it is the limit."""
        store(site.journal, site.state)
        return compact(site.journal, self._settings.retention, now_ns, before)

    def _serve_metrics(self) -> None:
        host, port = split_address(self._settings.metrics)
        try:
            start_http_server(port, addr=host, registry=self._metrics.registry)
        except OSError as error:
            text = f"cannot serve metrics on {self._settings.metrics}: {error.strerror}"
            raise CannotStart(text) from error

    async def _end(self, parts: _Parts) -> int:
        """Stop accepting, finish the turn, close. Sessions end with us; the next start knows that."""
        parts.site.stopping = True
        tell_supervisor("STOPPING=1")
        await parts.edge.set_serving(serving=False)
        parts.router.end_all(Refusal("unavailable", "SHUTTING_DOWN", "the controller is shutting down: connect again"))
        stopping = asyncio.create_task(parts.edge.stop(STOP_GRACE_S))
        ended = await asyncio.to_thread(parts.brain.stop, STOP_LIMIT_S)
        await stopping
        if not ended:
            log.critical("turn_did_not_end", limit_s=STOP_LIMIT_S)
            end_at_once(ExitCode.DEFECT)
        await asyncio.to_thread(parts.leadership.resign, parts.site.state.epoch)
        parts.journal.close()
        if parts.traces is not None:
            await asyncio.to_thread(parts.traces.close, TRACES_LIMIT_S)
        log.info("controller_stopped", revision=parts.site.state.revision)
        return ExitCode.OK

    async def _keep_follower(self) -> None:
        """Keep a follower running, with longer pauses while it does not hold."""
        settings, failures = self._settings, 0
        await asyncio.sleep(FOLLOWER_DELAY_S)
        while True:
            began_s = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "controlplane.follower",
                "--journal", settings.journal_url,
                "--password-file", settings.journal_password_file,
                "--parent", str(os.getpid()),
                "--records", str(settings.snapshot_records),
                "--every-ms", str(settings.snapshot_every_ms),
                "--retain-records", str(settings.retain_records),
                "--retain-days", str(settings.retain_days),
                "--retain-decisions-days", str(settings.retain_decisions_days),
                "--journal-max-bytes", str(settings.journal_max_bytes),
            )  # fmt: skip
            try:
                code = await process.wait()
            except asyncio.CancelledError:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()
                raise
            failures = 0 if time.monotonic() - began_s >= FOLLOWER_STEADY_S else failures + 1
            pause_s = FOLLOWER_BACKOFF_S[min(failures, len(FOLLOWER_BACKOFF_S)) - 1] if failures else 0.0
            log.warning("follower_ended", code=code, pause_s=pause_s)
            await asyncio.sleep(pause_s)


def open_journal(settings: Settings, metrics: Metrics) -> tuple[TimedJournal, Leadership]:
    """The journal, brought to this version's schema, and the lease in it.

    Raises:
        CannotStart: the URL is of no supported kind, or holds a password.
        JournalUnavailable, JournalCorrupt: it cannot be opened or read.
    """
    url, secret = settings.journal_url, settings.journal_password_file
    try:
        journal = SqlJournal(url, busy_timeout_ms=settings.journal_busy_ms, password_file=secret)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    lease = SqlLease(url, limit_ms=LEASE_STATEMENT_MS, password_file=secret)
    me = candidate(settings.listen, settings.advertise)
    leadership = Leadership(lease, me, settings.leader_lease_ms, settings.leader_renew_ms)
    return TimedJournal(journal, metrics), leadership


def version() -> str:
    """Version of the installed distribution."""
    try:
        return metadata.version("phalanx")
    except metadata.PackageNotFoundError:
        return "unpackaged"


class Traces(Protocol):
    """Where traces of recoveries go."""

    def send(self, trace: Trace) -> None:
        """Queue a trace; returns at once."""
        ...

    def close(self, limit_s: float) -> None:
        """Send what waits, at most so long."""
        ...


def start_traces(settings: Settings, metrics: Metrics) -> Traces | None:
    """The way to the collector that the settings name, None when they name none.

    Raises:
        CannotStart: the libraries for it are not installed.
    """
    if not settings.otlp:
        return None
    try:
        from controlplane.adapters.traces.otlp import OtlpTraces  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        text = f"--otlp needs OpenTelemetry ({error.name} is missing): pip install 'phalanx[traces]'"
        raise CannotStart(text) from error
    return OtlpTraces(settings.otlp, version=version(), told=metrics.traced)


def raise_file_limit() -> None:
    """Allow as many open files as the system lets us.

    Raises:
        CannotStart: that is too few for even a small site.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft < LEAST_FILES:
        raise CannotStart(f"only {soft} open files are allowed: raise the limit to {LEAST_FILES} or more (ulimit -n)")


def _policy(settings: Settings) -> Policy:
    try:
        catalogue = site_catalogue(settings.fault_table)
    except CatalogueError as error:
        raise CannotStart(f"--fault-table {error}") from error
    suspicion = SuspicionPolicy(
        lease_s=settings.lease_ms / 1000,
        brief_s=BRIEF_BEATS * settings.beat_ms / 1000,
        dead_without_witness_s=settings.dead_without_witness_ms / 1000,
    )
    policy = Policy(
        suspicion=suspicion,
        orphan_grace_ms=settings.orphan_grace_ms,
        effect_ms=settings.effect_ms,
        max_active_jobs=settings.max_active_jobs,
        catalogue=catalogue,
        distrust=DistrustPolicy(lag_s=to_s(STALL_TOLERANCE_NS), after_s=settings.lease_ms / 1000),
    )
    try:
        return site_policy(settings.policy, policy)
    except BadPolicy as error:
        raise CannotStart(f"--policy {error}") from error


def sight(site: Site, router: Router, soft: SoftColumns, journal: TimedJournal, edge: Edge) -> Sight:
    """What a scrape shows."""
    now_ns = site.now_ns()
    state = site.state.ledger_at(now_ns)
    return Sight(
        state=state,
        now_ns=now_ns,
        version=site.version,
        leader=True,
        step_ns={job.uid: soft.progress(job.uid)[1] for job in state.active_jobs()},
        sessions=router.sessions(),
        inbox_depth=site.brain.depth,
        inbox_limit=site.settings.inbox_limit,
        loop_lag_s=site.brain.lag_s(),
        degraded=site.brain.degraded(),
        strained=site.brain.strain(),
        journal_blocked=bool(site.brain.blocked),
        journal_bytes=journal.size_bytes(),
        authority_expires_s=edge.authority.expires_s if edge.authority else None,
    )


async def _probe(brain: Brain) -> None:
    """Tell the brain that the edge's loop runs: when it does not, beats wait unread and silence means nothing."""
    while True:
        now_ns = time.monotonic_ns()
        brain.edge_alive(now_ns, now_ns + int(PROBE_S * 1e9))
        await asyncio.sleep(PROBE_S)
