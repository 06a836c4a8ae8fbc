"""Values of `phalanx.v1` to values of the core and back: times, states, specifications."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from phalanx.v1 import types_pb2 as pb

from controlplane.core.checkpoints import Checkpoint, ShardFile
from controlplane.core.manifest import complete
from controlplane.core.spec import (
    AUTO,
    CheckpointPolicy,
    Elastic,
    JobSpec,
    Parallel,
    SparePolicy,
    Timeouts,
    Violation,
    Workload,
)
from controlplane.core.units import NS_PER_MS, NS_PER_S
from controlplane.rpc.errors import refuse_fields
from controlplane.rpc.rule_codec import policy_message, policy_value

MAX_TEXT = 1_000
"""Longest reason, owner or name in a request, characters."""
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def rfc3339(at_ns: int) -> str:
    """A time in UTC with milliseconds; "" for 0."""
    if not at_ns:
        return ""
    whole, rest = divmod(at_ns, NS_PER_S)
    text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest // NS_PER_MS:03d}Z"


def at_from_age(age_ms: int, now_ns: int) -> int:
    """When something happened that is `age_ms` old, on our clock; ages before the epoch of time are cut."""
    return max(1, now_ns - age_ms * NS_PER_MS)


def duration_ns(duration_s: float) -> int:
    """Seconds from a peer as nanoseconds; what is no duration is 0, a day at most."""
    return int(duration_s * NS_PER_S) if 0 <= duration_s <= 86_400 else 0


def require(path: str, value: str, *, most: int = MAX_TEXT) -> Iterable[Violation]:
    """The violation of an empty or overlong text field."""
    if not value:
        yield Violation(path, "is missing", "fill it in")
    elif len(value) > most:
        yield Violation(path, f"has {len(value)} characters", f"use at most {most}")


def require_request_id(request_id: str) -> Iterable[Violation]:
    """The violation of a request id that cannot make a repeat recognisable."""
    if not _REQUEST_ID.fullmatch(request_id):
        yield Violation(
            "request_id", "is no id", "send 1 to 128 printable characters, the same ones when you repeat the call"
        )


def check_request(request_id: str, *named: tuple[str, str]) -> None:
    """Refuse a mutating request without an id, or without one of the named fields."""
    refuse_fields([*require_request_id(request_id), *(v for path, value in named for v in require(path, value))])


# --- specifications --------------------------------------------------------------------------------------------------

_SECTIONS = (
    ("workload", "spec.workload"),
    ("parallel", "spec.parallel"),
    ("spares", "spec.spares"),
    ("checkpoint", "spec.checkpoint"),
    ("restart_policy", "spec.restartPolicy"),
    ("timeouts", "spec.timeouts"),
)
_POLICY_SECTIONS = (
    ("user", "spec.restartPolicy.budgets.user"),
    ("infrastructure", "spec.restartPolicy.budgets.infrastructure"),
    ("preemption", "spec.restartPolicy.budgets.preemption"),
    ("backoff", "spec.restartPolicy.backoff"),
)


MAX_RESUME = 256
"""Characters of a checkpoint's name; a longer one names none."""


def _checkpoint_policy(message: pb.CheckpointSpec) -> CheckpointPolicy:
    """Clients before 0.2 do not know the limits of the interval."""
    usual = CheckpointPolicy()
    return CheckpointPolicy(
        message.folder,
        AUTO if message.auto else message.every_steps,
        message.keep,
        message.min_steps or usual.min_steps,
        message.max_steps or usual.max_steps,
        message.replicated,
        message.resume_from[:MAX_RESUME],
        0 if message.no_local else message.local_every_steps or usual.local_every_steps,
    )


def missing_sections(message: pb.TrainingJobSpec) -> tuple[Violation, ...]:
    """Parts of a specification that are not there, or cannot be read. Clients send all, defaults written out."""
    found = [*_missing(message, _SECTIONS)]
    if message.HasField("restart_policy"):
        found += _missing(message.restart_policy, _POLICY_SECTIONS)
    try:
        MessageToDict(message.workload.args)
    except ValueError:  # a Struct may hold them, JSON does not
        fix = "put it in quotes"
        found.append(Violation("spec.workload.args", "holds a number that is infinite or none at all", fix))
    return tuple(found)


def _missing(message: Message, sections: tuple[tuple[str, str], ...]) -> Iterable[Violation]:
    for name, path in sections:
        if not message.HasField(name):
            yield Violation(path, "is missing", "send it with its defaults written out")


