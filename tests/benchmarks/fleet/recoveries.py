"""A gang on the whole site, and what becomes of it when racks go dark: how soon it is decided, how soon everybody knows."""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from phalanx.v1 import job_pb2

from controlplane.core.vocabulary import NodeLiveness, Phase
from tests.benchmarks.fleet.generator import RACK_NODES
from tests.benchmarks.fleet.relays import certify
from tests.benchmarks.fleet.scenarios import LEASE_S, SETTLE_S, Bench, deaths
from tests.benchmarks.fleet.site import CONTROLLER_CORE, Generator, make_site, pin, sample
from tests.benchmarks.fleet.watch import Seen, Watch
from tests.benchmarks.report import Figure, of_samples
from tests.fixtures.controller_process import spec_message

WIDTH = 8
START_LIMIT_S = 240.0
DECIDE_S = 2.0
"""After the last death: what it leads to is decided by then."""
CALM_LIMIT_S = 60.0
_requests = itertools.count(1)


@contextmanager
def site_of(nodes: int, seed: int, *, tls: bool, relayed: bool = False) -> Iterator[Bench]:
    """A connected site whose nodes beat, behind relays or each with a stream of its own."""
    folder = Path(tempfile.mkdtemp(prefix="phx-gang-"))
    controller = make_site(
        folder,
        nodes,
        tls=tls,
        lease_ms=round(LEASE_S * 1_000),
        beat_ms=100 if relayed else 1_000,
        journal_busy_ms=5_000,
    )
    if relayed:
        certify(controller, folder, nodes)
    with ExitStack() as ends:
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        ends.callback(controller.close)  # also of one that was too slow to serve
        controller.start()
        assert controller.process is not None
        pin(controller.process.pid, CONTROLLER_CORE)
        generator = Generator(folder, "relayed" if relayed else "generator")
        ends.callback(generator.close)
        generator.ask("connect")
        generator.ask("cells")
        generator.ask("beats", interval_s=1.0)
        watch = Watch(controller)
        yield Bench(controller, generator, watch, tuple(f"node-{number:04d}" for number in range(nodes)), seed)
        watch.close()


def submit(bench: Bench, ranks: int, spares: int) -> float:
    """Submit one gang with warm spare nodes; seconds until it runs."""
    since, began = len(bench.watch.seen), time.monotonic()
    spec = spec_message("gang", ranks)
    spec.spares.warm_nodes = spares
    spec.restart_policy.infrastructure.unlimited = True
    spec.timeouts.start_ms = spec.timeouts.join_ms = round(START_LIMIT_S * 1_000)
    request = job_pb2.SubmitJobRequest(request_id=f"gang-{next(_requests)}", spec=spec)
    bench.controller.jobs.SubmitJob(request, timeout=60)
    bench.watch.until("the gang runs", _runs, since, START_LIMIT_S)
    return time.monotonic() - began


def _runs(seen: list[Seen]) -> bool:
    """Whether the newest of the generations that began has made its first step."""
    began = [record.body["generation"] for record in seen if record.type == "GenerationStarted"]
    stepped = [record.body["generation"] for record in seen if _reached(record, Phase.FIRST_STEP)]
    return bool(began) and began[-1] in stepped


def _reached(record: Seen, phase: Phase) -> bool:
    return record.type == "GenerationReached" and record.body["phase"] == phase


def _gang(bench: Bench) -> dict[str, Any]:
    gangs = bench.generator.ask("gangs")["gangs"]
    newest: dict[str, Any] = next(iter(gangs.values()))
    return newest


@dataclass(frozen=True)
class Dark:
    """What became of nodes that went dark together. Times in ms: `dead_ms` and `decided_ms` after the last of their leases,
    `told_ms`, `fanout_ms` and `acknowledged_ms` from the turn that began the next generation until all agents had it, until it was
    durable that the ranks of all of them have taken it (in so many `turns`), and until they knew that; 0: there was none."""

    nodes: int
    dead_ms: float
    decided_ms: float
    rung: str
    generations: int
    told_ms: float = 0.0
    fanout_ms: float = 0.0
    acknowledged_ms: float = 0.0
    turns: int = 0
    told_nodes: int = 0
    message_bytes: int = 0
    controller_cpu_s: float = 0.0


def go_dark(bench: Bench, names: list[str], *, recovers: bool) -> Dark:
    """Racks lose their power: their nodes are silent, and their cells report that their raylets are gone."""
    since, before, used = len(bench.watch.seen), _gang(bench)["generation"], sample(bench.pid).cpu_s
    last = bench.generator.ask("silence", nodes=names, gone=True)["last"]
    bench.generator.ask("raylets_dead", nodes=names)
    lease_over = max(last.values()) + LEASE_S
    bench.watch.until(f"{len(names)} dark nodes are DEAD", lambda seen: {*names} <= deaths(seen), since)
    if recovers:
        bench.watch.until(
            "the gang runs again", lambda seen: _dead_all(seen, names) and _runs(seen), since, START_LIMIT_S
        )
    else:
        time.sleep(DECIDE_S)
    seen = bench.watch.seen[since:]
    died = max(record.durable_at for record in seen if _tells_death(record))
    verdicts = [record for record in seen if record.type == "RecoveryDecided"]
    decided = max(died, *(record.durable_at for record in verdicts))
    gang = _gang(bench)
    found = Dark(
        len(names), (died - lease_over) * 1_000, (decided - lease_over) * 1_000, str(verdicts[-1].body["rung"]),
        gang["generation"] - before, controller_cpu_s=sample(bench.pid).cpu_s - used,
    )  # fmt: skip
    if gang["generation"] == before:
        return found
    began = next(record.turn_at for record in reversed(seen) if record.type == "GenerationStarted")
    taken = next(record for record in reversed(seen) if _reached(record, Phase.START))
    fanout = gang["fanouts"][str(gang["generation"])]
    return replace(
        found, told_ms=(fanout["last_told"] - began) * 1_000, fanout_ms=(taken.durable_at - began) * 1_000,
        told_nodes=fanout["nodes"], message_bytes=fanout["largest"], acknowledged_ms=(fanout["last_durable"] - began) * 1_000,
        turns=bench.watch.turns(began, taken.turn_at),
    )  # fmt: skip


