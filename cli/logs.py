"""Output of ranks: one as it is, several line by line with their number in front."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cli import render
from cli.client import CALL_TIMEOUT_S, SUBMIT_TIMEOUT_S, Client, translate
from cli.errors import CliError, Exit

if TYPE_CHECKING:
    import grpc

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


def print_logs(client: Client, job: str, ranks: Sequence[int], *, follow: bool, tail_bytes: int) -> None:
    """Prints until the logs end, or for as long as they are followed. One rank that cannot be read is an error."""
    if len(ranks) == 1:
        for data in _chunks(client, job, ranks[0], follow=follow, tail_bytes=tail_bytes):
            render.out_bytes(data)
        return
    readers = [
        _Reader(client, job, rank, follow=follow, tail_bytes=tail_bytes, width=len(str(max(ranks)))) for rank in ranks
    ]
    if follow:
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


def _chunks(client: Client, job: str, rank: int, *, follow: bool, tail_bytes: int) -> Iterator[bytes]:
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    request = job_pb2.ReadLogsRequest(name=job, rank=rank, follow=follow, tail_bytes=tail_bytes)
    for chunk in client.jobs.ReadLogs(request, timeout=None if follow else SUBMIT_TIMEOUT_S):
        yield chunk.data


class _Reader(threading.Thread):
    """One rank's log, line by line with its number; `failure` says why it ended early."""

    def __init__(self, client: Client, job: str, rank: int, *, follow: bool, tail_bytes: int, width: int) -> None:
        super().__init__(daemon=True)
        self.rank = rank
        self.failure: CliError | None = None
        self._client = client
        self._job = job
        self._follow = follow
        self._tail_bytes = tail_bytes
        self._prefix = f"[{rank:>{width}}] ".encode()

    def run(self) -> None:
        """Reads to the end."""
        import grpc  # noqa: PLC0415

        rest = b""
        try:
            for data in _chunks(self._client, self._job, self.rank, follow=self._follow, tail_bytes=self._tail_bytes):
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
