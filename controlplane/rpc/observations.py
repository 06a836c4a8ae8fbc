"""Messages of agents and cells as events of the core. Ages become times on our clock; what makes no sense is refused.

A peer may be older, newer or broken: nothing that it sends may reach the core as a value that the core's columns cannot
hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from phalanx.v1 import agent_pb2, cell_pb2
from phalanx.v1 import types_pb2 as pb

from controlplane.core import events as ev
from controlplane.core.checkpoints import ShardFile
from controlplane.core.fleet import Accelerator
from controlplane.core.jobs import Exit, split_host_id
from controlplane.core.spec import Violation
from controlplane.core.state import State
from controlplane.core.vocabulary import AcceleratorState, PairWord, RankState, SaveWord
from controlplane.rpc import health_rows
from controlplane.rpc.codec import MAX_TEXT, at_from_age, duration_ns, require
from controlplane.rpc.errors import refuse_fields
from controlplane.rpc.retold import as_known

MAX_ACCELERATORS = 256
"""Devices of one node; the widest systems today have 64 to 128 behind one host."""
MAX_LABELS = 64
KNOWN_WORDS = frozenset(word.value for word in PairWord if word)
MAX_BYTES_PER_S = 1e13
"""No path between two nodes is faster: ten times the widest links of today."""
MAX_ID = 200
"""Longest id of an effect that may be ours, characters."""
MAX_LABEL = 256
MAX_DEVICE_TEXT = 256
MAX_ROWS = 4_096
"""Processes of a node, shards of a report, and so on: many times what the widest node has."""
MAX_FILES = 16_384
"""Files of all shards of a report."""
MAX_PATH = 4_096
MAX_VERSION = 100
MAX_RESULT_BYTES = 96 << 10
"""What a process ends with; the rank library lets 64 KiB pass."""
MAX_ACTORS = 200_000
"""Of one cell: four times the ranks of the largest job."""
MAX_ADDRESS = 256
MAX_NUMBER = 2**31 - 1
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")

MAX_SAVE_REASON = 500
_SAVE_WORDS = {
    agent_pb2.SAVE_WORD_FAILED: SaveWord.FAILED,
    agent_pb2.SAVE_WORD_SLOW: SaveWord.SLOW,
    agent_pb2.SAVE_WORD_UNABLE: SaveWord.UNABLE,
}
_STATES = {int(state): state for state in RankState}
_ACCELERATOR_STATES = frozenset(int(state) for state in AcceleratorState)
_SENDERS = {
    pb.ExitInfo.SENDER_UNSPECIFIED: "",
    pb.ExitInfo.SENDER_UNKNOWN: "unknown",
    pb.ExitInfo.SENDER_AGENT: "agent",
    pb.ExitInfo.SENDER_OOM: "oom",
}


def node_hello(message: agent_pb2.AgentHello, now_ns: int, state: State) -> ev.NodeHello:
    """An agent's hello; rows of ranks that their job does not have are left out.

    Raises:
        RequestRefused: a field is missing or makes no sense.
    """
    refuse_fields(_hello_problems(message))
    rows = sorted(_accelerators(message.snapshot), key=lambda row: row.index)
    return ev.NodeHello(
        message.node,
        message.boot_id,
        tuple(sorted(message.labels.items())),
        message.address,
        message.agent_version[:MAX_VERSION],
        as_known(_hosts(message.snapshot, now_ns, state), state),
        tuple(rows),
        health_rows.fault_rows(message.node, message.snapshot, now_ns, state),
        health_rows.source_rows(message.snapshot) or (),
    )


def _hello_problems(message: agent_pb2.AgentHello) -> Iterator[Violation]:
    if not _NODE.fullmatch(message.node):
        yield Violation("hello.node", "is no node name", "use letters, digits, `.`, `_` and `-`")
    yield from require("hello.boot_id", message.boot_id, most=128)
    yield from require("hello.address", message.address, most=256)
    if len(message.labels) > MAX_LABELS:
        yield Violation("hello.labels", f"has {len(message.labels)} entries", f"use at most {MAX_LABELS}")
    elif any(len(key) > MAX_LABEL or len(value) > MAX_LABEL for key, value in message.labels.items()):
        yield Violation("hello.labels", "has one that is too long", f"use at most {MAX_LABEL} characters")
    if not message.HasField("snapshot") or not message.snapshot.full:
        yield Violation("hello.snapshot", "is no full report", "send all rows with full = true")
    yield from _report_problems(message.snapshot, "hello.snapshot")
    if len(message.snapshot.accelerators) > MAX_ACCELERATORS:
        return
    indexes = sorted(row.index for row in message.snapshot.accelerators)
    if indexes != list(range(len(indexes))):
        yield Violation("hello.snapshot.accelerators", "have gaps or repeats", "number them from 0")


def node_report(node: str, boot_id: str, message: agent_pb2.Report, now_ns: int, state: State) -> ev.NodeReport:
    """A report of a node; rows of ranks that their job does not have are left out.

    Raises:
        RequestRefused: a field is missing or makes no sense.
    """
    refuse_fields(_report_problems(message, "report"))
    hosts = _hosts(message, now_ns, state)
    return ev.NodeReport(
        node, boot_id, message.full, hosts, tuple(_accelerators(message)), *findings(message, now_ns),
        broken_links=health_rows.broken_links(message), faults=health_rows.fault_rows(node, message, now_ns, state),
        unreadable=health_rows.source_rows(message), all_faults=health_rows.tells_all_faults(message),
        saves=tuple(_saves(message, state)),
    )  # fmt: skip


def findings(
    message: agent_pb2.Report, now_ns: int
) -> tuple[tuple[ev.ShardRow, ...], tuple[ev.RestoreFailedRow, ...], tuple[ev.CheckedRow, ...]]:
    """What a report says once: shards, failed restores, checked checkpoints."""
    shards = tuple(
        ev.ShardRow(
            row.job_uid, row.generation, row.step, row.rank, row.folder, files_value(row.files),
            duration_ns(row.save_stall_s), at_from_age(row.step_age_ms, now_ns),
        )
        for row in message.shards
    )  # fmt: skip
    failures = tuple(
        ev.RestoreFailedRow(
            row.job_uid, row.generation, row.rank, row.checkpoint_id[:MAX_PATH], row.file[:MAX_PATH], row.reason[:1_000]
        )
        for row in message.restore_failures
    )
    checked = tuple(
        ev.CheckedRow(row.job_uid, row.checkpoint_id, row.ok, row.file[:MAX_PATH], row.reason[:1_000])
        for row in message.checked
    )
    return shards, failures, checked


def _saves(message: agent_pb2.Report, state: State) -> Iterator[ev.SaveRow]:
    """What ranks say of saves; words that nobody here knows, and numbers that cannot be, are left out."""
    for row in message.save_findings:
        word = _SAVE_WORDS.get(row.word)
        fits = max(row.step, row.generation, row.rank) <= MAX_NUMBER
        if word is not None and fits and _rank_exists(row.job_uid, row.rank, state):
            yield ev.SaveRow(row.job_uid, row.generation, row.step, row.rank, word, row.reason[:MAX_SAVE_REASON])


def files_value(messages: object) -> tuple[ShardFile, ...]:
    """Files of a shard."""
    return tuple(ShardFile(file.path, file.bytes, file.sha256) for file in messages)  # type: ignore[attr-defined] # repeated field


def _rank_exists(uid: str, rank: int, state: State) -> bool:
    job = state.jobs.get(uid)
    return job is None or rank < job.spec.ranks


def _too_many(message: agent_pb2.Report, path: str) -> Iterator[Violation]:
    """Rows are counted before any is looked at: eight MiB hold four million empty ones."""
    most = {
        "hosts": MAX_ROWS, "accelerators": MAX_ACCELERATORS, "shards": MAX_ROWS, "restore_failures": MAX_ROWS,
        "checked": MAX_ROWS, "save_findings": MAX_ROWS,
    }  # fmt: skip
    for name, limit in most.items():
        count = len(getattr(message, name))
        if count > limit:
            yield Violation(f"{path}.{name}", f"has {count} rows", f"send at most {limit}")


def _report_problems(message: agent_pb2.Report, path: str) -> Iterator[Violation]:
    found = tuple(_too_many(message, path))
    if found:
        yield from found
        return
    yield from _shard_problems(message, path)
    for number, host in enumerate(message.hosts):
        at = f"{path}.hosts[{number}]"
        parts = split_host_id(host.host_id)
        if parts is None or parts[1] > MAX_NUMBER:
            yield Violation(f"{at}.host_id", "is no host id", "send back the id that the controller chose")
        if host.state not in _STATES:
            yield Violation(f"{at}.state", f"{host.state} is no state", "name the state of the process")
        if host.rank < -1:
            yield Violation(f"{at}.rank", f"{host.rank} is no rank", "use -1 for a process that holds none")
        if not host.HasField("exit"):
            if host.state == pb.RANK_STATE_EXITED:
                yield Violation(f"{at}.exit", "is missing", "an EXITED process says how it ended")
        elif host.exit.result and host.exit.ByteSize() > MAX_RESULT_BYTES:
            yield Violation(f"{at}.exit.result", "is too large", "a result has at most 64 KiB")
    for number, device in enumerate(message.accelerators):
        at = f"{path}.accelerators[{number}]"
        if int(device.state) not in _ACCELERATOR_STATES:
            yield Violation(f"{at}.state", f"{device.state} is no state", "use UNKNOWN when the probe cannot tell")
        if device.index >= MAX_ACCELERATORS:
            yield Violation(f"{at}.index", f"{device.index} is too large", f"use at most {MAX_ACCELERATORS - 1}")
        words = (device.serial, device.pci_address, device.vendor, device.model, device.fault_code)
        if max(map(len, words)) > MAX_DEVICE_TEXT:
            yield Violation(at, "has a text that is too long", f"use at most {MAX_DEVICE_TEXT} characters")
    yield from health_rows.problems(message, path)


def _shard_problems(message: agent_pb2.Report, path: str) -> Iterator[Violation]:
    files = sum(len(row.files) for row in message.shards)
    if files > MAX_FILES:
        yield Violation(f"{path}.shards", f"have {files} files", f"send at most {MAX_FILES} in one report")
        return
    texts = [text for row in message.shards for text in (row.folder, *(file.path for file in row.files))]
    if max(map(len, texts), default=0) > MAX_PATH:
        yield Violation(f"{path}.shards", "have a path that is too long", f"use at most {MAX_PATH} characters")


def _hosts(message: agent_pb2.Report, now_ns: int, state: State) -> tuple[ev.HostRow, ...]:
    rows = (_host(row, now_ns) for row in message.hosts)
    return tuple(row for row in rows if _rank_exists(row.job, row.rank, state))


def _host(row: agent_pb2.HostStatus, now_ns: int) -> ev.HostRow:
    uid, serial = split_host_id(row.host_id) or ("", 0)
    return ev.HostRow(
        uid, serial, _STATES[row.state], row.rank, row.generation, row.pid, row.host_pid,
        at_from_age(row.age_ms, now_ns), _exit(row.exit) if row.HasField("exit") else None,
        *(_moments(row.times, now_ns) if row.HasField("times") else ()),
    )  # fmt: skip


def _moments(times: agent_pb2.GenerationTimes, now_ns: int) -> list[int]:
    """When a rank got how far, Unix ns; 0: not yet. What it never told of was reached by the time of what came after it."""
    ages_ms = [times.joining_age_ms, times.rendezvous_age_ms, times.restored_age_ms, times.first_step_age_ms]
    for place in (2, 1, 0):
        ages_ms[place] = ages_ms[place] or ages_ms[place + 1]
    return [at_from_age(age_ms, now_ns) if age_ms else 0 for age_ms in ages_ms]


def _exit(message: pb.ExitInfo) -> Exit:
    return Exit(
        message.observed,
        message.code,
        message.signal,
        _SENDERS.get(message.sender, "unknown"),
        message.final_marker,
        message.message[:4_096],
        message.group_empty,
        dict(message.result),
    )


def _accelerators(message: agent_pb2.Report) -> Iterator[ev.AcceleratorRow]:
    for row in message.accelerators:
        device = Accelerator(
            row.serial, row.pci_address, row.vendor, row.model, row.fault_code, row.fault_message[:1_000]
        )
        yield ev.AcceleratorRow(row.index, row.state, device)


def cell_hello(message: cell_pb2.CellHello, speaks_for: tuple[str, ...] | None = None) -> ev.CellHello:
    """A cell agent's hello; `speaks_for`: nodes of its certificate, None over plaintext.

    Raises:
        RequestRefused: a field is missing or makes no sense.
    """
    refuse_fields(_cell_problems(message))
    nodes = tuple((node.node, node.alive) for node in message.snapshot.nodes)
    address = message.snapshot.store_address or message.store_address
    return ev.CellHello(message.cell, message.boot_id, message.incarnation, address, nodes, speaks_for)


def _cell_problems(message: cell_pb2.CellHello) -> Iterator[Violation]:
    if not _NODE.fullmatch(message.cell):
        yield Violation("hello.cell", "is no cell name", "use letters, digits, `.`, `_` and `-`")
    yield from require("hello.boot_id", message.boot_id, most=128)
    if len(message.store_address) > MAX_ADDRESS or len(message.incarnation) > MAX_ADDRESS:
        yield Violation("hello", "has a text that is too long", f"use at most {MAX_ADDRESS} characters")
    if not message.HasField("snapshot") or not message.snapshot.full:
        yield Violation("hello.snapshot", "is no full report", "send all nodes and actors with full = true")
    yield from _actor_problems(message.snapshot, "hello.snapshot")


def cell_report(cell: str, boot_id: str, message: cell_pb2.CellReport) -> ev.CellReport:
    """A report of a cell. Its store address is always the present one: empty says that the store does not answer.

    Raises:
        RequestRefused: a field is missing or makes no sense.
    """
    refuse_fields(_actor_problems(message, "report"))
    return ev.CellReport(
        cell,
        boot_id,
        tuple((node.node, node.alive) for node in message.nodes),
        dead_actors(message),
        message.store_address,
        store_known=True,
    )


def dead_actors(message: cell_pb2.CellReport) -> tuple[tuple[str, str], ...]:
    """Actors that Ray calls dead, with its reason."""
    return tuple(
        (actor.host_id, actor.reason[:1_000])
        for actor in message.actors
        if actor.state == cell_pb2.ACTOR_STATE_DEAD and split_host_id(actor.host_id)
    )


def _actor_problems(message: cell_pb2.CellReport, path: str) -> Iterator[Violation]:
    if len(message.actors) > MAX_ACTORS:
        yield Violation(f"{path}.actors", f"has {len(message.actors)} rows", f"send at most {MAX_ACTORS}")
        return
    if len(message.store_address) > MAX_ADDRESS:
        yield Violation(f"{path}.store_address", "is too long", f"use at most {MAX_ADDRESS} characters")
    for number, actor in enumerate(message.actors):
        if actor.state == cell_pb2.ACTOR_STATE_UNSPECIFIED:
            yield Violation(f"{path}.actors[{number}].state", "is unspecified", "name the state of the actor")


def effect_done(message: agent_pb2.EffectResult) -> ev.EffectDone:
    """The outcome of an effect. A word on a pair that nobody here knows is none."""
    word, speed = PairWord.UNSPECIFIED, 0.0
    if message.HasField("pair"):
        said = message.pair.word
        word = PairWord(said) if said in KNOWN_WORDS else PairWord.NOT_RUN
        speed = message.pair.bytes_per_s if 0 < message.pair.bytes_per_s < MAX_BYTES_PER_S else 0.0
    return ev.EffectDone(
        message.effect_id[:MAX_ID], message.ok, message.message[:MAX_TEXT], pair=word, bytes_per_s=speed
    )
