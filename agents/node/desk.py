"""Answers to what rank hosts and rank processes say over the Unix socket."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Iterable

import structlog
from phalanx.v1 import agent_pb2, local_pb2, types_pb2

from agents.node.connections import Connection, Connections, Role
from agents.node.endings import Endings
from agents.node.generations import GenerationTables, assignment_message
from agents.node.hosts import HostIdentity, HostRecord, Refusal, moment_of, well_formed
from agents.node.memory.desk import MemoryDesk
from agents.node.outbox import Finding, RestoreFailedFinding, SaveTroubleFinding, ShardFinding
from agents.node.processes import ProcessStat, SessionIdentity, bears, read_stat
from agents.node.state import NodeState

SAVE_REASON_LIMIT = 500
"""Characters of what a rank says of a save."""

log = structlog.get_logger(__name__)


class LocalDesk:
    """Checks every claim against the host key, the kernel's word about the peer, and the host table."""

    def __init__(
        self,
        state: NodeState,
        endings: Endings,
        connections: Connections,
        tables: GenerationTables,
        memory: MemoryDesk,
        *,
        key: bytes,
        boot_id: str,
    ) -> None:
        self._state = state
        self._endings = endings
        self._connections = connections
        self._tables = tables
        self._memory = memory
        self._key = key
        self._boot_id = boot_id

    def register(self, connection: Connection, request: local_pb2.LocalRequest) -> bool:
        """Judge the first frame of a connection. False: it was refused and is to be closed."""
        match request.WhichOneof("body"):
            case "host_register":
                refusal = self._register_host(connection, request.host_register)
                host_id = request.host_register.host_id
            case "rank_register":
                refusal = self._register_rank(connection, request.rank_register)
                host_id = request.rank_register.host_id
            case other:
                refusal, host_id = Refusal("not_registered", f"the first frame must register, not {other}"), ""
        if refusal is not None:
            self._refuse(connection, host_id, refusal)
        return refusal is None

    def handle(self, connection: Connection, request: local_pb2.LocalRequest) -> None:
        """Answer one frame of a registered connection."""
        host_id = connection.host_id
        refusal: Refusal | None
        match connection.role, request.WhichOneof("body"):
            case Role.HOST, "host_exit":
                refusal = self._host_exit(connection, request.host_exit)
            case Role.RANK, "rank_status":
                refusal = self._rank_status(host_id, request.rank_status)
            case Role.RANK, "progress":
                self._progress(host_id, request.progress)
                refusal = None
            case Role.RANK, "snapshot":
                self._snapshot(host_id, request.snapshot)
                refusal = None
            case Role.RANK, "shard":
                refusal = self._shard(host_id, request.shard)
            case Role.RANK, "restore_failed":
                refusal = self._restore_failed(host_id, request.restore_failed)
            case Role.RANK, "save_finding":
                refusal = self._save_finding(host_id, request.save_finding)
            case Role.RANK, "final_marker":
                refusal = self._final_marker(connection, request.final_marker)
            case _, body:
                refusal = Refusal("not_understood", f"this connection may not send {body}")
        if refusal is not None:
            self._refuse(connection, host_id, refusal)

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        if self._connections.leave(connection):
            self._endings.silent(connection.host_id)

    def assign(self, record: HostRecord) -> bool:
        """Send a process its newest assignment; False when it is not connected, and gets it when it comes back."""
        connection = self._connections.get(record.identity.host_id, Role.RANK)
        held = record.assigned
        if connection is None or held is None:
            return False
        whole = self._tables.table(record.identity.job_uid, held.generation)
        if whole is None:
            return False
        message = assignment_message(whole, held)
        self._memory.assign(message)
        connection.send(message)
        return True

    def save_now(self, order: agent_pb2.SaveNow) -> int:
        """Hand an order to save on to the processes here that hold a rank of its generation; how many are connected."""
        told = 0
        for record in self._state.table:
            held = record.assigned
            if record.exited or held is None or held.generation != order.generation:
                continue
            connection = self._connections.get(record.identity.host_id, Role.RANK)
            if record.identity.job_uid == order.job_uid and connection is not None:
                connection.send(local_pb2.LocalInstruction(save_now=order))
                told += 1
        return told

    def confirmed(self, findings: Iterable[Finding]) -> None:
        """The controller has made these durable: the ranks may drop them."""
        for finding in findings:
            if isinstance(finding, ShardFinding):
                connection = self._connections.get(finding.host_id, Role.RANK)
                if connection is not None:
                    ack = local_pb2.ShardAck(generation=finding.message.generation, step=finding.message.step)
                    connection.send(local_pb2.LocalInstruction(shard_ack=ack))

    def _register_host(self, connection: Connection, message: local_pb2.HostRegister) -> Refusal | None:
        refusal = self._check_proof(message.host_id, message.proof)
        if refusal is not None:
            return refusal
        if not well_formed(message.host_id, message.job_uid):
            return Refusal("host_id", f"{message.host_id!r} is not <job_uid>-<serial> of job {message.job_uid!r}")
        stat = read_stat(message.host_pid)
        if stat is None or connection.peer_pid != message.host_pid:
            return Refusal("foreign_process", f"the peer is process {connection.peer_pid}, not {message.host_pid}")
        if stat.session != stat.pid or stat.group != stat.pid or stat.session == os.getsid(0):
            return Refusal("own_session", f"process {stat.pid} does not lead its own session; start it with setsid")
        known = self._state.table.get(message.host_id)
        same = known is not None and (known.identity.host_pid, known.identity.host_start) == (stat.pid, stat.start_time)
        if self._state.table.ended_before(message.host_id) and not same:
            self._endings.kill_late_arrival(message.host_id, SessionIdentity(stat.pid, stat.start_time))
            return Refusal("ended", f"the end of host {message.host_id} is already on record")
        identity = HostIdentity(
            host_id=message.host_id,
            job_uid=message.job_uid,
            job_name=message.job_name,
            host_pid=stat.pid,
            host_start=stat.start_time,
            pid=message.pid,
            log_path=message.log_path,
            contained=message.contained,
        )
        refusal = self._state.table.register_host(identity, time.monotonic())
        if refusal is not None:
            return refusal
        self._connections.enter(connection, message.host_id, Role.HOST)
        self._state.host_changed(message.host_id)
        self._endings.watch(self._state.table.records[message.host_id])
        connection.send(local_pb2.LocalInstruction(registered=local_pb2.Registered(agent_boot_id=self._boot_id)))
        log.info(
            "host.registered", host_id=message.host_id, job=message.job_name, host_pid=stat.pid, again=known is not None
        )
        return None

    def _register_rank(self, connection: Connection, message: local_pb2.RankRegister) -> Refusal | None:
        refusal = self._check_proof(message.host_id, message.proof)
        if refusal is not None:
            return refusal
        record = self._state.table.get(message.host_id)
        stat = read_stat(connection.peer_pid)
        if stat is None or connection.peer_pid != message.pid:
            return Refusal("foreign_process", f"the peer is process {connection.peer_pid}, not {message.pid}")
        if record is not None and not _belongs(stat, record.identity):
            return Refusal("foreign_process", f"process {stat.pid} is not of the session of host {message.host_id}")
        refusal = self._state.table.register_rank(message.host_id, message.pid)
        if refusal is not None:
            return refusal
        assert record is not None  # register_rank refuses an unknown host
        record.own_rows = message.own_rows
        self._connections.enter(connection, message.host_id, Role.RANK)
        connection.send(local_pb2.LocalInstruction(registered=local_pb2.Registered(agent_boot_id=self._boot_id)))
        # The connection stands whatever it says: a rank that was away for an assignment speaks of the old one.
        message.status.host_id = message.host_id
        stale = self._apply(message.status)
        if stale is not None:
            self._count(message.host_id, stale)
        self._state.host_changed(message.host_id)
        self.assign(record)
        return None

    def _check_proof(self, host_id: str, proof: str) -> Refusal | None:
        expected = hmac.new(self._key, host_id.encode(), hashlib.sha256).hexdigest()
        if host_id and hmac.compare_digest(expected.encode(), proof.lower().encode()):
            return None
        return Refusal("wrong_proof", "the proof is not the HMAC-SHA256 of the host id with this node's host.key")

    def _host_exit(self, connection: Connection, message: local_pb2.HostExit) -> Refusal | None:
        if message.host_id != connection.host_id:
            return Refusal("other_host", f"this connection speaks for {connection.host_id}")
        record = self._state.table.get(message.host_id)
        if record is not None:
            exit_info = types_pb2.ExitInfo()
            exit_info.CopyFrom(message.exit)
            self._endings.host_exit(message.host_id, exit_info, moment_of(message.age_ms, time.monotonic()))
        connection.send(local_pb2.LocalInstruction(host_exit_ack=local_pb2.HostExitAck()))
        return None

    def _rank_status(self, host_id: str, message: local_pb2.RankStatus) -> Refusal | None:
        if message.host_id != host_id:
            return Refusal("other_host", f"this connection speaks for {host_id}")
        refusal = self._apply(message)
        if refusal is None:
            self._state.host_changed(host_id)
        return refusal

    def _apply(self, status: local_pb2.RankStatus) -> Refusal | None:
        record = self._state.table.get(status.host_id)
        newest = self._tables.newest(record.identity.job_uid) if record is not None else 0
        return self._state.table.apply_status(status, newest, time.monotonic())

    def _progress(self, host_id: str, message: agent_pb2.StepProgress) -> None:
        record = self._state.table.get(host_id)
        if record is None or record.assigned is None or record.assigned.generation != message.generation:
            self._state.counters.add("progress_of_other_generation")
            return
        message.host_id, message.job_uid, message.rank = host_id, record.identity.job_uid, record.assigned.rank
        self._state.note_progress(message)

    def _snapshot(self, host_id: str, message: local_pb2.SnapshotTaken) -> None:
        record = self._state.table.get(host_id)
        held = record.assigned if record is not None else None
        if record is None or held is None or held.generation != message.generation:
            self._state.counters.add("snapshots_of_other_generation")
            return
        self._memory.taken(host_id, record.identity.job_uid, held.rank, message.step)

    def _shard(self, host_id: str, message: agent_pb2.ShardWritten) -> Refusal | None:
        refusal = self._check_finding(host_id, message.job_uid, message.generation, message.rank)
        if refusal is None:
            reached_at = moment_of(message.step_age_ms, time.monotonic())
            self._state.outbox.add_finding(ShardFinding(host_id, message, reached_at))
            self._state.wake.set()
        return refusal

    def _restore_failed(self, host_id: str, message: agent_pb2.RestoreFailed) -> Refusal | None:
        refusal = self._check_finding(host_id, message.job_uid, message.generation, message.rank)
        if refusal is None:
            log.warning(
                "restore.failed", host_id=host_id, checkpoint=message.checkpoint_id, file=message.file,
                reason=message.reason,
            )  # fmt: skip
            self._state.outbox.add_finding(RestoreFailedFinding(message))
            self._state.wake.set()
        return refusal

    def _save_finding(self, host_id: str, message: agent_pb2.SaveFinding) -> Refusal | None:
        refusal = self._check_finding(host_id, message.job_uid, message.generation, message.rank)
        if refusal is None:
            message.reason = message.reason[:SAVE_REASON_LIMIT]
            word = (
                agent_pb2.SaveWord.Name(message.word) if message.word in agent_pb2.SaveWord.values() else message.word
            )
            log.warning("save.trouble", host_id=host_id, step=message.step, word=word, reason=message.reason)
            self._state.outbox.add_finding(SaveTroubleFinding(message))
            self._state.wake.set()
        return refusal

    def _check_finding(self, host_id: str, job_uid: str, generation: int, rank: int) -> Refusal | None:
        record = self._state.table.get(host_id)
        if record is None or record.assigned is None:
            return Refusal("no_assignment", f"host {host_id} holds no assignment")
        refusal = self._state.table.check_generation(record, generation)
        if refusal is None and (job_uid, rank) != (record.identity.job_uid, record.assigned.rank):
            return Refusal("other_rank", f"host {host_id} is rank {record.assigned.rank} of {record.identity.job_uid}")
        return refusal

    def _final_marker(self, connection: Connection, message: local_pb2.FinalMarker) -> Refusal | None:
        if message.host_id != connection.host_id:
            return Refusal("other_host", f"this connection speaks for {connection.host_id}")
        refusal = self._state.table.final_marker(message)
        if refusal is None:
            self._state.save()
            self._state.workload_finished()
            connection.send(local_pb2.LocalInstruction(final_marker_ack=local_pb2.FinalMarkerAck()))
        return refusal

    def _refuse(self, connection: Connection, host_id: str, refusal: Refusal) -> None:
        self._count(host_id, refusal)
        connection.send(local_pb2.LocalInstruction(refused=local_pb2.LocalRefused(reason=refusal.reason)))

    def _count(self, host_id: str, refusal: Refusal) -> None:
        self._state.counters.add(f"local_refused.{refusal.kind}")
        if self._state.counters.first(host_id, refusal.kind):
            log.warning("local.refused", host_id=host_id, kind=refusal.kind, reason=refusal.reason)


def _belongs(stat: ProcessStat, identity: HostIdentity) -> bool:
    """Whether a process is one of the host's: of its session, or in its container."""
    return stat.session == identity.host_pid or (identity.contained and bears(stat.pid, identity.host_id))
