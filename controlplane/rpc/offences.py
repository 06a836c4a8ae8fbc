"""Names whoever sends bad input: by its certificate, or over plaintext by what it says of itself."""

from __future__ import annotations

from controlplane.core.draft import Refusal
from controlplane.observability import Metrics
from controlplane.observability.offenders import OFFENCES
from controlplane.rpc.caller import ANONYMOUS, LOCAL, Caller

MAX_NODE_NAME = 253


def said(kind: str, name: str) -> str:
    """What a hello says of itself, cut to what a name may have."""
    return f"{kind}/{name[:MAX_NODE_NAME]}"


def note(metrics: Metrics, caller: Caller, said: str, reason: str, message: str, *, count: int = 1) -> None:
    """A peer did something that no well-behaved one does. `said`: <kind>/<name> that it gave itself, "" before it did."""
    proven = caller.kind not in (LOCAL.kind, ANONYMOUS.kind)
    name = caller.subject if proven else said or caller.kind
    metrics.offenders.note(name, caller.peer, reason, message, proven=proven, count=count)


def note_refusal(metrics: Metrics, caller: Caller, said: str, refusal: Refusal) -> None:
    """A peer was refused: noted where the reason is an offence."""
    if refusal.reason in OFFENCES:
        note(metrics, caller, said, refusal.reason, refusal.message)
