"""What a workload's thread may see raised by the rank library, and the exit codes of a rank process."""

from __future__ import annotations

EXIT_WORKLOAD_ERROR = 1
"""The workload raised, or returned without `finish`; judged by the job's user budget."""

EXIT_OUT_OF_MEMORY = 12
"""The workload's own code ran out of memory, of the host or of the device (ENOMEM)."""

EXIT_UNEVEN_ROUTING = 13
"""As 12, while the routing gave the fullest expert on this rank several times its share: no node is to blame."""

EXIT_DISAGREED_ONCE = 16
"""A result was wrong once: computed again it was right."""

EXIT_REPLICA_DIVERGENCE = 17
"""Replicas that must hold the same bits do not: persistent result disagreement."""

EXIT_PEER_LOST = 75
"""A peer was lost and no new generation came in time (EX_TEMPFAIL: nothing is wrong with this process)."""

EXIT_TERMINATED = 143
"""SIGTERM was obeyed (128 + 15)."""


class GenerationChanged(Exception):
    """This attempt is over: a newer generation is waiting, or a peer was lost and one will come.

    Raised by every wait of the library. Leave the step, let `with generation:` end, take the next generation.
    """


class WorkloadRefused(Exception):
    """The process cannot run this workload: environment, module or arguments are wrong."""


class ReplicaDivergence(Exception):
    """Results of this rank are wrong, or replicas of one state disagree; the message names step, replicas and what differs.

    Never swallowed by the end of a generation: the process leaves with 17, or with 16 when it was not so again (not `persistent`).
    """

    def __init__(self, message: str, *, persistent: bool = True) -> None:
        super().__init__(message)
        self.persistent = persistent
