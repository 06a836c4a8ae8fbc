"""The connection to a controller, and gRPC errors told as what happened, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cli.credentials import HOW, SERVER_NAME, Credentials, check_loopback, find_folder, load, plaintext_asked
from cli.errors import CliError, Exit
from cli.site import Endpoint, resolve_endpoint

if TYPE_CHECKING:
    import grpc
    from phalanx.v1 import (
        admin_pb2_grpc,
        audit_pb2_grpc,
        checkpoint_pb2_grpc,
        code_pb2_grpc,
        event_pb2_grpc,
        fleet_pb2_grpc,
        identity_pb2_grpc,
        job_pb2_grpc,
    )
    from phalanx.v1.types_pb2 import FieldViolation

CALL_TIMEOUT_S = 15.0
SUBMIT_TIMEOUT_S = 60.0
"""Submitting asks a cell whether it can run the workload, which imports it there."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""A job of 50,000 ranks is one message."""

REASON_KEY = "phalanx-reason"
VIOLATION_KEY = "phalanx-violation-bin"


class Refused(CliError):
    """The controller answered with an error; field violations keep their paths so that a manifest can show lines."""

    def __init__(
        self, what: str, *, why: str, fix: str, code: Exit, violations: tuple[FieldViolation, ...], status: str
    ) -> None:
        details = tuple(f"{v.path}: {v.reason}. {v.fix}" for v in violations)
        super().__init__(what, why=why, fix=fix, code=code, details=details)
        self.violations = violations
        self.status = status


CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def open_channel(address: str, credentials: Credentials | None) -> grpc.Channel:
    """A channel to one controller."""
    import grpc  # noqa: PLC0415 - heavy, and not needed by --help

    if credentials is None:
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", SERVER_NAME))
    return grpc.secure_channel(address, credentials.channel(), options=options)


def split_addresses(text: str) -> tuple[str, ...]:
    """The addresses of `a:1,b:2`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


class Client:
    """Stubs of the operator services over one channel, each made when it is first used: their imports take their time."""

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        """`address`: one controller or several, separated by commas; no `credentials`: plaintext."""
        self.address = address
        self.credentials = credentials
        addresses = split_addresses(address)
        if len(addresses) == 1:
            self._channel = open_channel(addresses[0], credentials)
        else:
            from cli.failover import FailoverChannel  # noqa: PLC0415

            self._channel = FailoverChannel(addresses, lambda one: open_channel(one, credentials))

    @cached_property
    def jobs(self) -> job_pb2_grpc.JobServiceStub:
        """Jobs."""
        from phalanx.v1 import job_pb2_grpc  # noqa: PLC0415

        return job_pb2_grpc.JobServiceStub(self._channel)

    @cached_property
    def fleet(self) -> fleet_pb2_grpc.FleetServiceStub:
        """The site and its nodes."""
        from phalanx.v1 import fleet_pb2_grpc  # noqa: PLC0415

        return fleet_pb2_grpc.FleetServiceStub(self._channel)

    @cached_property
    def events(self) -> event_pb2_grpc.EventServiceStub:
        """Events and explanations."""
        from phalanx.v1 import event_pb2_grpc  # noqa: PLC0415

        return event_pb2_grpc.EventServiceStub(self._channel)

    @cached_property
    def checkpoints(self) -> checkpoint_pb2_grpc.CheckpointServiceStub:
        """Checkpoints."""
        from phalanx.v1 import checkpoint_pb2_grpc  # noqa: PLC0415

        return checkpoint_pb2_grpc.CheckpointServiceStub(self._channel)

    @cached_property
    def code(self) -> code_pb2_grpc.CodeServiceStub:
        """Shipped user code."""
        from phalanx.v1 import code_pb2_grpc  # noqa: PLC0415

        return code_pb2_grpc.CodeServiceStub(self._channel)

    @cached_property
    def audit(self) -> audit_pb2_grpc.AuditServiceStub:
        """Who changed what."""
        from phalanx.v1 import audit_pb2_grpc  # noqa: PLC0415

        return audit_pb2_grpc.AuditServiceStub(self._channel)

    @cached_property
    def identities(self) -> identity_pb2_grpc.IdentityServiceStub:
        """Who may speak, and as whom."""
        from phalanx.v1 import identity_pb2_grpc  # noqa: PLC0415

        return identity_pb2_grpc.IdentityServiceStub(self._channel)

    @cached_property
    def admin(self) -> admin_pb2_grpc.AdminServiceStub:
        """The site's storage."""
        from phalanx.v1 import admin_pb2_grpc  # noqa: PLC0415

        return admin_pb2_grpc.AdminServiceStub(self._channel)

    def close(self) -> None:
        """Ends the channel and every stream on it."""
        self._channel.close()


def new_request_id() -> str:
    """The id of one invocation: a repeat of the call with it returns the first answer."""
    import uuid  # noqa: PLC0415 - listings need none

    return str(uuid.uuid4())


