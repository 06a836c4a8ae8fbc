"""The wire of every released version, against the one at hand: fields and messages are only added.

`v0.1.binpb` is the FileDescriptorSet of the release (`protoc --descriptor_set_out`), `v0.1.json` what its agents sent
(`record.py`). A new release adds its own two files; none is ever changed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from phalanx.v1 import agent_pb2, cell_pb2, checkpoint_pb2, event_pb2, fleet_pb2, job_pb2, local_pb2, types_pb2

from controlplane.core.state import State
from controlplane.rpc import observations

HERE = Path(__file__).parent
RELEASES = sorted(path.stem for path in HERE.glob("v*.binpb"))
NOW_NS = 1_800_000_000 * 10**9
CURRENT = (agent_pb2, cell_pb2, checkpoint_pb2, event_pb2, fleet_pb2, job_pb2, local_pb2, types_pb2)


def pool_of(release: str) -> tuple[descriptor_pool.DescriptorPool, list[str]]:
    files = descriptor_pb2.FileDescriptorSet.FromString((HERE / f"{release}.binpb").read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)  # type: ignore[no-untyped-call]
    return pool, [file.name for file in files if file.package == "phalanx.v1"]


def now(name: str) -> Any:
    """The descriptor of today's file."""
    return {module.DESCRIPTOR.name: module.DESCRIPTOR for module in CURRENT}[name]


def nested(messages: Iterator[Descriptor] | Any) -> Iterator[Descriptor]:
    for message in messages:
        yield message
        yield from nested(message.nested_types)


def shape(field: FieldDescriptor) -> tuple[object, ...]:
    """What must not change for a field number."""
    kind = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return field.name, field.type, field.is_repeated, kind.full_name if kind else "", oneof.name if oneof else ""


def enum_changes(before: EnumDescriptor, after: EnumDescriptor | None) -> Iterator[str]:
    if after is None:
        yield f"enum {before.full_name} is gone"
        return
    for value in before.values:
        if value.number not in after.values_by_number or after.values_by_number[value.number].name != value.name:
            yield f"{before.full_name}.{value.name} = {value.number} has changed"


def message_changes(before: Descriptor, after: Descriptor | None) -> Iterator[str]:
    if after is None:
        yield f"message {before.full_name} is gone"
        return
    for field in before.fields:
        present = after.fields_by_number.get(field.number)
        if present is None or shape(present) != shape(field):
            yield f"{before.full_name}.{field.name} = {field.number}: {shape(field)} became {present and shape(present)}"
    for enum in before.enum_types:
        yield from enum_changes(enum, after.enum_types_by_name.get(enum.name))


def file_changes(before: Any, after: Any) -> Iterator[str]:
    """Everything that an old peer would notice."""
    later = {message.full_name: message for message in nested(after.message_types_by_name.values())}
    for message in nested(before.message_types_by_name.values()):
        yield from message_changes(message, later.get(message.full_name))
    for name, enum in before.enum_types_by_name.items():
        yield from enum_changes(enum, after.enum_types_by_name.get(name))
    for name, service in before.services_by_name.items():
        methods = {method.name: method for method in after.services_by_name[name].methods}
        for method in service.methods:
            same = methods.get(method.name)
            kinds = (method.input_type.full_name, method.output_type.full_name)
            streams = (method.client_streaming, method.server_streaming)
            if same is None or kinds != (same.input_type.full_name, same.output_type.full_name):
                yield f"{service.full_name}.{method.name} has changed"
            elif streams != (same.client_streaming, same.server_streaming):
                yield f"{service.full_name}.{method.name} streams otherwise"


@pytest.mark.parametrize("release", RELEASES)
def test_nothing_of_a_release_is_removed_renumbered_or_retyped(release: str) -> None:
    pool, names = pool_of(release)
    assert "phalanx/v1/agent.proto" in names
    found = [change for name in names for change in file_changes(pool.FindFileByName(name), now(name))]  # type: ignore[no-untyped-call]
    assert not found


