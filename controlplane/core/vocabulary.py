"""States and verdict words of the system, and the transitions that are allowed. Numbers equal those of `phalanx.v1`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum


class Code(IntEnum):
    """Words that stand in columns as numbers; `core.columns` makes comparisons with them fast."""


class NodeLiveness(Code):
    """What we believe of a node. UNKNOWN: we cannot see; DEAD: evidence says so."""

    ALIVE = 1
    SUSPECT = 2
    UNKNOWN = 3
    DEAD = 4


class NodeService(Code):
    """Whether a node takes work."""

    JOINING = 1
    VALIDATING = 2
    IN_SERVICE = 3
    DRAINING = 4
    QUARANTINED = 5
    PROBATION = 6
    OUT_OF_SERVICE = 7
    RETIRED = 8


class PairWord(Code):
    """What a node says of its test with another one. UNSPECIFIED: its agent knows no such test; UNMET: the other did not come, or
    broke off; NOT_RUN: nothing was tried."""

    UNSPECIFIED = 0
    PASSED = 1
    FAILED = 2
    UNMET = 3
    NOT_RUN = 4


class AcceleratorState(Code):
    """State of one device; 0 in a column means that the position is empty."""

    HEALTHY = 1
    DEGRADED = 2
    SUSPECT = 3
    FAILED = 4
    RESETTING = 5
    UNKNOWN = 6


class HandlingLevel(Code):
    """What a fault asks for, one list for all vendors; a higher level is a harder act."""

    IGNORE = 0
    OBSERVE = 1
    DEGRADED = 2
    RETRY_STEP = 3
    RESTART_PROCESS = 4
    RESET_WHEN_IDLE = 5
    RESET_NOW = 6
    CORDON = 7
    ISOLATE = 8
    REBOOT_NODE = 9
    RETURN_TO_VENDOR = 10


class Severity(StrEnum):
    """How bad a vendor calls its fault; UNSTATED is not harmless."""

    UNSTATED = ""
    HINT = "hint"
    MINOR = "minor"
    MAJOR = "major"
    CRITICAL = "critical"


class Assertion(StrEnum):
    """What a fault event says: the fault stands from now on, is over, or happened and left nothing standing."""

    OCCURRED = "occurred"
    RECOVERED = "recovered"
    ONCE = "once"


class JobState(Code):
    """State of a job. The last three are terminal."""

    QUEUED = 1
    PLACING = 2
    STARTING = 3
    RUNNING = 4
    RECOVERING = 5
    SUSPENDED = 6
    SUCCEEDED = 7
    FAILED = 8
    CANCELLED = 9


class RankState(Code):
    """State of one rank process. A process without a rank is STARTING or PARKED."""

    PENDING = 1
    STARTING = 2
    PARKED = 3
    JOINING = 4
    RESTORING = 5
    RUNNING = 6
    PAUSED = 7
    EXITED = 8
    LOST = 9


class CheckpointState(Code):
    """State of one checkpoint. Only COMMITTED and VERIFIED ones are restored."""

    WRITING = 1
    COMMITTED = 2
    VERIFIED = 3
    POISONED = 4
    EXPIRED = 5


class SaveWord(StrEnum):
    """What a rank says of a save. SLOW: the one before is still being written. UNABLE: its workload does not save on request."""

    FAILED = "failed"
    SLOW = "slow"
    UNABLE = "unable"


class Rung(StrEnum):
    """Rungs of the recovery ladder, cheapest first.

    RETRY_STEP: every rank keeps process and state and does the step again. ROLLBACK: every rank keeps its process and starts
    again from a restore point. SHRINK and GROW: whole data-parallel replicas leave and come back.
    """

    RETRY_STEP = "RETRY_STEP"
    ROLLBACK = "ROLLBACK"
    RESTART_RANK = "RESTART_RANK"
    REPLACE_RANK = "REPLACE_RANK"
    SHRINK = "SHRINK"
    GROW = "GROW"
    RESTART_JOB = "RESTART_JOB"
    SUSPEND = "SUSPEND"
    FAIL = "FAIL"


class Blame(StrEnum):
    """The restart ledger that a failure is charged to."""

    USER = "user"
    INFRASTRUCTURE = "infrastructure"
    PREEMPTION = "preemption"


class Bucket(StrEnum):
    """Where an accelerator-second goes. Every one of the site lands in exactly one."""

    PRODUCTIVE = "PRODUCTIVE"
    STARTUP = "STARTUP"
    DATA_LOADING = "DATA_LOADING"
    CHECKPOINT_SAVE = "CHECKPOINT_SAVE"
    CHECKPOINT_RESTORE = "CHECKPOINT_RESTORE"
    DETECTION = "DETECTION"
    RECOVERY = "RECOVERY"
    WASTED_PROGRESS = "WASTED_PROGRESS"
    DEGRADED = "DEGRADED"
    PAUSED = "PAUSED"
    QUEUED = "QUEUED"
    SPARE = "SPARE"
    IDLE = "IDLE"
    QUARANTINED = "QUARANTINED"
    UNKNOWN = "UNKNOWN"


class Phase(StrEnum):
    """Phases of one recovery, in order."""

    DETECT = "detect"
    DECIDE = "decide"
    PLACE = "place"
    START = "start"
    RENDEZVOUS = "rendezvous"
    RESTORE = "restore"
    FIRST_STEP = "first_step"


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
ENDED_PROCESS = frozenset({RankState.EXITED, RankState.LOST})

NODE_LIVENESS: Mapping[NodeLiveness, frozenset[NodeLiveness]] = {
    NodeLiveness.ALIVE: frozenset({NodeLiveness.SUSPECT, NodeLiveness.UNKNOWN, NodeLiveness.DEAD}),
    NodeLiveness.SUSPECT: frozenset({NodeLiveness.ALIVE, NodeLiveness.UNKNOWN, NodeLiveness.DEAD}),
    NodeLiveness.UNKNOWN: frozenset({NodeLiveness.ALIVE, NodeLiveness.SUSPECT, NodeLiveness.DEAD}),
    NodeLiveness.DEAD: frozenset({NodeLiveness.ALIVE}),
}

NODE_SERVICE: Mapping[NodeService, frozenset[NodeService]] = {
    NodeService.JOINING: frozenset(
        {NodeService.IN_SERVICE, NodeService.DRAINING, NodeService.QUARANTINED, NodeService.RETIRED}
    ),
    NodeService.IN_SERVICE: frozenset({NodeService.DRAINING, NodeService.QUARANTINED, NodeService.RETIRED}),
    NodeService.DRAINING: frozenset(
        {NodeService.OUT_OF_SERVICE, NodeService.IN_SERVICE, NodeService.PROBATION, NodeService.QUARANTINED}
    ),
    NodeService.OUT_OF_SERVICE: frozenset(
        {NodeService.IN_SERVICE, NodeService.PROBATION, NodeService.QUARANTINED, NodeService.RETIRED}
    ),
    NodeService.QUARANTINED: frozenset(
        {NodeService.VALIDATING, NodeService.IN_SERVICE, NodeService.DRAINING, NodeService.RETIRED}
    ),
    NodeService.VALIDATING: frozenset(
        {NodeService.PROBATION, NodeService.QUARANTINED, NodeService.IN_SERVICE, NodeService.DRAINING}
    ),
    NodeService.PROBATION: frozenset({NodeService.IN_SERVICE, NodeService.QUARANTINED, NodeService.DRAINING}),
    NodeService.RETIRED: frozenset(),
}
"""VALIDATING: checks run. PROBATION: back at work on trial. A drained node comes back the way it went: on trial, if it was."""

_ENDINGS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
JOB_STATES: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.PLACING}) | _ENDINGS,
    JobState.PLACING: frozenset({JobState.QUEUED, JobState.STARTING}) | _ENDINGS,
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.RECOVERING}) | _ENDINGS,
    JobState.RUNNING: frozenset({JobState.RECOVERING, JobState.SUSPENDED}) | _ENDINGS,
    JobState.RECOVERING: frozenset({JobState.RUNNING, JobState.SUSPENDED}) | _ENDINGS,
    JobState.SUSPENDED: frozenset({JobState.RECOVERING}) | _ENDINGS,
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

CHECKPOINT_STATES: Mapping[CheckpointState, frozenset[CheckpointState]] = {
    CheckpointState.WRITING: frozenset({CheckpointState.COMMITTED, CheckpointState.EXPIRED}),
    CheckpointState.COMMITTED: frozenset({CheckpointState.VERIFIED, CheckpointState.POISONED, CheckpointState.EXPIRED}),
    CheckpointState.VERIFIED: frozenset({CheckpointState.POISONED, CheckpointState.EXPIRED}),
    CheckpointState.POISONED: frozenset({CheckpointState.COMMITTED, CheckpointState.EXPIRED}),  # suspicion cleared
    CheckpointState.EXPIRED: frozenset(),
}


class IllegalTransition(Exception):
    """A record asks for a transition that the tables do not allow: a defect, never an operating condition."""