@contextmanager
def connect(
    address: str | None,
    directory: Path,
    context: str | None = None,
    *,
    identity: Path | None = None,
    plaintext: bool = False,
) -> Iterator[Client]:
    """A client for the address, the context or the site of a folder. gRPC errors in the block become `CliError`s."""
    import grpc  # noqa: PLC0415

    endpoint = resolve_endpoint(address, directory, context)
    client = Client(endpoint.address, _credentials(endpoint, directory, identity, plaintext=plaintext))
    try:
        yield client
    except grpc.RpcError as error:
        raise translate(error, client.address, client.credentials) from error
    finally:
        client.close()


def _credentials(endpoint: Endpoint, directory: Path, identity: Path | None, *, plaintext: bool) -> Credentials | None:
    """What to show to a controller; None: plaintext, which was asked for or is what the site on this machine speaks."""
    if identity is None and (plaintext or plaintext_asked() or endpoint.plaintext):
        check_loopback(split_addresses(endpoint.address))
        return None
    return load(find_folder(identity, (endpoint.identity, directory / "pki" / "admin")))


def status_of(error: grpc.RpcError) -> str:
    """Name of the canonical code, for example `UNAVAILABLE`."""
    code = getattr(error, "code", None)
    return str(code().name) if callable(code) else "UNKNOWN"


def translate(error: grpc.RpcError, address: str, credentials: Credentials | None = None) -> Refused:
    """A gRPC error as a message for people and an exit code for scripts."""
    status = status_of(error)
    details = getattr(error, "details", None)
    message = str(details() or "") if callable(details) else str(error)
    reason, violations = _metadata(error)
    if status == "UNAVAILABLE" and not reason:  # with a reason, it was the controller that said so
        return _unanswered(message, address, credentials)
    code, fix = _MEANING.get(status, (Exit.ERROR, ""))
    what = message or _SAID_NOTHING
    told = bool(message) and code is not Exit.NOT_ALLOWED
    return Refused(what, why=reason, fix="" if told else fix, code=code, violations=violations, status=status)


def _unanswered(message: str, address: str, credentials: Credentials | None) -> Refused:
    """No controller spoke: it is away, or TLS ended the connection before a word."""
    what, why, code = (
        f"the controller at {address} does not answer",
        message or "the connection was refused",
        Exit.ERROR,
    )
    fix = "is the site up? `phalanx up` starts one, `--address` names another"
    if credentials is not None and credentials.expired():
        what, code = f"your certificate in {credentials.folder} has expired", Exit.NOT_ALLOWED
        why, fix = f"it ended at {credentials.expires_at():%Y-%m-%d %H:%M} UTC", HOW
    elif credentials is not None and "handshake failed" in message:
        what, code = f"{address} is no controller of your site", Exit.NOT_ALLOWED
        why = f"its certificate is not from the authority in {credentials.folder / 'ca.pem'}"
        fix = "use the identity of that site (--identity), or its address"
    return Refused(what, why=why, fix=fix, code=code, violations=(), status="UNAVAILABLE")


def _metadata(error: grpc.RpcError) -> tuple[str, tuple[FieldViolation, ...]]:
    from phalanx.v1.types_pb2 import FieldViolation  # noqa: PLC0415

    trailing = getattr(error, "trailing_metadata", None)
    reason, violations = "", []
    for key, value in (trailing() or ()) if callable(trailing) else ():
        if key == REASON_KEY:
            reason = value if isinstance(value, str) else value.decode()
        elif key == VIOLATION_KEY:
            violations.append(FieldViolation.FromString(value))
    return reason, tuple(violations)


_SAID_NOTHING = "the controller refused and gave no message"

_MEANING: dict[str, tuple[Exit, str]] = {
    "INVALID_ARGUMENT": (Exit.USAGE, "correct the request"),
    "OUT_OF_RANGE": (Exit.USAGE, "ask for a newer revision"),
    "NOT_FOUND": (Exit.NOT_FOUND, "`phalanx get jobs` and `phalanx get nodes` list what is there"),
    "PERMISSION_DENIED": (Exit.NOT_ALLOWED, "`phalanx identity whoami` says who you are; an administrator gives roles"),
    "UNAUTHENTICATED": (Exit.NOT_ALLOWED, "get a new certificate: `phalanx identity issue`, by an administrator"),
    "ALREADY_EXISTS": (Exit.CONFLICT, "use another name"),
    "FAILED_PRECONDITION": (Exit.CONFLICT, "look at the present state with `phalanx describe`"),
    "ABORTED": (Exit.CONFLICT, "try again"),
    "DEADLINE_EXCEEDED": (Exit.TIMED_OUT, "look at the state with `phalanx get`, then try again"),
    "RESOURCE_EXHAUSTED": (Exit.ERROR, "try again later"),
    "UNIMPLEMENTED": (Exit.ERROR, "the controller is of another version: compare with `phalanx version`"),
}
