"""Blockers: what a job waits for, in a sentence that does not change with every process."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.jobs import Job
from controlplane.core.vocabulary import JobState

SHOWN = 4
"""Names in a blocker; and from twice as many missing processes or ranks on only their order of magnitude is said."""


def say(draft: Draft, job: Job, blocker: str, state: JobState | None = None) -> None:
    """Name what the job waits for, once."""
    target = state or job.state
    if job.blocker != blocker or job.state is not target:
        draft.write(r.JobStateChanged(job.uid, target, blocker))


def some(names: Sequence[str]) -> str:
    """A few names and how many there are beside them: blockers are durable, and a job may have thousands of nodes."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def parking(draft: Draft, missing: dict[int, int]) -> str:
    """What is missing: exactly while it is little, else such that the text does not change with every process."""
    count = sum(missing.values())
    if count <= 2 * SHOWN:
        return "waits for processes to park: " + some(
            [f"{number} on {draft.fleet.name(node)}" for node, number in sorted(missing.items())]
        )
    return f"waits for {few(count, 'processes')} to park"


def few(count: int, what: str) -> str:
    """How many there are: exactly while they are few, else their order of magnitude."""
    return f"{count} {what}" if count <= 2 * SHOWN else f"at least {1 << (count.bit_length() - 1)} {what}"
