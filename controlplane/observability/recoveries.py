"""Notices recoveries that have ended, from one published state to the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from controlplane.core import records as r
from controlplane.core.jobs import Job, Recovery
from controlplane.core.state import State


class RecoveryWatch:
    """Remembers the newest ended recovery of every listed job, so that each is told once. One thread."""

    def __init__(self, state: State) -> None:
        self._newest = {uid: job.recoveries[-1] for uid, job in state.jobs.items() if job.recoveries}

    def ended(self, records: Iterable[r.Record], state: State) -> Iterator[tuple[Job, Recovery]]:
        """Recoveries that ended with these records, oldest first."""
        touched = {record.job for record in records if isinstance(record, r.RanksLost | r.GenerationReached)}
        for uid in sorted(touched & state.jobs.keys()):
            job = state.jobs[uid]
            known = self._newest.get(uid)
            fresh = []
            for recovery in reversed(job.recoveries):
                if recovery is known:
                    break
                fresh.append(recovery)
            for recovery in reversed(fresh):
                self._newest[uid] = recovery
                yield job, recovery
        for gone in self._newest.keys() - state.jobs.keys():
            del self._newest[gone]
