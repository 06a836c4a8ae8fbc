"""One node, job or rank at length, and why it is as it is: what a detail screen shows, without the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phalanx.v1 import event_pb2, fleet_pb2, job_pb2
from phalanx.v1 import types_pb2 as pb

from cli import render
from cli.client import Client
from cli.errors import CliError, Exit
from cli.tables import clean
from cli.top.feed import CALL_TIMEOUT_S
from cli.top.text import age, event_row, step_time
from cli.wire import enum_word

RANKS_SHOWN = 256
"""Of a job of 50,000 ranks nobody reads all; those that do not run come first."""
RECOVERIES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Subject:
    """What a detail screen is about. `kind`: job, node or rank; a rank's name is JOB/RANK."""

    kind: str
    name: str

    def words(self) -> str:
        """`rank moe/3`."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Related:
    """A row that leads to something else."""

    subject: Subject
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Detail:
    """Facts, related things, and why: a summary, then what led there, newest first."""

    facts: Sequence[tuple[str, str]]
    columns: tuple[str, ...]
    related: Sequence[Related]
    why: Sequence[str]
    remark: str = ""


def read_detail(client: Client, subject: Subject) -> Detail:
    """Reads the subject and its explanation, in two calls.

    Raises:
        CliError: there is no such rank.
        grpc.RpcError: the controller refused or did not answer.
    """
    match subject.kind:
        case "node":
            node = client.fleet.GetNode(fleet_pb2.GetNodeRequest(name=subject.name), timeout=CALL_TIMEOUT_S).node
            return _node(node, _why(client, subject))
        case "job":
            return _job(_read_job(client, subject.name), _why(client, subject))
        case _:
            name, _, rank = subject.name.rpartition("/")
            return _rank(_read_job(client, name), int(rank), _why(client, subject))


def _read_job(client: Client, name: str) -> job_pb2.Job:
    return client.jobs.GetJob(job_pb2.GetJobRequest(name=name), timeout=CALL_TIMEOUT_S).job


def _why(client: Client, subject: Subject) -> list[str]:
    kind = event_pb2.SubjectKind.Value(f"SUBJECT_KIND_{subject.kind.upper()}")
    answer = client.events.Explain(event_pb2.ExplainRequest(kind=kind, name=subject.name), timeout=CALL_TIMEOUT_S)
    return [clean(answer.summary), *("  ".join(event_row(event)) for event in reversed(answer.chain))]


def _facts(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, clean(value)) for name, value in pairs if value]


def _node(node: fleet_pb2.Node, why: list[str]) -> Detail:
    devices = [
        f"{device.index} {enum_word(pb.AcceleratorState, device.state)} {device.fault_code} {device.fault_message}".strip()
        for device in node.accelerators
    ]
    facts = _facts(
        (
            ("service", enum_word(pb.NodeService, node.service)),
            ("liveness", f"{enum_word(pb.NodeLiveness, node.liveness)}, last beat {age(node.last_beat_age_s)}"),
            ("agent", ("session open, " if node.session_open else "session lost, ") + node.agent_version),
            ("cell", "member" if node.cell_member else "not a member"),
            ("address", node.address),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(node.labels.items()))),
            ("cordons", "; ".join(f"{reason.owner}: {reason.reason}" for reason in node.cordons)),
            ("accelerators", "; ".join(devices)),
        )
    )
    jobs = [Related(Subject("job", name), (clean(name),)) for name in node.jobs]
    return Detail(facts, ("jobs on this node",), jobs, why)


def _job(job: job_pb2.Job, why: list[str]) -> Detail:
    total = render.total_steps(job)
    facts = _facts(
        (
            ("state", f"{render.job_state(job)}  {job.blocker or job.end_reason}".strip()),
            ("step", f"{job.step}" + (f" of {total}" if total else "") + f", loss {render.loss(job.loss)}"),
            ("speed", f"{step_time(job.step_time_s)} per step, ETTR {job.ettr:.3f}" if job.step_time_s else ""),
            ("generation", str(job.generation)),
            ("checkpoint", f"step {job.last_checkpoint_step}" if job.last_checkpoint_step else "none yet"),
            ("time went to", render.amounts(job.ledger_s)),
            ("restarts", ", ".join(f"{name} {count}" for name, count in sorted(job.restarts.items()) if count)),
            *(("recovery", _recovery(item)) for item in job.recoveries[-RECOVERIES_SHOWN:]),
        )
    )
    ranks = sorted(job.ranks, key=lambda rank: (rank.state == pb.RANK_STATE_RUNNING, rank.rank))
    left_out = len(ranks) - RANKS_SHOWN
    remark = f"{left_out:,} further ranks are not listed: `phalanx describe job {job.name}`" if left_out > 0 else ""
    rows = [
        Related(
            Subject("rank", f"{job.name}/{rank.rank}"),
            (str(rank.rank), enum_word(pb.RankState, rank.state), clean(rank.node), str(rank.step), str(rank.pid)),
        )
        for rank in ranks[:RANKS_SHOWN]
    ]
    return Detail(facts, ("rank", "state", "node", "step", "pid"), rows, why, remark)


def _recovery(item: job_pb2.Recovery) -> str:
    """One recovery on one line."""
    length = render.seconds(item.total_s) + ("" if item.complete else " until overtaken" if item.overtaken else " ...")
    ranks = f" of ranks {', '.join(str(rank) for rank in item.ranks[:8])}" if item.ranks else ""
    return f"generation {item.generation}: {item.rung}{ranks}, {length}, {item.steps_lost} steps lost: {item.cause}"


def _rank(job: job_pb2.Job, number: int, why: list[str]) -> Detail:
    rank = next((item for item in job.ranks if item.rank == number), None)
    if rank is None:
        raise CliError(f"job {job.name} has no rank {number} now", code=Exit.NOT_FOUND)
    facts = _facts(
        (
            ("state", enum_word(pb.RankState, rank.state)),
            ("job", f"{job.name}, {render.job_state(job)}, generation {job.generation}"),
            ("step", f"{rank.step} (the job's: {job.step})"),
            ("node", rank.node),
            ("accelerators", ", ".join(str(index) for index in rank.accelerators)),
            ("process", f"pid {rank.pid}, host {rank.host_id} pid {rank.host_pid}" if rank.pid else "none"),
            ("its output", f"phalanx logs {job.name} --rank {number}"),
        )
    )
    related = [
        Related(Subject("node", rank.node), (clean(f"node {rank.node}"),)),
        Related(Subject("job", job.name), (clean(f"job {job.name}"),)),
    ]
    return Detail(facts, ("where it belongs",), related, why)
