"""Between core values, messages and plain values: no decisions, no output."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from cli.wire_rules import policy_to_message, policy_value
from controlplane.core.spec import AUTO, CheckpointPolicy, Elastic, JobSpec, Parallel, SparePolicy, Timeouts, Workload

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from phalanx.v1 import types_pb2


def spec_to_message(spec: JobSpec) -> types_pb2.TrainingJobSpec:
    """The request form of a specification."""
    from google.protobuf.json_format import ParseDict  # noqa: PLC0415
    from phalanx.v1 import types_pb2 as pb  # noqa: PLC0415

    message = pb.TrainingJobSpec(
        name=spec.name,
        labels=dict(spec.labels),
        workload=pb.WorkloadSpec(
            module=spec.workload.module,
            path=spec.workload.path,
            code_digest=spec.workload.code_digest,
            image=spec.workload.image,
        ),
        ranks=spec.ranks,
        accelerators_per_rank=spec.accelerators_per_rank,
        parallel=pb.ParallelDegrees(
            tp=spec.parallel.tp, pp=spec.parallel.pp, cp=spec.parallel.cp, dp=spec.parallel.dp, ep=spec.parallel.ep
        ),
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
        restart_policy=policy_to_message(spec.restart_policy),
        timeouts=pb.TimeoutSpec(
            start_ms=spec.timeouts.start_ms, join_ms=spec.timeouts.join_ms, stop_ms=spec.timeouts.stop_ms
        ),
        priority=spec.priority,
        elastic=pb.ElasticSpec(min_replicas=spec.elastic.min_replicas),
        muted_faults=spec.muted_faults,
    )
    ParseDict(json.loads(spec.workload.args), message.workload.args)
    return message


def spec_value(message: types_pb2.TrainingJobSpec) -> JobSpec:
    """The specification in a message: what `spec_to_message` made of it, and what a controller runs."""
    limits, workload = message.timeouts, message.workload
    parallel, checkpoint, usual = message.parallel, message.checkpoint, CheckpointPolicy()
    return JobSpec(
        name=message.name,
        labels=tuple(sorted(message.labels.items())),
        workload=Workload(
            workload.module,
            workload.path,
            json.dumps(plain(workload.args), sort_keys=True),
            workload.code_digest,
            workload.image,
        ),
        ranks=message.ranks,
        accelerators_per_rank=message.accelerators_per_rank,
        parallel=Parallel(parallel.tp, parallel.pp, parallel.cp, parallel.dp, parallel.ep),
        spares=SparePolicy(
            AUTO if message.spares.auto else message.spares.warm_nodes,
            message.spares.parked_per_node,
            message.spares.cold_nodes,
        ),
        checkpoint=CheckpointPolicy(
            checkpoint.folder,
            AUTO if checkpoint.auto else checkpoint.every_steps,
            checkpoint.keep,
            checkpoint.min_steps or usual.min_steps,
            checkpoint.max_steps or usual.max_steps,
            checkpoint.replicated,
            checkpoint.resume_from,
            0 if checkpoint.no_local else checkpoint.local_every_steps or usual.local_every_steps,
        ),
        restart_policy=policy_value(message.restart_policy),
        timeouts=Timeouts(limits.start_ms, limits.join_ms, limits.stop_ms),
        priority=message.priority,
        elastic=Elastic(message.elastic.min_replicas),
        muted_faults=tuple(message.muted_faults),
    )


def enum_word(enum: Any, value: int) -> str:
    """`JOB_STATE_RUNNING` of `JobState` is `RUNNING`; a value that a newer server knows is its number."""
    return _word(enum.DESCRIPTOR, value)


def _word(enum: Any, value: int) -> str:
    known = enum.values_by_number.get(value)
    if known is None:
        return str(value)
    prefix = "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in enum.name).lstrip("_") + "_"
    return str(known.name).removeprefix(prefix)


def plain(message: Message) -> dict[str, Any]:
    """A message as plain values for JSON and YAML: every field, enums as words, numbers as numbers, NaN as null."""
    if message.DESCRIPTOR.full_name == "google.protobuf.Struct":
        from google.protobuf.json_format import MessageToDict  # noqa: PLC0415

        struct: dict[str, Any] = _whole_numbers(MessageToDict(message))
        return struct
    return {field.name: _plain_field(message, field) for field in message.DESCRIPTOR.fields}


def _whole_numbers(value: Any) -> Any:
    """Struct holds doubles only: what was written as 200 is shown as 200."""
    match value:
        case dict():
            return {key: _whole_numbers(item) for key, item in value.items()}
        case list():
            return [_whole_numbers(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _plain_field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    nested = field.message_type
    if nested is not None and nested.GetOptions().map_entry:
        return {key: _plain_value(value[key], nested.fields_by_name["value"]) for key in sorted(value)}
    if field.is_repeated:
        return [_plain_value(item, field) for item in value]
    if nested is not None and not message.HasField(field.name):
        return None
    return _plain_value(value, field)


def _plain_value(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return _word(field.enum_type, value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.hex() if isinstance(value, bytes) else value
