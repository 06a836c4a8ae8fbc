"""The host table as JSON in NODE_DIR/hosts.json. Holds tokens, hence mode 0600."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from phalanx.v1 import types_pb2

from agents.node.durable import kernel_boot_id, replace_file
from agents.node.hosts import (
    ArchivedHost,
    HeldAssignment,
    HostIdentity,
    HostRecord,
    HostTable,
    Marker,
    ReachedAt,
)

VERSION = 1


class HostsFileError(Exception):
    """The file is there but cannot be read; guessing would make the agent forget living processes."""


def save_hosts(path: Path, table: HostTable) -> None:
    """Replace the file with the table as it is now. Not synced: processes do not outlive the machine."""
    document = {
        "version": VERSION,
        "kernel_boot_id": kernel_boot_id(),
        "next_serial": table.next_serial,
        "hosts": [_record_document(record) for record in table],
        "archive": [asdict(host) for host in table.archive.values()],
    }
    replace_file(path, json.dumps(document, separators=(",", ":")).encode())


def load_hosts(path: Path) -> HostTable:
    """The table of the former agent; empty when there was none.

    After a reboot of the machine no process of it can be left: those hosts come back as exited, not observed, empty.
    Raises HostsFileError.
    """
    table = HostTable()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return table
    try:
        document = json.loads(data)
        if document["version"] != VERSION:
            raise HostsFileError(f"{path} has version {document['version']}, this agent reads {VERSION}")
        table.next_serial = int(document["next_serial"])
        for entry in document["hosts"]:
            record = _record(entry)
            table.records[record.identity.host_id] = record
        for entry in document["archive"]:
            table.archive[entry["host_id"]] = ArchivedHost(**entry)
    except (ValueError, KeyError, TypeError, json_format.ParseError) as error:
        raise HostsFileError(f"{path} cannot be read ({error!r}); move it away to start without its hosts") from error
    if document["kernel_boot_id"] != kernel_boot_id():
        for record in table:
            record.state_since = 0.0
            record.reached = ReachedAt()
            table.group_empty(record.identity.host_id, 0.0)
    return table


def _record_document(record: HostRecord) -> dict[str, Any]:
    document = {
        "identity": _identity_document(record.identity),
        "serial": record.serial,
        "state": types_pb2.RankState.Name(record.state),
        "state_since": record.state_since,
        "pid": record.pid,
        "rank": record.rank,
        "generation": record.generation,
        "assigned": asdict(record.assigned) if record.assigned is not None else None,
        "reached": asdict(record.reached),
        "marker": asdict(record.marker) if record.marker is not None else None,
        "exit": json_format.MessageToDict(record.exit) if record.exit is not None else None,
        "fence_reason": record.fence_reason,
    }
    if record.own_rows:
        document["own_rows"] = True
    return document


def _identity_document(identity: HostIdentity) -> dict[str, Any]:
    """Fields of later versions only where they say something: an agent that is rolled back reads the rest."""
    document = asdict(identity)
    if not identity.contained:
        del document["contained"]
    return document


def _record(document: dict[str, Any]) -> HostRecord:
    assigned, marker, exit_info = document["assigned"], document["marker"], document["exit"]
    return HostRecord(
        identity=HostIdentity(**document["identity"]),
        serial=document["serial"],
        state=types_pb2.RankState.Value(document["state"]),
        state_since=document["state_since"],
        pid=document["pid"],
        rank=document["rank"],
        generation=document["generation"],
        assigned=HeldAssignment(
            assigned["generation"], assigned["rank"], assigned["token"], tuple(assigned["accelerators"])
        )
        if assigned is not None
        else None,
        reached=ReachedAt(**document["reached"]),
        marker=Marker(**marker) if marker is not None else None,
        exit=json_format.ParseDict(exit_info, types_pb2.ExitInfo()) if exit_info is not None else None,
        fence_reason=document["fence_reason"],
        own_rows=document.get("own_rows", False),
    )
