"""As much of etcd's v3 protocol as leases need (rpc.proto and kv.proto of etcd 3.4); fields that are not listed are skipped."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_INT64, _BYTES, _MESSAGE = (
    descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
)
_FIELDS: dict[str, dict[str, tuple[int, int, str]]] = {
    "LeaseGrantRequest": {"TTL": (1, _INT64, ""), "ID": (2, _INT64, "")},
    "LeaseGrantResponse": {"ID": (2, _INT64, ""), "TTL": (3, _INT64, "")},
    "LeaseKeepAliveRequest": {"ID": (1, _INT64, "")},
    "LeaseKeepAliveResponse": {"ID": (2, _INT64, ""), "TTL": (3, _INT64, "")},
    "PutRequest": {"key": (1, _BYTES, ""), "value": (2, _BYTES, ""), "lease": (3, _INT64, "")},
    "PutResponse": {},
    "WatchCreateRequest": {"key": (1, _BYTES, ""), "range_end": (2, _BYTES, "")},
    "WatchRequest": {"create_request": (1, _MESSAGE, "WatchCreateRequest")},
    "KeyValue": {"key": (1, _BYTES, "")},
    "Event": {"type": (1, _INT64, ""), "kv": (2, _MESSAGE, "KeyValue")},
    "WatchResponse": {"events": (11, _MESSAGE, "*Event")},
}
"""Number, type and, of messages, the name; `*`: repeated."""
DELETED = 1
"""Type of an event: a key is gone, here because its lease has run out."""


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="etcd_leases.proto", package="etcd_leases", syntax="proto3")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, of) in fields.items():
            label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            if of.startswith("*"):
                label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
            added = message.field.add(name=field, number=number, type=kind, label=label)
            if of:
                added.type_name = f".etcd_leases.{of.removeprefix('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"etcd_leases.{name}")) for name in _FIELDS
    }


MESSAGES = _messages()
"""Message classes by name."""


class Calls:
    """The four calls on one channel of grpc.aio."""

    def __init__(self, channel: Any) -> None:
        def of(kind: str, path: str, request: str, answer: str) -> Any:
            return getattr(channel, kind)(
                f"/etcdserverpb.{path}",
                request_serializer=MESSAGES[request].SerializeToString,
                response_deserializer=MESSAGES[answer].FromString,
            )

        self.grant = of("unary_unary", "Lease/LeaseGrant", "LeaseGrantRequest", "LeaseGrantResponse")
        self.keep_alive = of("stream_stream", "Lease/LeaseKeepAlive", "LeaseKeepAliveRequest", "LeaseKeepAliveResponse")
        self.put = of("unary_unary", "KV/Put", "PutRequest", "PutResponse")
        self.watch = of("stream_stream", "Watch/Watch", "WatchRequest", "WatchResponse")
