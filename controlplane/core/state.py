"""The truth in memory: what the records say. Published states are never changed; a turn works on a fork."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from controlplane.core import codec
from controlplane.core.accounting.ledger import Ledger, book
from controlplane.core.accounting.tally import Tally, count, recount, wanted_by
from controlplane.core.audit import Head
from controlplane.core.effects import Effect
from controlplane.core.evidence import Offence
from controlplane.core.fleet import FREE, Fleet
from controlplane.core.health.book import HealthBook
from controlplane.core.health.budget import Act
from controlplane.core.health.canaries import NO_CANARIES, CanaryBook
from controlplane.core.health.shadow import NO_SHADOWS, ShadowBook
from controlplane.core.health.stragglers import NO_STRAGGLERS, StragglerBook
from controlplane.core.identity import IdentityBook
from controlplane.core.jobs import Job
from controlplane.core.placement.pool import short
from controlplane.core.placement.spares import NO_WEAR, Wear, with_stock, with_time
from controlplane.core.records_policy import PolicyChanged

HEALTH = "/health"
"""Marks an owned health book; no uid of a job holds a slash."""
MAX_ANSWERS = 1_024
"""Answers to mutating requests that are remembered."""
MAX_ENDED_JOBS = 200
"""Ended jobs that stay visible."""
MAX_ACTS = 4_096
"""Acts against working nodes that are remembered; the budget looks back a few minutes."""
MAX_OFFENCES = 4_096
"""Incidents that are counted against ranks and nodes; rules look back hours."""
MAX_EVIDENCE = 64
"""Revisions kept of the records that widened one incident."""
MAX_RECOVERIES = 256
"""Recoveries kept per job; older ones stay in the journal."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One Ray cluster and its agent."""

    name: str
    open: bool
    boot_id: str
    incarnation: str
    store_address: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a mutating request. `command` is a fingerprint of what was asked; "": not known (journals of 0.1)."""

    fields: dict[str, str]
    command: str = ""


NO_AUDIT = Head()


@dataclass(slots=True)
class State:
    """Everything the controller knows durably.

    `fork` gives a working copy that shares all columns; `own_job` and `own_fleet` clone an entity before its first change.
    """

    revision: int = 0
    epoch: int = 0
    at_ns: int = 0
    fleet: Fleet = field(default_factory=Fleet)
    cells: dict[str, Cell] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    next_job: int = 1
    next_effect: int = 1
    effects: dict[str, Effect] = field(default_factory=dict)
    answers: dict[str, Answered] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    audit: Head = NO_AUDIT
    identity: IdentityBook = field(default_factory=IdentityBook)
    acts: tuple[Act, ...] = ()
    health: HealthBook = field(default_factory=HealthBook)
    offences: tuple[Offence, ...] = ()
    wear: Wear = NO_WEAR
    policy: PolicyChanged | None = None
    shadows: ShadowBook = NO_SHADOWS
    canaries: CanaryBook = NO_CANARIES
    stragglers: StragglerBook = NO_STRAGGLERS
    _owned: set[str] = field(default_factory=set)
    _tally: Tally | None = None

    def fork(self) -> State:
        """A working copy: changes to it never show in this one."""
        return State(
            self.revision, self.epoch, self.at_ns, self.fleet, dict(self.cells), dict(self.jobs), dict(self.names),
            self.next_job, self.next_effect, dict(self.effects), dict(self.answers), self.ledger.clone(), self.audit,
            self.identity, self.acts, self.health, self.offences, self.wear, self.policy, self.shadows, self.canaries,
            self.stragglers,
            set(),
            self._tally,
        )  # fmt: skip

    def own_job(self, uid: str) -> Job:
        """The job, safe to change in this fork."""
        if uid not in self._owned:
            self._owned.add(uid)
            self.jobs[uid] = self.jobs[uid].clone()
        return self.jobs[uid]

    def own_fleet(self) -> Fleet:
        """The fleet, safe to change in this fork."""
        if "" not in self._owned:
            self._owned.add("")
            self.fleet = self.fleet.clone()
        return self.fleet

    def own_health(self) -> HealthBook:
        """The health book, safe to change in this fork."""
        if HEALTH not in self._owned:
            self._owned.add(HEALTH)
            self.health = self.health.clone()
        return self.health

    def job_named(self, name: str) -> Job | None:
        """The newest job of a name."""
        uid = self.names.get(name)
        return self.jobs.get(uid) if uid else None

    def note_offence(self, offence: Offence) -> None:
        """Count an incident once, however often it is decided."""
        if offence not in self.offences[-MAX_EVIDENCE:]:
            self.offences = (*self.offences, offence)[-MAX_OFFENCES:]

    def active_jobs(self) -> list[Job]:
        """Jobs that have not ended, by submission."""
        return [job for job in self.jobs.values() if not job.terminal]

    def cell(self) -> Cell | None:
        """A cell whose agent is connected, else any known one."""
        return next((c for c in self.cells.values() if c.open), next(iter(self.cells.values()), None))

    def note_failures(self, nodes: int) -> None:
        """Nodes that were in service have failed."""
        if nodes:
            self.wear = with_time(self.wear, self.at_ns, 0, nodes)

    def note_stock(self) -> None:
        """Spares are held, taken, or wanted in another number."""
        self.wear = with_stock(self.wear, short=short(self.active_jobs()), at_ns=self.at_ns)

    def tally(self) -> Tally:
        """How many devices are what, now."""
        self._tally = count(self.fleet) if self._tally is None else recount(self._tally, self.fleet)
        return self._tally

    def advance_ledger(self, now_ns: int) -> None:
        """Book the time since the last booking to the buckets as they were."""
        ledger = self.ledger
        if not ledger.last_ns:
            ledger.begun_ns = ledger.last_ns = now_ns
            return
        elapsed = now_ns - ledger.last_ns
        if elapsed <= 0:
            return
        tally = self.tally()
        active = self.active_jobs()
        for bucket, devices in tally.idle(wanted_by(active)).items():
            if devices:
                ledger.add(bucket, devices * elapsed)
                ledger.device_ns += devices * elapsed
        self.wear = with_time(self.wear, now_ns, tally.serving * elapsed)
        for job in active:
            devices = tally.of(job)
            if devices:
                ledger.device_ns += book(ledger, self.own_job(job.uid), devices, now_ns)
        ledger.last_ns = now_ns

    def ledger_at(self, now_ns: int) -> State:
        """A copy whose ledger is booked up to `now_ns`, for reading."""
        view = self.fork()
        view.advance_ledger(now_ns)
        return view

    def to_json(self) -> str:
        """The whole state as canonical JSON: equal states give equal text."""
        body: dict[str, Any] = {
            "revision": self.revision, "epoch": self.epoch, "at_ns": self.at_ns, "fleet": codec.encode(self.fleet),
            "cells": [codec.encode(c) for c in self.cells.values()],
            "jobs": [codec.encode(j) for j in self.jobs.values()],
            "names": self.names, "next_job": self.next_job, "next_effect": self.next_effect,
            "effects": [codec.encode(e) for e in self.effects.values()],
            "answers": [[key, known.fields, known.command] for key, known in self.answers.items()],
            "audit": codec.encode(self.audit), "acts": [codec.encode(act) for act in self.acts],
            "ledger": codec.encode(self.ledger),
        }  # fmt: skip
        if self.wear != NO_WEAR:
            body["wear"] = codec.encode(self.wear)
        if self.identity != IdentityBook():  # a journal from before there were identities keeps its digest
            body["identity"] = codec.encode(self.identity)
        if self.health != HealthBook():
            body["health"] = codec.encode(self.health)
        if self.offences:
            body["offences"] = [codec.encode(offence) for offence in self.offences]
        if self.policy is not None:
            body["policy"] = codec.encode(self.policy)
        if self.shadows.hits:
            body["shadows"] = codec.encode(self.shadows)
        if self.canaries != NO_CANARIES:
            body["canaries"] = codec.encode(self.canaries)
        if self.stragglers.flagged:
            body["stragglers"] = codec.encode(self.stragglers)
        return json.dumps(body, sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 of `to_json`, hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @staticmethod
    def from_json(text: str) -> State:
        """The state of a snapshot."""
        body = json.loads(text)
        cells = [codec.decode(Cell, c) for c in body["cells"]]
        jobs = [codec.decode(Job, j) for j in body["jobs"]]
        effects = [codec.decode(Effect, e) for e in body["effects"]]
        fleet = codec.decode(Fleet, body["fleet"])
        fleet.fill_gaps()
        return State(
            body["revision"], body["epoch"], body["at_ns"], fleet,
            {c.name: c for c in cells}, {j.uid: j for j in jobs}, body["names"], body["next_job"], body["next_effect"],
            {e.id: e for e in effects}, {key: Answered(*known) for key, *known in body["answers"]},
            codec.decode(Ledger, body["ledger"]), codec.decode(Head, body.get("audit", {})),
            codec.decode(IdentityBook, body.get("identity", {})),
            tuple(codec.decode(Act, act) for act in body.get("acts", [])),
            codec.decode(HealthBook, body.get("health", {})),
            tuple(codec.decode(Offence, offence) for offence in body.get("offences", [])),
            codec.decode(Wear, body.get("wear", {})),
            codec.decode(PolicyChanged, body["policy"]) if "policy" in body else None,
            codec.decode(ShadowBook, body.get("shadows", {})), codec.decode(CanaryBook, body.get("canaries", {})),
            codec.decode(StragglerBook, body.get("stragglers", {})),
        )  # fmt: skip


def free_devices(fleet: Fleet) -> np.ndarray:
    """(nodes, width) mask of devices that a new rank could take now."""
    mask: np.ndarray = fleet.usable_accelerators() & (fleet.acc_owner == FREE) & fleet.schedulable()[:, None]
    return mask
