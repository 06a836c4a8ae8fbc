"""Settings of the controller: one frozen value, parsed once from the command line. Each names its unit and its reason."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from controlplane.core.retention import Retention
from controlplane.core.units import NS_PER_S
from controlplane.observability.logs import FORMS, LEVELS

LEAST_LEASE_MS = 800
"""Twice the lateness that `engine.soft` tolerates: below it, a lag that is not yet noticed could outlast a lease."""


LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _setting(default: Any = MISSING, *, unit: str, why: str, choices: tuple[str, ...] | None = None) -> Any:
    metadata = {"unit": unit, "why": why, "choices": choices}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a site may set. Times are integer milliseconds."""

    dir: str = _setting(unit="folder", why="holds journal.db; on a local disk, because SQLite needs working locks")
    listen: str = _setting(unit="host:port", why="gRPC for agents, cells and operators")
    metrics: str = _setting(unit="host:port", why="Prometheus scrapes /metrics here; keep it on loopback")
    checkpoints: str = _setting(unit="folder", why="root on shared storage for jobs that name no folder of their own")

    journal: str = _setting(
        "", unit="url", why="postgresql://user@host/database, without a password; empty: SQLite in --dir"
    )
    journal_password_file: str = _setting("", unit="file", why="password for PostgreSQL, read at each connection; 0600")
    advertise: str = _setting("", unit="host:port", why="where others reach --listen; a standby names it to callers")
    retain_records: int = _setting(
        500_000, unit="records", why="the journal keeps at most so many, for watches and the record of what happened"
    )
    retain_days: int = _setting(30, unit="days", why="the journal keeps them so long at most; why answers for longer")
    retain_decisions_days: int = _setting(
        400, unit="days", why="what explains decisions, and the audit, outlives compaction for a year and a month"
    )
    journal_max_bytes: int = _setting(
        8 << 30, unit="bytes", why="beyond it all goes that the newest snapshot makes unnecessary: space for a bad week"
    )
    leader_lease_ms: int = _setting(
        5_000, unit="ms", why="a standby takes over a leader that has not renewed for so long: within 10 s in all"
    )
    leader_renew_ms: int = _setting(
        1_000, unit="ms", why="how often the leader renews: four misses do not cost the lead, one commit a second"
    )

    pki: str = _setting("", unit="folder", why="the site's certificate authority; required unless --plaintext")
    join: str = _setting(
        "", unit="host:port", why="where agents trade a join token for a certificate; empty: nobody joins"
    )
    plaintext: bool = _setting(
        False, unit="flag", why="no TLS and no identities; refused unless every address is loopback"
    )
    certificate_ms: int = _setting(
        86_400_000, unit="ms", why="life of agents' certificates, which renew at two thirds; a stolen one ends with it"
    )
    operator_certificate_ms: int = _setting(
        2_592_000_000, unit="ms", why="life of operators' certificates when they ask for none: 30 days"
    )

    lease_ms: int = _setting(3_000, unit="ms", why="a node that is silent for longer is SUSPECT; six missed beats")
    beat_ms: int = _setting(500, unit="ms", why="how often agents beat: progress is at most this old")
    orphan_grace_ms: int = _setting(
        600_000, unit="ms", why="ranks run on this long without a controller: longer than any restart of it takes"
    )
    dead_without_witness_ms: int = _setting(
        300_000, unit="ms", why="a silent node is DEAD after this even when nobody else has seen it die"
    )
    effect_ms: int = _setting(120_000, unit="ms", why="an agent must answer an effect within; then it expires")
    tick_ms: int = _setting(
        100, unit="ms", why="how often silence and deadlines are judged; silence also when a lease runs out"
    )
    inbox_limit: int = _setting(
        20_000, unit="events", why="three per node of the largest site; beyond it commands are refused, reports wait"
    )
    batch_limit: int = _setting(256, unit="events", why="one turn's share of the inbox: one fsync for all of them")
    preflight_ms: int = _setting(20_000, unit="ms", why="a cell imports the workload before the job is stored")
    hello_ms: int = _setting(10_000, unit="ms", why="a stream without a hello is cut, so that idle peers hold nothing")
    request_ms: int = _setting(60_000, unit="ms", why="deadline of calls that bring none; above preflight_ms")
    session_queue: int = _setting(
        4_096, unit="messages", why="instructions that wait for one slow agent; beyond it the session is cut"
    )
    write_ms: int = _setting(10_000, unit="ms", why="an agent that takes longer to read one message is cut")
    report_queue: int = _setting(
        256, unit="messages", why="reports of one agent that wait for the brain; agents keep 64 open"
    )
    journal_busy_ms: int = _setting(
        2_000, unit="ms", why="an append waits this long for another process's write (the follower's snapshot)"
    )
    snapshot_records: int = _setting(2_000, unit="records", why="replay of a start stays below a second")
    snapshot_every_ms: int = _setting(60_000, unit="ms", why="a quiet site gets a fresh snapshot too")
    max_message_bytes: int = _setting(
        16 << 20, unit="bytes", why="transport limit; each method has a lower one of its own"
    )
    fault_table: str = _setting(
        "", unit="file", why="TOML with the site's own handling of fault codes; overrides the tables that come along"
    )
    policy: str = _setting(
        "", unit="file", why="TOML with the site's own limits of decisions; `phalanx policy show` lists them all"
    )
    max_active_jobs: int = _setting(1_000, unit="jobs", why="every one is looked at in every turn that concerns it")
    log_level: str = _setting("info", unit="level", why="least important lines that are written", choices=tuple(LEVELS))
    log_format: str = _setting("json", unit="format", why="json for collectors, console for people", choices=FORMS)
    otlp: str = _setting(
        "", unit="host:port", why="OpenTelemetry collector that gets a trace of every recovery; empty: none"
    )

    @property
    def journal_url(self) -> str:
        """URL of the journal: the one that was named, or the file in `dir`."""
        if self.journal:
            return self.journal
        path = Path(self.dir).absolute() / "journal.db"
        return f"sqlite:///{quote(str(path))}"

    @property
    def retention(self) -> Retention:
        """How much of the journal stays."""
        day_ns = 86_400 * NS_PER_S
        return Retention(
            self.retain_records, self.retain_days * day_ns, self.journal_max_bytes, self.retain_decisions_days * day_ns
        )

    @property
    def root(self) -> str:
        """Absolute root for checkpoints of jobs that name none."""
        return str(Path(self.checkpoints).absolute())

    @property
    def code_root(self) -> str:
        """Absolute folder for shipped code: beside the checkpoints, because every node sees that storage."""
        return str(Path(self.checkpoints).absolute().parent / "code")