def spec_value(message: pb.TrainingJobSpec) -> JobSpec:
    """A specification; its rules are `core.manifest.check_spec`'s to check."""
    limits = message.timeouts
    spec = JobSpec(
        name=message.name,
        labels=tuple(sorted(message.labels.items())),
        workload=Workload(
            message.workload.module,
            message.workload.path,
            _args(message.workload),
            message.workload.code_digest,
            message.workload.image,
        ),
        ranks=message.ranks,
        accelerators_per_rank=message.accelerators_per_rank,
        parallel=Parallel(
            message.parallel.tp, message.parallel.pp, message.parallel.cp, message.parallel.dp, message.parallel.ep
        ),
        spares=SparePolicy(
            AUTO if message.spares.auto else message.spares.warm_nodes,
            message.spares.parked_per_node,
            message.spares.cold_nodes,
        ),
        checkpoint=_checkpoint_policy(message.checkpoint),
        restart_policy=policy_value(message.restart_policy),
        timeouts=Timeouts(limits.start_ms, limits.join_ms, limits.stop_ms),
        priority=message.priority,
        elastic=Elastic(message.elastic.min_replicas),
        muted_faults=tuple(message.muted_faults),
    )
    return complete(spec)


def _args(message: pb.WorkloadSpec) -> str:
    """Canonical JSON of the arguments; doubles that are whole numbers become integers, as they were written."""
    return json.dumps(_whole(MessageToDict(message.args)), sort_keys=True)


def _whole(value: Any) -> Any:
    match value:
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case float() if value.is_integer() and abs(value) <= 2**53:
            return int(value)
        case _:
            return value


def workload_message(workload: Workload) -> pb.WorkloadSpec:
    """The wire form of a workload."""
    message = pb.WorkloadSpec(
        module=workload.module, path=workload.path, code_digest=workload.code_digest, image=workload.image
    )
    ParseDict(json.loads(workload.args), message.args)
    return message


def parallel_message(parallel: Parallel) -> pb.ParallelDegrees:
    """The wire form of parallel degrees."""
    return pb.ParallelDegrees(tp=parallel.tp, pp=parallel.pp, cp=parallel.cp, dp=parallel.dp, ep=parallel.ep)


def file_messages(files: Iterable[ShardFile]) -> list[pb.ShardFile]:
    """The wire form of files."""
    return [pb.ShardFile(path=file.path, bytes=file.bytes, sha256=file.sha256) for file in files]


def restore_message(checkpoint: Checkpoint | None) -> pb.RestorePoint:
    """The wire form of where a generation starts; None: from initial weights."""
    if checkpoint is None:
        return pb.RestorePoint()
    files = file_messages(checkpoint.files)
    return pb.RestorePoint(checkpoint_id=checkpoint.id, step=checkpoint.step, folder=checkpoint.folder, files=files)


def spec_message(spec: JobSpec) -> pb.TrainingJobSpec:
    """The wire form of a specification, every field written out."""
    return pb.TrainingJobSpec(
        name=spec.name,
        labels=dict(spec.labels),
        workload=workload_message(spec.workload),
        ranks=spec.ranks,
        accelerators_per_rank=spec.accelerators_per_rank,
        parallel=parallel_message(spec.parallel),
        spares=pb.SpareSpec(
            warm_nodes=max(0, spec.spares.warm_nodes),
            parked_per_node=spec.spares.parked_per_node,
            auto=spec.spares.warm_nodes == AUTO,
            cold_nodes=spec.spares.cold_nodes,
        ),
        checkpoint=pb.CheckpointSpec(
            folder=spec.checkpoint.folder,
            every_steps=max(0, spec.checkpoint.every_steps),
            keep=spec.checkpoint.keep,
            auto=spec.checkpoint.every_steps == AUTO,
            min_steps=spec.checkpoint.min_steps,
            max_steps=spec.checkpoint.max_steps,
            replicated=spec.checkpoint.replicated,
            resume_from=spec.checkpoint.resume_from,
            local_every_steps=spec.checkpoint.local_every_steps,
            no_local=not spec.checkpoint.local_every_steps,
        ),
        restart_policy=policy_message(spec.restart_policy),
        timeouts=pb.TimeoutSpec(
            start_ms=spec.timeouts.start_ms, join_ms=spec.timeouts.join_ms, stop_ms=spec.timeouts.stop_ms
        ),
        priority=spec.priority,
        elastic=pb.ElasticSpec(min_replicas=spec.elastic.min_replicas),
        muted_faults=spec.muted_faults,
    )
