"""What the other modules share: units of virtual time, sizes, latencies both sides rely on, numeric states."""

MS, S = 1_000_000, 1_000_000_000
DEVICES = 8  # accelerators of one node
RACK_NODES = 64
LEASE, STEP = 3 * S, 5 * S
JOIN_BATCHES = 8  # columnar acknowledgements of one rank-table patch

ALIVE, SUSPECT, DEAD = 0, 1, 3  # node liveness
IN_SERVICE, DRAINING, QUARANTINED, OUT_OF_SERVICE, VALIDATING = range(5)  # node service
RUNNING, PAUSED, STARTING, JOINING, RESTORING, EXITED, LOST = range(7)  # rank; the first and RESTORING also job
RECOVERING = 7  # job
HEALTHY, FAILED = 0, 1  # accelerator
PRODUCTIVE, DETECTION, RECOVERY, CHECKPOINT_RESTORE, QUEUED, WASTED_PROGRESS, SPARE, OUT = range(8)  # ledger
JOB = 8  # account of a device that follows its job's phase
BUCKETS = (
    "PRODUCTIVE", "DETECTION", "RECOVERY", "CHECKPOINT_RESTORE", "QUEUED", "WASTED_PROGRESS", "SPARE", "QUARANTINED",
)  # fmt: skip