def test_the_check_sees_each_kind_of_break() -> None:
    """Today's agent.proto, broken in one way at a time, must be reported as what would break a peer of today."""
    before = agent_pb2.DESCRIPTOR

    def broken(change: Any) -> list[str]:
        pool = descriptor_pool.DescriptorPool()
        for module in (types_pb2, agent_pb2):
            for needed in module.DESCRIPTOR.dependencies:
                if not needed.package.startswith("phalanx"):
                    pool.AddSerializedFile(needed.serialized_pb)
            file = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
            change(file)
            pool.AddSerializedFile(file.SerializeToString())
        return list(file_changes(before, pool.FindFileByName(before.name)))  # type: ignore[no-untyped-call]

    def beat(file: descriptor_pb2.FileDescriptorProto) -> Any:
        return next((message for message in file.message_type if message.name == "Beat"), None)

    def remove(file: descriptor_pb2.FileDescriptorProto) -> None:
        if beat(file):
            del beat(file).field[1]

    def renumber(file: descriptor_pb2.FileDescriptorProto) -> None:
        if beat(file):
            beat(file).field[1].number = 9

    def retype(file: descriptor_pb2.FileDescriptorProto) -> None:
        if beat(file):
            beat(file).field[0].type = FieldDescriptor.TYPE_STRING

    def drop_method(file: descriptor_pb2.FileDescriptorProto) -> None:
        if file.service:
            del file.service[0].method[1]

    assert broken(lambda file: None) == []
    for change in (remove, renumber, retype, drop_method):
        assert len(broken(change)) == 1, change.__name__


def recorded() -> list[tuple[str, str, str, bytes]]:
    found = []
    for release in RELEASES:
        kinds = json.loads((HERE / f"{release}.json").read_text())
        found += [
            (release, side, kind, base64.b64decode(raw)) for side, rows in kinds.items() for kind, raw in rows.items()
        ]
    return found


@pytest.mark.parametrize(
    ("release", "side", "kind", "raw"), recorded(), ids=[f"{r}-{s}-{k}" for r, s, k, _ in recorded()]
)
def test_what_a_release_sent_is_read_as_it_was_meant(release: str, side: str, kind: str, raw: bytes) -> None:
    pool, _ = pool_of(release)
    full_name = {"agent": "phalanx.v1.AgentMessage", "cell": "phalanx.v1.CellMessage"}[side]
    then = message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name)).FromString(raw)  # type: ignore[no-untyped-call]
    today = (agent_pb2.AgentMessage if side == "agent" else cell_pb2.CellMessage).FromString(raw)
    assert today.WhichOneof("body") == kind
    assert json_format.MessageToDict(today) == json_format.MessageToDict(then)
    assert today.SerializeToString(deterministic=True) == then.SerializeToString(deterministic=True)


@pytest.mark.parametrize("release", RELEASES)
def test_hello_and_report_of_a_release_are_accepted(release: str) -> None:
    rows = {(side, kind): raw for name, side, kind, raw in recorded() if name == release}
    hello = agent_pb2.AgentMessage.FromString(rows["agent", "hello"]).hello
    joined = observations.node_hello(hello, NOW_NS, State())
    assert (joined.node, joined.version, dict(joined.labels)["rack"]) == ("node-1", hello.agent_version, "r1")
    assert len(joined.accelerators) == 2
    report = agent_pb2.AgentMessage.FromString(rows["agent", "report"]).report
    told = observations.node_report("node-1", hello.boot_id, report, NOW_NS, State())
    assert told.accelerators[0].device.fault_code == "ECC"
    cell = observations.cell_hello(cell_pb2.CellMessage.FromString(rows["cell", "hello"]).hello)
    assert cell.nodes == (("node-1", True),)
    lost = observations.cell_report("cell-1", "1", cell_pb2.CellMessage.FromString(rows["cell", "report"]).report)
    assert (lost.nodes, lost.dead_actors) == ((("node-1", False),), (("demo-1-1", "killed"),))
