"""The kinds of things that `get` lists: how each is asked for, and what its columns are."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cli import render
from cli.client import CALL_TIMEOUT_S, Client
from cli.errors import CliError, Exit
from cli.listing import Columns, Listing
from cli.wire import enum_word

if TYPE_CHECKING:
    from phalanx.v1 import checkpoint_pb2, event_pb2, fleet_pb2, identity_pb2, job_pb2

SINGULAR = {
    "job": "jobs",
    "node": "nodes",
    "checkpoint": "checkpoints",
    "event": "events",
    "identity": "identities",
}
KINDS = (*SINGULAR.values(), "site")

Row = Callable[[Any], str]


def kind_named(word: str, known: Sequence[str] = KINDS) -> str:
    """The kind that a word means, singular or plural."""
    kind = SINGULAR.get(word.lower(), word.lower())
    if kind in known:
        return kind
    near = difflib.get_close_matches(word.lower(), known, n=1)
    fix = f"did you mean `{near[0]}`?" if near else f"use {', '.join(known)}"
    raise CliError(f"there are no `{word}` here", fix=fix, code=Exit.USAGE)


def listing(client: Client, kind: str, *, full: bool, job: str = "") -> Listing:
    """All things of a kind. `full`: with whole messages, for JSON and YAML; `job`: only of this job, where it applies."""
    match kind:
        case "jobs":
            return jobs(client)
        case "nodes":
            return nodes(client, full=full)
        case "checkpoints":
            return checkpoints(client, job)
        case "events":
            return events(client, job)
        case _:
            return identities(client)


def _columns(items: Sequence[Any], **columns: Row) -> Columns:
    return {name.replace("_", " "): [row(item) for item in items] for name, row in columns.items()}


# --- jobs ------------------------------------------------------------------------------------------------------------


def jobs(client: Client) -> Listing:
    """Jobs, without their ranks."""
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    items = list(client.jobs.ListJobs(job_pb2.ListJobsRequest(), timeout=CALL_TIMEOUT_S).jobs)
    return Listing(
        "jobs",
        [job.name for job in items],
        _columns(
            items,
            NAME=lambda job: job.name,
            STATE=render.job_state,
            STEP=_step,
            LOSS=lambda job: render.loss(job.loss),
            GEN=lambda job: str(job.generation),
            RANKS=lambda job: str(job.spec.ranks),
            ETTR=lambda job: f"{job.ettr:.3f}",
            HOUR=lambda job: f"{job.ettr_last_hour:.3f}",
            RESTARTS=lambda job: str(sum(job.restarts.values())),
            REMARK=lambda job: job.blocker or render.brief(job.end_reason),
        ),
        _columns(
            items,
            STEP_TIME=lambda job: render.seconds(job.step_time_s),
            SPARES=lambda job: f"{len(job.spares.nodes)}/{job.spares.wanted}",
            CHECKPOINT=lambda job: str(job.last_checkpoint_step or "-"),
            SUBMITTED=lambda job: job.submitted_at,
            UID=lambda job: job.uid,
            LABELS=lambda job: _pairs(job.spec.labels),
        ),
        _columns(
            items,
            name=lambda job: job.name,
            state=render.job_state,
            ended=lambda job: "yes" if job.ended_at else "no",
            module=lambda job: job.spec.workload.module,
        ),
        [dict(job.spec.labels) for job in items],
        items,
    )


def _step(job: job_pb2.Job) -> str:
    total = render.total_steps(job)
    return f"{job.step}/{total}" if total else str(job.step)


def _pairs(labels: Any) -> str:
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels)) or "-"


# --- nodes -----------------------------------------------------------------------------------------------------------


def nodes(client: Client, *, full: bool) -> Listing:
    """Nodes. Without `full` they come as columns: a tenth of the bytes, and no object per node on either side."""
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    answer = client.fleet.ListNodes(fleet_pb2.ListNodesRequest(columns=not full), timeout=CALL_TIMEOUT_S)
    columns = answer.columns if answer.HasField("columns") else columns_of(answer.nodes)
    return _node_listing(columns, answer.nodes if full else ())


def _node_listing(columns: fleet_pb2.NodeColumns, messages: Sequence[Any]) -> Listing:
    from phalanx.v1 import types_pb2  # noqa: PLC0415

    texts = list(columns.texts) or [""]
    names = list(columns.names)
    services = {number: enum_word(types_pb2.NodeService, number) for number in set(columns.service)}
    livenesses = {number: enum_word(types_pb2.NodeLiveness, number) for number in set(columns.liveness)}
    labels = [_parsed(text) for text in texts]
    racks = [item.get("rack", "-") for item in labels]
    dashed = [text or "-" for text in texts]
    jobs = [dashed[index] for index in columns.jobs]
    cordons = [dashed[index] for index in columns.cordons]
    service = [services[number] for number in columns.service]
    liveness = [livenesses[number] for number in columns.liveness]
    broken = [*columns.path_broken, *[False] * (len(names) - len(columns.path_broken))]  # a controller of before 0.3
    reasons = columns.reasons or [0] * len(names)  # a controller of before 0.3
    path = ["broken" if is_broken else "whole" for is_broken in broken]
    believed = [f"{word}, path broken" if is_broken else word for word, is_broken in zip(liveness, broken, strict=True)]
    cell = ["yes" if member else "no" for member in columns.cell_member]
    session = ["open" if is_open else "lost" for is_open in columns.session_open]
    rack = [racks[index] for index in columns.labels]
    version = [dashed[index] for index in columns.versions]
    return Listing(
        "nodes",
        names,
        {
            "NAME": names,
            "SERVICE": service,
            "LIVENESS": believed,
            "CELL": cell,
            "ACCELERATORS": [
                f"{healthy}/{all_}" for healthy, all_ in zip(columns.healthy, columns.accelerators, strict=True)
            ],
            "RACK": rack,
            "BEAT": [render.seconds(age) for age in columns.last_beat_age_s],
            "JOBS": jobs,
            "CORDONS": cordons,
        },
        {
            "REASON": [dashed[index] for index in reasons],
            "SESSION": session,
            "AGENT": version,
            "ADDRESS": [dashed[index] for index in columns.addresses],
            "LABELS": [dashed[index] for index in columns.labels],
        },
        {
            "name": names,
            "service": service,
            "liveness": liveness,
            "path": path,
            "cell": cell,
            "session": session,
            "rack": rack,
            "agent": version,
            "cordoned": ["no" if text == "-" else "yes" for text in cordons],
            "busy": ["no" if text == "-" else "yes" for text in jobs],
        },
        [labels[index] for index in columns.labels],
        messages,
        by_name=True,
        numbers={
            "beat": columns.last_beat_age_s,
            "accelerators": columns.healthy,
            "bad": [all_ - healthy for healthy, all_ in zip(columns.healthy, columns.accelerators, strict=True)],
        },
    )


def _parsed(text: str) -> dict[str, str]:
    """`rack=r1,pool=a` as a mapping. A column of names is no label text and gives nothing that could be selected."""
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


def columns_of(items: Sequence[fleet_pb2.Node]) -> fleet_pb2.NodeColumns:
    """The columns of nodes that came one by one: from a controller that knows no columns, or because JSON wants all."""
    from phalanx.v1 import fleet_pb2, types_pb2  # noqa: PLC0415

    texts: dict[str, int] = {"": 0}

    def text(value: str) -> int:
        return texts.setdefault(value, len(texts))

    columns = fleet_pb2.NodeColumns(
        names=[node.name for node in items],
        service=[node.service for node in items],
        liveness=[node.liveness for node in items],
        healthy=[
            sum(device.state == types_pb2.ACCELERATOR_STATE_HEALTHY for device in node.accelerators) for node in items
        ],
        accelerators=[len(node.accelerators) for node in items],
        last_beat_age_s=[node.last_beat_age_s if math.isfinite(node.last_beat_age_s) else math.nan for node in items],
        session_open=[node.session_open for node in items],
        cell_member=[node.cell_member for node in items],
        path_broken=[node.path_broken for node in items],
        labels=[text(_pairs(node.labels) if node.labels else "") for node in items],
        jobs=[text(",".join(node.jobs)) for node in items],
        cordons=[text("; ".join(f"{cordon.owner}: {cordon.reason}" for cordon in node.cordons)) for node in items],
        versions=[text(node.agent_version) for node in items],
        addresses=[text(node.address) for node in items],
        reasons=[text(_reason(node)) for node in items],
    )
    columns.texts.extend(texts)
    return columns


def _reason(node: fleet_pb2.Node) -> str:
    """Why a node is not simply well, from its message, as a controller says it in columns."""
    if node.health:
        return node.health
    faults = [fault for fault in node.faults if fault.level != "IGNORE"]
    if faults:
        worst = faults[0]
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        return f"{worst.entity} {worst.code} {worst.level}{more}"
    names = [source.partition(": ")[0] for source in node.unreadable]
    return f"cannot read {', '.join(names)}" if names else ""


# --- checkpoints, events, identities ---------------------------------------------------------------------------------


def checkpoints(client: Client, job: str = "") -> Listing:
    """Checkpoints, of all jobs or of one."""
    from phalanx.v1 import checkpoint_pb2, types_pb2  # noqa: PLC0415

    request = checkpoint_pb2.ListCheckpointsRequest(job=job)
    items = list(client.checkpoints.ListCheckpoints(request, timeout=CALL_TIMEOUT_S).checkpoints)

    def state(item: checkpoint_pb2.Checkpoint) -> str:
        return enum_word(types_pb2.CheckpointState, item.state)

    def pinned(item: checkpoint_pb2.Checkpoint) -> str:
        return ",".join(item.pin_owners) or ("newest" if item.pinned else "no")

    return Listing(
        "checkpoints",
        [item.id for item in items],
        _columns(
            items,
            ID=lambda item: item.id,
            JOB=lambda item: item.job,
            STEP=lambda item: str(item.step),
            GEN=lambda item: str(item.generation),
            STATE=state,
            FILES=lambda item: str(item.files),
            SIZE=lambda item: render.count_bytes(item.bytes),
            PINNED=pinned,
            REMARK=lambda item: item.reason,
        ),
        _columns(items, COMMITTED=lambda item: item.committed_at or "-", FOLDER=lambda item: item.folder),
        _columns(
            items,
            id=lambda item: item.id,
            job=lambda item: item.job,
            state=state,
            pinned=lambda item: "yes" if item.pinned or item.pin_owners else "no",
        ),
        messages=items,
    )


def events(client: Client, job: str = "") -> Listing:
    """The newest events of the journal, oldest first."""
    from phalanx.v1 import event_pb2  # noqa: PLC0415

    request = event_pb2.ListEventsRequest(job=job)
    items: list[event_pb2.Event] = list(client.events.ListEvents(request, timeout=CALL_TIMEOUT_S).events)
    return Listing(
        "events",
        [str(event.revision) for event in items],
        _columns(
            items,
            REVISION=lambda event: str(event.revision),
            AT=lambda event: render.clock(event.at),
            TYPE=lambda event: event.type,
            JOB=lambda event: event.job or "-",
            NODE=lambda event: event.node or "-",
            MESSAGE=lambda event: event.message,
        ),
        _columns(items, EPOCH=lambda event: str(event.epoch), BODY=lambda event: event.body_json),
        _columns(
            items,
            type=lambda event: event.type,
            job=lambda event: event.job,
            node=lambda event: event.node,
            epoch=lambda event: str(event.epoch),
        ),
        messages=items,
    )


def identities(client: Client) -> Listing:
    """Identities that the site has issued certificates for."""
    from phalanx.v1 import identity_pb2  # noqa: PLC0415

    answer = client.identities.ListIdentities(identity_pb2.ListIdentitiesRequest(), timeout=CALL_TIMEOUT_S)
    items: list[identity_pb2.Identity] = list(answer.identities)

    def kind(item: identity_pb2.Identity) -> str:
        return enum_word(identity_pb2.IdentityKind, item.kind)

    def role(item: identity_pb2.Identity) -> str:
        return enum_word(identity_pb2.Role, item.role) if item.role else "-"

    def state(item: identity_pb2.Identity) -> str:
        return "revoked" if item.revoked else "valid"

    return Listing(
        "identities",
        [item.uri for item in items],
        _columns(
            items,
            NAME=lambda item: item.name,
            KIND=kind,
            ROLE=role,
            STATE=state,
            EXPIRES=lambda item: item.expires_at or "-",
            REMARK=lambda item: item.revoked_reason,
        ),
        _columns(
            items,
            URI=lambda item: item.uri,
            SPEAKS_FOR=lambda item: ",".join(item.speaks_for) or "-",
            SERIAL=lambda item: item.serial or "-",
        ),
        _columns(items, name=lambda item: item.name, kind=kind, role=role, state=state),
        messages=items,
    )
