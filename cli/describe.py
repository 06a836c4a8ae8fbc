"""Descriptions of one thing at length, for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from cli import render
from cli.errors import CliError, Exit
from cli.wire import enum_word, plain

if TYPE_CHECKING:
    from phalanx.v1 import checkpoint_pb2, fleet_pb2, job_pb2

PHASES = ("detect", "decide", "place", "start", "rendezvous", "restore", "first_step")
"""Phases of a recovery, in order."""


def job(item: job_pb2.Job) -> None:
    """A job: state, ranks, parked processes, recoveries, accounting."""
    parallel = item.spec.parallel
    render.fields(
        (
            ("name", item.name),
            ("uid", item.uid),
            ("state", render.job_state(item)),
            ("blocker", item.blocker),
            ("ended", f"{item.ended_at}  {render.brief(item.end_reason)}".strip()),
            ("submitted", item.submitted_at),
            ("generation", str(item.generation)),
            ("step", f"{item.step}" + (f" of {render.total_steps(item)}" if render.total_steps(item) else "")),
            ("loss", render.loss(item.loss)),
            ("step time", render.seconds(item.step_time_s)),
            ("of it", _parts(item)),
            ("last checkpoint", f"step {item.last_checkpoint_step}" if item.last_checkpoint_step else "none yet"),
            ("checkpoints in", item.checkpoint_folder),
            ("suspicion", item.suspicion),
            ("saves every", _interval(item)),
            ("spares", _spares(item.spares)),
            ("memory copies", _copies(item.copies)),
            ("workload", f"{item.spec.workload.module} {json.dumps(plain(item.spec.workload.args))}"),
            ("parallel", f"tp {parallel.tp}  pp {parallel.pp}  cp {parallel.cp}  dp {parallel.dp}  ep {parallel.ep}"),
            ("ettr", f"{item.ettr:.4f}, last hour {item.ettr_last_hour:.4f}"),
            ("ledger", render.amounts(item.ledger_s)),
            ("restarts", ", ".join(f"{name} {count}" for name, count in sorted(item.restarts.items()))),
            ("result", ", ".join(f"{key}={value}" for key, value in sorted(item.result.items()))),
        )
    )
    _stragglers(item)
    _ranks(item)
    if item.recoveries:
        render.heading("recoveries")
        recoveries(item.recoveries)


def _parts(item: job_pb2.Job) -> str:
    """Where the time of a step goes, for the mean rank."""
    if not item.HasField("step_parts"):
        return ""
    parts = item.step_parts
    named = (
        ("compute", parts.compute_s), ("waiting for others", parts.waiting_s), ("data", parts.data_s),
        ("garbage collection", parts.collection_s), ("checkpoint", parts.checkpoint_s),
    )  # fmt: skip
    return ", ".join(f"{name} {render.seconds(value)}" for name, value in named if value >= 1e-6)


def _stragglers(item: job_pb2.Job) -> None:
    if not item.stragglers:
        return
    render.heading("slower than the ranks that do the same work, in most steps (docs/stragglers.md)")
    rows = [
        [
            str(one.rank),
            one.node,
            ",".join(map(str, one.accelerators)),
            one.cause,
            f"{one.factor:.2f} times",
            one.since,
        ]
        for one in item.stragglers
    ]
    render.table(("RANK", "NODE", "DEVICES", "FOR", "SLOWER", "SINCE"), rows)


def _interval(item: job_pb2.Job) -> str:
    """The interval in force, what it follows from, saves that do not come about, and one that is waited for."""
    told = item.save_interval
    parts = [
        (f"{told.every_steps} steps" if told.every_steps else "never") + (f" ({told.reason})" if told.reason else "")
    ]
    return "; ".join(part for part in (*parts, told.trouble, told.first) if part)


def _spares(item: job_pb2.Spares) -> str:
    """Held, wanted and why."""
    if not item.wanted and not item.nodes:
        return f"none ({item.reason})" if item.reason else "none"
    return f"{len(item.nodes)} of {item.wanted} held: {', '.join(item.nodes) or 'none'} ({item.reason})"


def _copies(item: job_pb2.Copies) -> str:
    """How far the present placement would protect memory copies."""
    if not item.nodes:
        return ""
    if not item.weaker:
        return f"a fully protected place for each of {item.nodes} nodes"
    return f"{item.weaker} of {item.nodes} nodes without full protection: {'; '.join(item.weakest)}"


def _ranks(item: job_pb2.Job) -> None:
    from phalanx.v1 import types_pb2  # noqa: PLC0415

    def word(state: types_pb2.RankState.ValueType) -> str:
        return enum_word(types_pb2.RankState, state)

    rows = [
        [
            str(rank.rank),
            word(rank.state),
            rank.node,
            ",".join(str(index) for index in rank.accelerators),
            str(rank.step),
            str(rank.pid or "-"),
            rank.host_id,
        ]
        for rank in item.ranks
    ]
    rows += [["-", word(host.state), host.node, "", "", str(host.pid or "-"), host.host_id] for host in item.parked]
    if rows:
        render.heading("ranks and parked processes")
        render.table(("RANK", "STATE", "NODE", "DEVICES", "STEP", "PID", "HOST"), rows)


def rank(item: job_pb2.Job, number: int) -> None:
    """One rank of a job: where it runs, and the recoveries that it took part in."""
    from phalanx.v1 import types_pb2  # noqa: PLC0415

    found = next((one for one in item.ranks if one.rank == number), None)
    if found is None:
        fix = f"`phalanx describe job {item.name}` lists its ranks"
        raise CliError(f"{item.name} has no rank {number} now", fix=fix, code=Exit.NOT_FOUND)
    render.fields(
        (
            ("rank", f"{item.name}/{number}"),
            ("state", enum_word(types_pb2.RankState, found.state)),
            ("node", found.node),
            ("accelerators", ",".join(str(index) for index in found.accelerators)),
            ("step", str(found.step)),
            ("generation", str(item.generation)),
            ("process", str(found.pid or "")),
            ("rank host", f"{found.host_id} (process {found.host_pid})" if found.host_id else ""),
            ("job", f"{render.job_state(item)} {item.blocker}".strip()),
        )
    )
    lost = [recovery for recovery in item.recoveries if number in recovery.ranks]
    if lost:
        render.heading("recoveries of this rank")
        recoveries(lost)


def checkpoint(item: checkpoint_pb2.Checkpoint) -> None:
    """A checkpoint: what it holds, and who keeps it."""
    from phalanx.v1 import types_pb2  # noqa: PLC0415

    render.fields(
        (
            ("id", item.id),
            ("job", item.job),
            ("state", enum_word(types_pb2.CheckpointState, item.state)),
            ("step", str(item.step)),
            ("generation", str(item.generation)),
            ("committed", item.committed_at),
            ("files", str(item.files)),
            ("size", render.count_bytes(item.bytes)),
            ("folder", item.folder),
            ("kept as", "newest verified" if item.pinned and not item.pin_owners else ""),
            ("pinned by", ", ".join(item.pin_owners)),
            ("reason", item.reason),
        )
    )


def recoveries(items: Iterable[job_pb2.Recovery]) -> None:
    """The recovery timeline: one row per recovery, one column per phase."""
    rows = [
        [
            str(recovery.generation),
            recovery.rung,
            ",".join(str(rank) for rank in recovery.ranks) or "-",
            str(recovery.steps_lost),
            *(render.seconds(recovery.phases_s[name]) if name in recovery.phases_s else "-" for name in PHASES),
            render.seconds(recovery.total_s) if recovery.complete else "overtaken" if recovery.overtaken else "...",
            recovery.cause,
        ]
        for recovery in items
    ]
    names = tuple(name.upper().replace("_", " ") for name in PHASES)
    render.table(("GEN", "RUNG", "RANKS", "STEPS LOST", *names, "TOTAL", "CAUSE"), rows)


def _detector(item: fleet_pb2.GetSiteResponse) -> str:
    """Whether it trusts silence, and sees in time."""
    if item.detector_degraded:
        return "; ".join(("degraded", *item.detector_reasons))
    return "; ".join(("sees late, silence is trusted", *item.detector_reasons)) if item.detector_reasons else "ok"


def site(item: fleet_pb2.GetSiteResponse, address: str) -> None:
    """The site and its controller."""
    render.fields(
        (
            ("controller", address),
            ("version", item.version),
            ("epoch", str(item.epoch)),
            ("revision", str(item.revision)),
            ("nodes", str(item.nodes)),
            ("accelerators", str(item.accelerators)),
            ("journal", item.journal_state),
            ("detector", _detector(item)),
            ("loop lag", render.seconds(item.loop_lag_s)),
            ("ranks outlive the controller by", f"{item.orphan_grace_ms / 1000:g} s"),
            ("since", render.seconds(item.wall_s)),
            ("accelerator-seconds", render.amounts(item.ledger_s)),
            ("refused", ", ".join(f"{reason} {count}" for reason, count in sorted(item.refused.items()))),
        )
    )