def parse_settings(arguments: Sequence[str] | None = None) -> Settings:
    """The settings of a command line (default: this process's).

    Raises:
        SystemExit: the line is wrong (status 2), or asked for help.
    """
    parser = argparse.ArgumentParser(prog="python -m controlplane", description="The Phalanx controller.")
    for item in fields(Settings):
        required = item.default is MISSING
        name = f"--{item.name.replace('_', '-')}"
        if isinstance(item.default, bool):
            parser.add_argument(name, dest=item.name, action="store_true", help=item.metadata["why"])
            continue
        shown = f" (default {item.default})" if not required and item.default != "" else ""
        parser.add_argument(
            name,
            dest=item.name,
            required=required,
            type=_positive if isinstance(item.default, int) else str,
            choices=item.metadata["choices"],
            default=None if required else item.default,
            metavar=item.metadata["unit"].upper(),
            help=f"{item.metadata['why']} [{item.metadata['unit']}]{shown}",
        )
    settings = Settings(**vars(parser.parse_args(arguments)))
    for problem in _problems(settings):
        parser.error(problem)
    return settings


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _problems(settings: Settings) -> list[str]:
    found = []
    for name in ("listen", "metrics", *(name for name in ("join", "otlp") if getattr(settings, name))):
        try:
            host, _ = split_address(getattr(settings, name))
        except ValueError as error:
            found.append(f"--{name}: {error}")
            continue
        if settings.plaintext and name != "metrics" and host not in LOOPBACK:
            found.append(f"--plaintext is for loopback only, --{name} {getattr(settings, name)} is not: use --pki")
    if settings.plaintext == bool(settings.pki):
        found.append(
            "give either --pki FOLDER (`python -m controlplane.pki init` makes one) or, on loopback, --plaintext"
        )
    if settings.plaintext and settings.join:
        found.append("--join takes tokens over TLS: it has no meaning with --plaintext")
    if settings.lease_ms < 2 * settings.beat_ms:
        found.append(f"--lease-ms {settings.lease_ms} must hold at least two beats of --beat-ms {settings.beat_ms}")
    if settings.lease_ms < LEAST_LEASE_MS:
        found.append(f"--lease-ms {settings.lease_ms} is below {LEAST_LEASE_MS}: our own lag could pass for silence")
    if settings.leader_lease_ms < 2 * settings.leader_renew_ms:
        text = f"--leader-lease-ms {settings.leader_lease_ms} must hold two renewals of --leader-renew-ms"
        found.append(f"{text} {settings.leader_renew_ms}: one that is late must not cost the lead")
    if settings.tick_ms > settings.lease_ms:
        found.append(f"--tick-ms {settings.tick_ms} must not exceed --lease-ms {settings.lease_ms}")
    return found


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` (IPv6 hosts in brackets).

    Raises:
        ValueError: it is not of that form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"{address!r} is not host:port with a port of 1 to 65535")
    return host.strip("[]"), int(port)
