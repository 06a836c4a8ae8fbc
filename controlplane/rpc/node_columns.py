"""Nodes as columns, for listings of large sites.

What seldom changes (names, labels, cordons, versions, who holds what) is kept between calls, and made again only when the
fleet's own columns were replaced: those are never written in place, so the same object means the same content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from phalanx.v1 import fleet_pb2

from controlplane.core.columns import IntColumn
from controlplane.core.fleet import FREE, Fleet, NodeFacts
from controlplane.core.state import State
from controlplane.core.units import NS_PER_S
from controlplane.core.vocabulary import AcceleratorState
from controlplane.rpc.node_health_views import reason


class Texts:
    """Texts that many nodes share, each once; a cell is an index. Index 0 is the empty text."""

    def __init__(self, known: Sequence[str] = ("",)) -> None:
        self._index = {text: index for index, text in enumerate(known)}

    def index(self, text: str) -> int:
        """Where the text stands."""
        return self._index.setdefault(text, len(self._index))

    def all(self) -> list[str]:
        """In the order of their indices."""
        return list(self._index)


@dataclass(slots=True)
class _Facts:
    """Columns made from `Fleet.facts`."""

    source: tuple[NodeFacts, ...] | None = None
    columns: fleet_pb2.NodeColumns = field(default_factory=fleet_pb2.NodeColumns)
    texts: Texts = field(default_factory=Texts)


@dataclass(slots=True)
class _Holders:
    """The jobs of each node as text, made from the owner columns and the names of jobs."""

    sources: tuple[Any, ...] = ()
    names: tuple[tuple[int, str], ...] = ()
    jobs: Sequence[str] = ()


class NodeListing:
    """Answers `ListNodes` with columns. One event loop only."""

    def __init__(self) -> None:
        self._facts = _Facts()
        self._holders = _Holders()

    def columns(self, state: State, last_beat_ns: Sequence[int], now_ns: int) -> fleet_pb2.NodeColumns:
        """All nodes, in order of first registration. `last_beat_ns` 0: it has not beaten since this controller started."""
        fleet = state.fleet
        facts = self._facts_of(fleet)
        answer = fleet_pb2.NodeColumns()
        answer.CopyFrom(facts.columns)
        known = np.asarray(fleet.acc_state)
        answer.service.extend(fleet.service.tolist())
        answer.liveness.extend(fleet.liveness.tolist())
        answer.healthy.extend((known == AcceleratorState.HEALTHY).sum(axis=1).tolist())
        answer.accelerators.extend((known != 0).sum(axis=1).tolist())
        answer.last_beat_age_s.extend(_ages_s(last_beat_ns, now_ns).tolist())
        answer.session_open.extend(fleet.session.tolist())
        answer.cell_member.extend(fleet.cell_member.tolist())
        answer.path_broken.extend(fleet.path_broken.tolist())
        texts = Texts(facts.texts.all())  # names of jobs come and go: they must not pile up beside the facts
        answer.jobs.extend(map(texts.index, self._jobs_of(state)))
        answer.reasons.extend(self._reasons_of(state, texts))
        answer.texts.extend(texts.all())
        return answer

    def _reasons_of(self, state: State, texts: Texts) -> list[int]:
        """Where the reason of each node stands; most have none, and only those of whom health knows something are looked at."""
        book, fleet = state.health, state.fleet
        found = [0] * fleet.size
        for name in {*book.stays, *book.standing, *book.sources}:
            number = fleet.number(name)
            if number is not None:
                found[number] = texts.index(reason(state, number))
        return found

    def _facts_of(self, fleet: Fleet) -> _Facts:
        if self._facts.source is not fleet.facts:
            texts = Texts()
            columns = fleet_pb2.NodeColumns(
                names=[facts.name for facts in fleet.facts],
                labels=[texts.index(_labels(facts)) for facts in fleet.facts],
                cordons=[texts.index(_cordons(facts)) for facts in fleet.facts],
                versions=[texts.index(facts.version) for facts in fleet.facts],
                addresses=[texts.index(facts.address) for facts in fleet.facts],
            )
            self._facts = _Facts(fleet.facts, columns, texts)
        return self._facts

    def _jobs_of(self, state: State) -> Sequence[str]:
        fleet = state.fleet
        names = tuple((job.serial, job.name) for job in state.active_jobs())
        held = self._holders
        sources = (fleet.acc_owner, fleet.reserved)
        same = len(held.sources) == 2 and all(old is new for old, new in zip(held.sources, sources, strict=True))
        if not same or held.names != names:
            self._holders = held = _Holders(sources, names, _holders(fleet, dict(names)))
        return held.jobs


def _labels(facts: NodeFacts) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(facts.labels))


def _cordons(facts: NodeFacts) -> str:
    return "; ".join(f"{cordon.owner}: {cordon.reason}" for cordon in facts.cordons)


def _ages_s(last_beat_ns: Sequence[int], now_ns: int) -> np.ndarray:
    """Seconds since the last beat; NaN where there was none."""
    beats = np.asarray(last_beat_ns, dtype=np.int64)
    return np.where(beats > 0, np.maximum(now_ns - beats, 0) / NS_PER_S, np.nan)


def _holders(fleet: Fleet, names: dict[int, str]) -> list[str]:
    """For each node the names of the jobs that hold a device of it or have it reserved, in order of submission."""
    owners: IntColumn = np.column_stack([fleet.acc_owner, fleet.reserved])
    nodes, columns = np.nonzero(owners != FREE)
    pairs = np.unique(np.column_stack([nodes, owners[nodes, columns]]), axis=0)
    held: list[list[str]] = [[] for _ in range(fleet.size)]
    for node, serial in pairs.tolist():
        if serial in names:
            held[node].append(names[serial])
    return [",".join(jobs) for jobs in held]
