"""Output of ranks: one as it is, several line by line with their number in front."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli import render
from cli.client import CALL_TIMEOUT_S, SUBMIT_TIMEOUT_S, Client, status_of, translate
from cli.errors import CliError, Exit
from cli.following import RETRY_EVERY_S, RETRY_FOR_S

if TYPE_CHECKING:
    import grpc
    from phalanx.v1 import job_pb2

SINCE_START = 2**62
"""More bytes than any log has."""
MAX_RANKS = 64
"""Logs that one command reads: each is a stream through the controller, which relays a bounded number."""
MAX_LINE = 64 * 1024
"""A longer line is broken."""

_SPAN = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


def ranks_named(text: str) -> tuple[int, ...] | None:
    """The ranks of `0` or `0-3,7`; None for `all`. More than can be read at once is a usage error."""
    if text == "all":
        return None
    bounds = [_bounds(part) for part in text.split(",")]
    _check_count(sum(last - first + 1 for first, last in bounds))
    return tuple(dict.fromkeys(rank for first, last in bounds for rank in range(first, last + 1)))


def all_ranks(client: Client, job: str) -> tuple[int, ...]:
    """Every rank of a job, when they can be read at once."""
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    answer = client.jobs.GetJob(job_pb2.GetJobRequest(name=job), timeout=CALL_TIMEOUT_S)
    _check_count(int(answer.job.spec.ranks))
    return tuple(range(answer.job.spec.ranks))


def _check_count(count: int) -> None:
    if count > MAX_RANKS:
        fix = f"name at most {MAX_RANKS} at once, for example --rank 0-{MAX_RANKS - 1}"
        raise CliError(f"{count} logs are too many to read at once", fix=fix, code=Exit.USAGE)


def _bounds(part: str) -> tuple[int, int]:
    match = _SPAN.fullmatch(part.strip())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if last < first:
        raise CliError(f"`{part}` names no ranks", fix="write 0, 0-3,7 or all", code=Exit.USAGE)
    return first, last


@dataclass(frozen=True, slots=True)
class Reading:
    """How logs are read. `tail_bytes` 0: the server's default. `previous`: of the process before the newest one."""

    follow: bool = False
    tail_bytes: int = 0
    previous: bool = False


def print_logs(client: Client, job: str, ranks: Sequence[int], how: Reading) -> None:
    """Prints until the logs end, or for as long as they are followed. One rank that cannot be read is an error."""
    if len(ranks) == 1:
        for data in follow_log(client, job, ranks[0], how):
            render.out_bytes(data)
        return
    readers = [_Reader(client, job, rank, how, width=len(str(max(ranks)))) for rank in ranks]
    if how.follow:
        for reader in readers:
            reader.start()
        for reader in readers:
            while reader.is_alive():  # a join without a limit would keep an interrupt away
                reader.join(0.5)
    else:
        for reader in readers:  # one after the other: whole logs, not interleaved ones
            reader.run()
    failed = [reader for reader in readers if reader.failure is not None]
    for reader in failed:
        render.note(f"rank {reader.rank}: {reader.failure}")
    if failed:
        raise CliError(f"{len(failed)} of {len(ranks)} logs could not be read", fix=f"`phalanx describe job {job}`")


def follow_log(client: Client, job: str, rank: int, how: Reading) -> Iterator[bytes]:
    """A rank's output. A follow goes on without gap or repeat after the controller was away for up to a minute."""
    import grpc  # noqa: PLC0415
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    request = job_pb2.ReadLogsRequest(
        name=job, rank=rank, follow=how.follow, tail_bytes=how.tail_bytes, previous=how.previous
    )
    away_since: float | None = None
    while True:
        try:
            for chunk in client.jobs.ReadLogs(request, timeout=None if how.follow else SUBMIT_TIMEOUT_S):
                away_since = None
                if chunk.HasField("end_offset"):
                    request.after_host_id, request.after_offset = chunk.host_id, chunk.end_offset
                yield chunk.data
        except grpc.RpcError as error:
            now = time.monotonic()
            away_since = away_since or now
            if not _resumes(request, status_of(error)) or now - away_since > RETRY_FOR_S:
                raise
        else:
            return
        time.sleep(RETRY_EVERY_S)


def _resumes(request: job_pb2.ReadLogsRequest, status: str) -> bool:
    return request.follow and bool(request.after_host_id) and status in ("UNAVAILABLE", "CANCELLED")


class _Reader(threading.Thread):
    """One rank's log, line by line with its number; `failure` says why it ended early."""

    def __init__(self, client: Client, job: str, rank: int, how: Reading, *, width: int) -> None:
        super().__init__(daemon=True)
        self.rank = rank
        self.failure: CliError | None = None
        self._client = client
        self._job = job
        self._how = how
        self._prefix = f"[{rank:>{width}}] ".encode()

    def run(self) -> None:
        """Reads to the end."""
        import grpc  # noqa: PLC0415

        rest = b""
        try:
            for data in follow_log(self._client, self._job, self.rank, self._how):
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > MAX_LINE:
                    lines.append(rest)
                    rest = b""
                self._print(lines)
        except grpc.RpcError as error:
            self.failure = self._told(error)
        if rest:
            self._print([rest])

    def _print(self, lines: Sequence[bytes]) -> None:
        if lines:
            render.out_bytes(b"".join(self._prefix + line + b"\n" for line in lines))

    def _told(self, error: grpc.RpcError) -> CliError:
        return translate(error, self._client.address)
