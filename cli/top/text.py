"""Values as short texts for the screen."""

from __future__ import annotations

import math

from phalanx.v1 import event_pb2, fleet_pb2, job_pb2
from phalanx.v1 import types_pb2 as pb

from cli import render
from cli.tables import clean
from cli.top.fleet import NodeRow
from cli.wire import enum_word

JOB_COLUMNS = ("job", "state", "step", "progress", "step time", "ETTR", "gen", "remark")
FAULT_COLUMNS = ("since", "node", "part", "code", "level", "why")
EVENT_COLUMNS = ("time", "about", "what")
BAR = 10
NAME = 20


def node_line(node: NodeRow) -> str:
    """A node on one line."""
    parts = [node.name, enum_word(pb.NodeService, node.service), enum_word(pb.NodeLiveness, node.liveness)]
    if node.cordons:
        parts.append(f"cordons {node.cordons}")
    if node.jobs:
        parts.append(f"jobs {node.jobs}")
    parts += [f"{node.healthy}/{node.accelerators} accelerators", f"beat {age(node.beat_age_s)}"]
    return clean("  ".join(parts))


def age(seconds: float) -> str:
    """How long ago, or `never`."""
    return f"{render.seconds(seconds)} ago" if math.isfinite(seconds) else "never"


def step_time(seconds: float) -> str:
    """The time of a step; most are shorter than a second."""
    if not seconds:
        return "-"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else render.seconds(seconds)


def squeezed(text: str, width: int) -> str:
    """A long name by its beginning and its end."""
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[: width - 1 - half]}…{text[-half:]}"


def job_row(job: job_pb2.Job) -> tuple[str, ...]:
    """A job as a row of its table."""
    total = render.total_steps(job)
    filled = min(BAR, BAR * int(job.step) // total) if total else 0
    return tuple(
        clean(cell)
        for cell in (
            squeezed(job.name, NAME),
            render.job_state(job),
            f"{job.step}/{total}" if total else str(job.step),
            "#" * filled + "." * (BAR - filled) if total else "-",
            step_time(job.step_time_s),
            f"{job.ettr:.3f}",
            str(job.generation),
            job.blocker or job.end_reason,
        )
    )


def event_row(event: event_pb2.Event) -> tuple[str, ...]:
    """An event as a row of its table."""
    about = squeezed(event.job or event.node, NAME)
    return render.clock(event.at)[:8], clean(about), clean(event.message or event.type)


def fault_row(fault: fleet_pb2.Fault) -> tuple[str, ...]:
    """A fault that stands as a row of its table."""
    node, why = squeezed(fault.node, NAME), fault.reason + (" (not read now)" if fault.unread else "")
    return render.age(fault.age_s), clean(node), fault.entity, clean(fault.code), fault.level, clean(why)


def site_line(site: fleet_pb2.GetSiteResponse) -> str:
    """The site on one line."""
    total = sum(site.ledger_s.values())
    parts = [f"{site.nodes:,} nodes", f"{site.accelerators:,} accelerators"]
    if total:
        parts.append(f"productive {100 * site.ledger_s.get('PRODUCTIVE', 0.0) / total:.1f} %")
    return "  ".join(parts)


def controller_line(site: fleet_pb2.GetSiteResponse) -> str:
    """The controller on one line; what is wrong with it comes first, behind `!!`."""
    troubles = []
    if site.journal_state not in ("", "ok"):
        troubles.append(f"journal: {site.journal_state}")
    if site.detector_degraded:
        troubles.append(f"detector degraded, {render.seconds(site.loop_lag_s)} behind")
    elif site.detector_reasons:
        troubles.append(f"detector sees late: {'; '.join(site.detector_reasons)}")
    parts = [f"!! {'; '.join(troubles)}"] if troubles else []
    parts += [f"controller {site.version}", f"epoch {site.epoch}", f"revision {site.revision}"]
    if not troubles:
        parts.append("journal and detector ok")
    return clean("  ".join(parts))
