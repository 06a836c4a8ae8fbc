"""What jobs wait for on purpose: whoever ticks is there when it is over."""

from __future__ import annotations

from controlplane.core.due import NEVER_NS, waits_until_ns
from controlplane.core.jobs import Incident, Job
from controlplane.core.spec import JobSpec, Workload
from controlplane.core.state import State
from controlplane.core.vocabulary import JobState


def job(serial: int, state: JobState = JobState.RECOVERING) -> Job:
    return Job("moe", f"moe-{serial}", serial, JobSpec("moe", Workload("m"), ranks=1), state, 0)


def incident(collect_until_ns: int) -> Incident:
    return Incident(0, 0, collect_until_ns, (), 0, "why")


def test_the_first_job_that_stops_waiting() -> None:
    collects, backs_off, ended = job(1), job(2), job(3, JobState.FAILED)
    state = State(jobs={known.uid: known for known in (collects, backs_off, ended)})
    ended.not_before_ns = 1_050
    assert waits_until_ns(state, 1_000) == NEVER_NS, "nobody waits"
    collects.incident = incident(1_200)
    assert waits_until_ns(state, 1_000) == 1_200, "failures that belong together are collected until then"
    backs_off.not_before_ns = 1_100
    assert waits_until_ns(state, 1_000) == 1_100, "a back-off ends before"
    assert waits_until_ns(state, 1_100) == 1_200
    assert waits_until_ns(state, 1_200) == NEVER_NS