def _tells_death(record: Seen) -> bool:
    return record.type == "LivenessChanged" and record.body["liveness"] == int(NodeLiveness.DEAD)


def _dead_all(seen: list[Seen], names: list[str]) -> bool:
    return {*names} <= deaths(seen)


def light(bench: Bench, names: list[str]) -> None:
    """The power is back: new agents without processes, raylets that joined again."""
    since = len(bench.watch.seen)
    bench.come_back()
    bench.generator.ask("raylets_alive", nodes=names)
    time.sleep(SETTLE_S)
    assert not deaths(bench.watch.seen[since:])


def ranks_on(bench: Bench) -> list[str]:
    """Nodes that hold ranks in the newest generation."""
    return sorted(_gang(bench)["nodes"])


def racks_of(bench: Bench) -> list[list[str]]:
    """Nodes of each whole rack that the gang holds, the same order for a seed."""
    held = {*ranks_on(bench)}
    racks = [list(bench.names[at : at + RACK_NODES]) for at in range(0, len(bench.names), RACK_NODES)]
    whole = [rack for rack in racks if len(rack) == RACK_NODES and held >= {*rack}]
    order = np.random.default_rng([bench.seed, *b"racks"]).permutation(len(whole))
    return [whole[index] for index in order]


def measure(options: argparse.Namespace) -> list[Figure]:
    """With a stream to each node."""
    return _figures(_measure(options, relayed=False))


def measure_relayed(options: argparse.Namespace) -> list[Figure]:
    """The same behind relays."""
    return [replace(figure, id=f"relayed_{figure.id}") for figure in _figures(_measure(options, relayed=True))]


@dataclass(frozen=True)
class Recoveries:
    """Racks that were replaced one after the other, and sixteen that were lost at once."""

    start_s: float
    rack_decide_ms: list[float]
    fanout_ms: list[float]
    told_ms: list[float]
    mass_decide_ms: float
    mass_nodes: int


def _figures(found: Recoveries) -> list[Figure]:
    return [
        of_samples("rack_decide_ms", found.rack_decide_ms, "ms", must=500, goal=30),
        of_samples("fanout_ms", found.fanout_ms, "ms", must=5_000, goal=1_000),
        of_samples("fanout_told_ms", found.told_ms, "ms"),
        Figure("mass_decide_ms", found.mass_decide_ms, "ms", found.mass_nodes, must=3_000, goal=250),
        Figure("gang_start_s", found.start_s, "s", 1),
    ]


def _measure(options: argparse.Namespace, *, relayed: bool) -> Recoveries:
    nodes = -(-options.ranks // WIDTH) + RACK_NODES
    with site_of(nodes, options.seed, tls=not options.plaintext, relayed=relayed) as bench:
        took_s = submit(bench, options.ranks, RACK_NODES)
        first = _gang(bench)["fanouts"]["1"]
        print(
            f"{'behind relays' if relayed else 'a stream to each node'}: {options.ranks:,} ranks on {nodes - RACK_NODES:,} nodes "
            f"and {RACK_NODES} spare ones run after {took_s:.1f} s; first generation: {first['largest']} bytes to a node at "
            f"most, told within {first['last_told'] - first['first_told']:.2f} s"
        )
        swaps = []
        for _ in range(options.swaps):
            until_calm(bench)
            rack = racks_of(bench)[0]
            swaps.append(show(go_dark(bench, rack, recovers=True)))
            light(bench, rack)
        until_calm(bench)
        racks = racks_of(bench)[: min(16, nodes // RACK_NODES // 2)]
        mass = show(go_dark(bench, [name for rack in racks for name in rack], recovers=False))
    return Recoveries(
        round(took_s, 2), [swap.decided_ms for swap in swaps], [swap.fanout_ms for swap in swaps],
        [swap.told_ms for swap in swaps], round(mass.decided_ms, 1), mass.nodes,
    )  # fmt: skip


def until_calm(bench: Bench) -> None:
    """The controller keeps up again: what 50,000 processes told of their start has been read, and silence is trusted."""
    calm = [record.type for record in bench.watch.seen if record.type in {"DetectorDegraded", "DetectorRestored"}]
    if calm[-1:] == ["DetectorDegraded"]:
        bench.watch.until("silence is trusted again", _restored, len(bench.watch.seen), CALM_LIMIT_S)


def _restored(seen: list[Seen]) -> bool:
    return any(record.type == "DetectorRestored" for record in seen)


def show(dark: Dark) -> Dark:
    """A line about it."""
    print(
        f"{dark.nodes} dark nodes: DEAD {dark.dead_ms:.0f} ms after their leases, decided {dark.decided_ms:.0f} ms "
        f"({dark.rung}, {dark.generations} generations); {dark.told_nodes} agents told in {dark.told_ms:.0f} ms, their "
        f"answers durable in {dark.fanout_ms:.0f} ms ({dark.turns} turns), acknowledged in {dark.acknowledged_ms:.0f} ms, at most "
        f"{dark.message_bytes} bytes each; controller {dark.controller_cpu_s:.1f} s of processor",
        flush=True,
    )
    return dark
