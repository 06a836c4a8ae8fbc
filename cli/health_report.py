"""The controller's own health for people: what it says of itself, what it may do, what it does not see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli import render
from cli.describe_node import covers
from cli.wire import enum_word

if TYPE_CHECKING:
    from phalanx.v1 import fleet_pb2

LISTED = 20
"""Rows of a part; `-o json` has all."""


def show(item: fleet_pb2.GetHealthResponse, offenders: fleet_pb2.ListOffendersResponse) -> None:
    """The whole report."""
    _detector(item.detector)
    _saves(item.failing_saves, item.failing_saves_total)
    _budget(item.budget)
    _blind(item.blind)
    _offenders(offenders)
    if item.refused:
        render.heading("refused since this controller started")
        rows = sorted(item.refused.items(), key=lambda pair: -pair[1])
        render.table(("REASON", "COUNT"), [[reason, str(count)] for reason, count in rows])
    _slow_ranks(item.slow_ranks)
    _canaries(item.canaries)
    if item.detection:
        render.heading("detection, from the event to the durable record, since this controller started")
        rows_ = [[one.kind, str(one.count), _upto(one.p50_s), _upto(one.p99_s)] for one in item.detection]
        render.table(("CLASS", "COUNT", "P50", "P99"), rows_)


def problems(item: fleet_pb2.GetHealthResponse) -> list[str]:
    """Why the controller is not well; empty when it is."""
    detector = item.detector
    found = []
    if detector.journal_state not in ("", "ok"):
        found.append(f"the journal: {detector.journal_state}")
    if detector.degraded:
        found.append("; ".join(("silence is not trusted", *detector.reasons)))
    elif detector.reasons:
        found.append("; ".join(("it sees late, and trusts silence", *detector.reasons)))
    return found


def _detector(item: fleet_pb2.DetectorHealth) -> None:
    state = "ok: silence is trusted"
    if item.degraded or item.reasons:
        since = f" for {render.age(item.degraded_s)}" if item.degraded_s else ""
        means = "nobody is declared dead by silence" if item.degraded else "it sees late; silence is trusted"
        state = f"degraded{since}: {means}" + "".join(f"; {why}" for why in item.reasons)
    slow = (
        f"{render.seconds(item.slow_append_s)}, {render.age(item.slow_append_age_s)} ago" if item.slow_append_s else ""
    )
    appends = f"{item.appends:,} times, mean {_ms(item.append_mean_s)}, 99 of 100 within {_upto(item.append_p99_s)}"
    render.fields(
        (
            ("detector", state),
            ("listens since", f"{render.age(item.listening_s)}: silence before that says nothing"),
            ("loop lag", render.seconds(item.loop_lag_s)),
            ("journal", item.journal_state),
            ("append and fsync", appends),
            ("newest slow append", slow),
            ("inbox", f"{item.inbox:,} of {item.inbox_limit:,} events wait"),
        )
    )  # fmt: skip


def _saves(items: Sequence[fleet_pb2.FailingSave], total: int) -> None:
    if not items:
        return
    from phalanx.v1 import agent_pb2  # noqa: PLC0415

    render.heading("saves that do not come about: no later checkpoint of these jobs has been completed since")
    rows, todo = [], []
    for one in items[:LISTED]:
        word = enum_word(agent_pb2.SaveWord, one.word)
        newest = "none" if math.isnan(one.saved_age_s) else f"step {one.saved_step}, {render.age(one.saved_age_s)} ago"
        rows.append(
            [
                one.job,
                f"step {one.step}",
                "waits" if word == "SLOW" else word.lower(),
                f"{render.age(one.age_s)} ago",
                f"{render.age(one.told_age_s)} ago",
                str(one.rank),
                one.node or "-",
                newest,
                one.reason,
            ]
        )
        todo.append((one.job, _repair(word, one.folder)))
    render.table(("JOB", "SAVE", "STATE", "SINCE", "LAST TOLD", "RANK", "NODE", "NEWEST CHECKPOINT", "WHY"), rows)
    render.heading("what to do: they train on and save again by themselves; until then put off what stops them")
    render.fields(todo)
    _more(total, "`phalanx health -o json`")


def _repair(word: str, folder: str) -> str:
    """What makes saves come about again."""
    if word == "SLOW":
        return f"find out why writes below {folder} hang or take longer than the job's save interval"
    return f"make room below {folder}, or repair its mount and permissions"


def _budget(item: fleet_pb2.BudgetHealth) -> None:
    render.heading(
        f"action budget: nodes at work that may be disturbed within {render.age(item.window_s)} "
        f"(the largest rack, or {item.share:.0%})"
    )
    rows = [
        [
            f"{scope.kind} {scope.name}".strip(),
            str(scope.limit),
            str(scope.spent),
            str(max(0, scope.limit - scope.spent)),
        ]
        for scope in item.scopes[:LISTED]
    ]
    render.table(("SCOPE", "LIMIT", "SPENT", "LEFT"), rows)
    if item.refused:
        render.heading("acts that it refused, newest first")
        render.table(
            ("AGE", "NODE", "ACT", "WHY"),
            [[render.age(act.age_s), act.node, act.act, act.reason] for act in item.refused[:LISTED]],
        )


def _blind(item: fleet_pb2.BlindSpots) -> None:
    render.heading("blind spots")
    if not (item.sources_total or item.nodes_total or item.accelerators or item.probes):
        render.out("none: every node is heard, every source is read, every probe is proven")
        return
    render.fields(
        (
            ("nodes not seen", str(item.nodes_total or "")),
            ("sources not read", str(item.sources_total or "")),
            ("accelerators unknown", str(item.accelerators or "")),
        )
    )
    if item.nodes:
        render.heading("nodes that are not seen")
        rows = [[node.name, node.why, _silent(node.silent_s)] for node in item.nodes[:LISTED]]
        render.table(("NODE", "WHY", "SILENT"), rows)
        _more(item.nodes_total, "`phalanx nodes --field liveness!=ALIVE`")
    if item.sources:
        render.heading("sources that cannot be read")
        listed = [[one.node, covers(one), one.name, render.age(one.age_s), one.reason] for one in item.sources[:LISTED]]
        render.table(("NODE", "COVERS", "SOURCE", "SINCE", "WHY"), listed)
        _more(item.sources_total, "`phalanx health -o json`")
    if item.probes:
        render.heading("probes that were never held against a real tool's output (docs/probes.md)")
        render.table(
            ("VENDOR", "NODES", "ACCELERATORS"),
            [[one.vendor, str(one.nodes), str(one.accelerators)] for one in item.probes],
        )


def _slow_ranks(items: Sequence[fleet_pb2.SlowRank]) -> None:
    if not items:
        return
    render.heading("ranks that are slower than those which do the same work, in most steps (docs/stragglers.md)")
    rows = [
        [
            one.job,
            str(one.rank),
            one.node,
            ",".join(map(str, one.accelerators)),
            one.cause,
            f"{one.factor:.2f} times",
            f"{render.age(one.age_s)} ago",
        ]
        for one in items[:LISTED]
    ]
    render.table(("JOB", "RANK", "NODE", "DEVICES", "FOR", "SLOWER", "SINCE"), rows)
    _more(len(items), "`phalanx health -o json`")


def _canaries(item: fleet_pb2.CanaryHealth) -> None:
    if not (item.every_s or item.released):
        return
    rate = f"one every {render.age(item.every_s)}" if item.every_s else "none any more"
    missed = f"{item.missed:,}"
    if item.missed:
        missed += f", the newest on {item.missed_node} {render.age(item.missed_age_s)} ago"
    render.heading("canaries: faults on purpose, on nodes without ranks")
    render.fields(
        (
            ("rate", f"{rate}; missed when not recorded within {render.age(item.deadline_s)}"),
            ("caught", f"{item.caught:,} of {item.released:,}"),
            ("missed", missed),
            ("called off", f"{item.called_off:,}" if item.called_off else ""),
            ("awaited", str(item.awaited or "")),
        )
    )


def _offenders(item: fleet_pb2.ListOffendersResponse) -> None:
    if not item.offenders:
        return
    render.heading("peers that sent what no well-behaved peer sends, newest first")
    rows = [
        [
            peer.name if peer.proven else f"{peer.name} (says so)",
            peer.peer,
            offence.reason,
            f"{offence.count:,}",
            f"{render.age(offence.first_age_s)} ago",
            f"{render.age(offence.last_age_s)} ago",
            offence.message,
        ]
        for peer in item.offenders
        for offence in peer.offences
    ]
    render.table(("PEER", "FROM", "WHAT", "COUNT", "SINCE", "LAST", "IT WAS TOLD"), rows[:LISTED])
    _more(len(rows), "`phalanx health -o json`")
    if item.forgotten:
        render.note(f"{item.forgotten:,} older peers left this list for newer ones")


def _more(total: int, where: str) -> None:
    if total > LISTED:
        render.note(f"{total - LISTED:,} more: {where}")


def _silent(value_s: float) -> str:
    return "never heard by this controller" if math.isnan(value_s) else render.age(value_s)


def _upto(value_s: float) -> str:
    """An upper bound of a bucket."""
    if math.isnan(value_s):
        return "-"
    return _ms(value_s) if math.isfinite(value_s) else "more than it counts"


def _ms(value_s: float) -> str:
    return f"{value_s * 1_000:.3g} ms" if value_s < 1 else render.seconds(value_s)
