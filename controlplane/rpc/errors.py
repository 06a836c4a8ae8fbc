"""Refusals on the wire: one table from the core's codes to gRPC's, and the metadata that clients read.

Trailing metadata: `phalanx-reason` is a constant name for machines; `phalanx-violation-bin`, repeated, is a serialised
`FieldViolation`. The status message is for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NoReturn

from grpc import StatusCode
from phalanx.v1 import types_pb2 as pb

from controlplane.core.draft import Refusal
from controlplane.core.spec import Violation

REASON_KEY = "phalanx-reason"
VIOLATION_KEY = "phalanx-violation-bin"
OLDEST_KEY = "phalanx-oldest-revision"

STATUS: Mapping[str, StatusCode] = {
    "invalid": StatusCode.INVALID_ARGUMENT,
    "not_found": StatusCode.NOT_FOUND,
    "conflict": StatusCode.FAILED_PRECONDITION,
    "stale": StatusCode.FAILED_PRECONDITION,
    "out_of_range": StatusCode.OUT_OF_RANGE,
    "exhausted": StatusCode.RESOURCE_EXHAUSTED,
    "unauthenticated": StatusCode.UNAUTHENTICATED,
    "denied": StatusCode.PERMISSION_DENIED,
    "unavailable": StatusCode.UNAVAILABLE,
    "too_late": StatusCode.DEADLINE_EXCEEDED,
    "internal": StatusCode.INTERNAL,
}
"""Codes of refusals; those of the core and those that only the edge makes."""

STATUS_BY_REASON: Mapping[str, StatusCode] = {"JOB_EXISTS": StatusCode.ALREADY_EXISTS}
"""Reasons for which gRPC has a narrower code."""

MAX_MESSAGE = 2_000
MAX_VIOLATION_BYTES = 5_000
"""Trailing metadata of gRPC is limited to 8 KiB by default; what does not fit is told by count in the message."""

Metadata = tuple[tuple[str, str | bytes], ...]


class RequestRefused(Exception):
    """A request that changes nothing. The interceptor turns it into a status.

    `who`: <kind>/<name> of a peer that has no certificate and has said who it is; "" otherwise.
    """

    def __init__(self, refusal: Refusal, metadata: Metadata = (), who: str = "") -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.metadata = metadata
        self.who = who


def refuse(code: str, reason: str, message: str, violations: Iterable[Violation] = ()) -> NoReturn:
    """Raise a refusal."""
    raise RequestRefused(Refusal(code, reason, message, tuple(violations)))


def refuse_fields(violations: Iterable[Violation]) -> None:
    """Raise INVALID_ARGUMENT when there is any violation; the message names the first."""
    found = tuple(violations)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        first = found[0]
        refuse("invalid", "INVALID_FIELD", f"{first.path} {first.reason}: {first.fix}{more}", found)


def status_of(refusal: Refusal) -> StatusCode:
    """The gRPC code of a refusal."""
    return STATUS_BY_REASON.get(refusal.reason) or STATUS.get(refusal.code, StatusCode.UNKNOWN)


def message_of(refusal: Refusal) -> str:
    """The text for people, bounded."""
    return refusal.message if len(refusal.message) <= MAX_MESSAGE else refusal.message[: MAX_MESSAGE - 3] + "..."


def metadata_of(refusal: Refusal) -> Metadata:
    """Reason and violations, as many as fit."""
    rows: list[tuple[str, str | bytes]] = [(REASON_KEY, refusal.reason)]
    room = MAX_VIOLATION_BYTES
    for violation in refusal.violations:
        body = violation_message(violation).SerializeToString()
        room -= len(body) * 4 // 3 + len(VIOLATION_KEY)
        if room < 0:
            break
        rows.append((VIOLATION_KEY, body))
    return tuple(rows)


def violation_message(violation: Violation) -> pb.FieldViolation:
    """The wire form of a violation, bounded."""
    return pb.FieldViolation(path=violation.path[:200], reason=violation.reason[:500], fix=violation.fix[:500])


def violation_value(message: pb.FieldViolation) -> Violation:
    """A violation that a cell found."""
    return Violation(message.path, message.reason, message.fix)
