"""What was observed of a loss, as values that restart rules can match. What nobody observed is unknown, and stays so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from controlplane.core.vocabulary import Blame

UNOBSERVED = -1
"""A number that nobody observed."""
UNKNOWN = "unknown"
"""How a rule names what nobody observed."""
NO_SENDER = "none"
"""Sender of a signal when it was seen that there was no signal."""
LARGEST_SIGNAL = 64
SIGNALS: Mapping[str, int] = {
    "SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGILL": 4, "SIGTRAP": 5, "SIGABRT": 6, "SIGBUS": 7, "SIGFPE": 8, "SIGKILL": 9,
    "SIGUSR1": 10, "SIGSEGV": 11, "SIGUSR2": 12, "SIGPIPE": 13, "SIGALRM": 14, "SIGTERM": 15, "SIGXCPU": 24, "SIGXFSZ": 25,
    "SIGSYS": 31,
}  # fmt: skip
"""Signals by name, as Linux numbers them."""
SENDERS = ("oom", "agent", UNKNOWN)
"""Who may have sent a signal: the kernel for want of memory, our own node agent, or nobody knows."""
AXES = ("tp", "pp", "cp", "dp", "ep")
MAX_MESSAGE = 1_000
"""Characters of a message that are kept for rules: the end, where the exception stands."""


class Reason(StrEnum):
    """Why a rank, or a generation, was lost: constant names, for rules and machines."""

    EXITED = "exited"
    KILLED = "killed"
    VANISHED = "vanished"
    UNFINISHED = "unfinished"
    PEER_LOST = "peerLost"
    DEVICE_FAULT = "deviceFault"
    NODE_DEAD = "nodeDead"
    PLACE_LOST = "placeLost"
    LATE = "late"
    HUNG = "hung"
    FINISHED_EARLY = "finishedEarly"
    COLLECTIVE_FAILED = "collectiveFailed"
    RESTORE_FAILED = "restoreFailed"
    OPERATOR = "operator"
    LOSS_NOT_FINITE = "lossNotFinite"
    LOSS_SPIKE = "lossSpike"
    GRADIENT_SPIKE = "gradientSpike"


@dataclass(frozen=True, slots=True)
class Facts:
    """What was observed. "" and UNOBSERVED: nobody did; `signal` 0: it was seen that there was none.

    A process that a signal ended has the exit code 128+n, and one that ended with 128+n has the signal n: shells and
    containers hand signals on in this way. `record`: journal revision of the record that says so, 0 when it has none.
    """

    reason: str = ""
    exit_code: int = UNOBSERVED
    signal: int = UNOBSERVED
    sender: str = ""
    fault_level: str = ""
    fault_code: str = ""
    message: str = ""
    record: int = 0


NOTHING = Facts()


@dataclass(frozen=True, slots=True)
class Offence:
    """One incident, counted against the rank and the node (by number) of its root. `at_ns`: Unix time of the fault."""

    job: str
    rank: int
    node: int
    at_ns: int
    blame: Blame
    exit_code: int = UNOBSERVED


def exit_facts(*, observed: bool, code: int, signal: int, sender: str, message: str, record: int = 0) -> Facts:
    """Facts of a process's end, its reason left open. Who sent a signal is the node agent's word; without one the sender is
    unknown."""
    tail = message.strip()[-MAX_MESSAGE:]
    if not observed:
        return Facts(message=tail, record=record)
    if not signal and 128 < code <= 128 + LARGEST_SIGNAL:
        signal = code - 128
    if signal:
        named = sender if sender != UNKNOWN else ""
        return Facts("", 128 + signal, signal, named, message=tail, record=record)
    return Facts("", code, 0, NO_SENDER, message=tail, record=record)
