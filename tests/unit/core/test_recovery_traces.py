"""A recovery as a trace."""

from __future__ import annotations

from dataclasses import replace

from controlplane.core.fleet import Fleet
from controlplane.core.jobs import Job, Recovery
from controlplane.core.spec import JobSpec, Workload
from controlplane.core.traces import MAX_RANKS, Account, account_of, trace_of
from controlplane.core.units import NS_PER_MS
from controlplane.core.vocabulary import Blame, Phase, Rung
from tests.support.fleets import fleet, running

FAULT_NS = 1_800_000_000_123_456_789
RECOVERY = Recovery(
    generation=4, cause="rank 3 was killed by signal 9", rung=Rung.RESTART_RANK, ranks=(3,), steps_lost=7,
    restore_step=40, restore_id="c", phases_ns={p: (i + 1) * 10**6 for i, p in enumerate(Phase)}, overtaken=False,
    blame=Blame.INFRASTRUCTURE, fault_ns=FAULT_NS,
)  # fmt: skip


def job_on(nodes: Fleet) -> Job:
    return running(JobSpec("demo", Workload("m"), ranks=2), [(0, (0,)), (1, (0,))], nodes)


def account(recovery: Recovery = RECOVERY) -> Account:
    return account_of(job_on(fleet(2)), recovery)


def test_one_span_a_phase_end_to_end_under_one_root() -> None:
    trace = trace_of(account())
    root, *phases = trace.spans
    assert [span.name for span in trace.spans] == ["recovery", *(phase.value for phase in Phase)]
    assert (root.parent_id, {span.parent_id for span in phases}) == ("", {root.span_id})
    assert root.start_ns == phases[0].start_ns == FAULT_NS - FAULT_NS % NS_PER_MS
    assert [span.end_ns for span in phases[:-1]] == [span.start_ns for span in phases[1:]]
    assert root.end_ns == phases[-1].end_ns == root.start_ns + 28 * 10**6
    assert root.attributes["phalanx.rung"] == "RESTART_RANK"
    assert root.attributes["phalanx.generation"] == 4
    assert root.attributes["phalanx.ranks"] == (3,)
    assert root.attributes["phalanx.cause"] == "rank 3 was killed by signal 9"


def test_identifiers_are_the_same_whoever_builds_the_trace_and_never_shared() -> None:
    one, again = trace_of(account()), trace_of(account())
    later = trace_of(account(replace(RECOVERY, fault_ns=FAULT_NS + NS_PER_MS)))
    next_generation = trace_of(account(replace(RECOVERY, generation=5)))
    assert one == again
    assert (len(one.trace_id), len({span.span_id for span in one.spans})) == (32, 8)
    assert len({one.trace_id, later.trace_id, next_generation.trace_id}) == 3
    assert not {span.span_id for span in one.spans} & {span.span_id for span in later.spans}


def test_an_overtaken_recovery_has_the_phases_it_reached() -> None:
    reached = {Phase.DETECT: 5, Phase.DECIDE: 6}
    trace = trace_of(account(replace(RECOVERY, phases_ns=dict(reached), overtaken=True)))
    assert [span.name for span in trace.spans] == ["recovery", "detect", "decide"]
    assert trace.spans[0].attributes["phalanx.overtaken"] is True


def test_a_whole_job_that_was_lost_names_some_ranks_and_counts_all() -> None:
    attributes = trace_of(account(replace(RECOVERY, ranks=tuple(range(50_000))))).spans[0].attributes
    assert attributes["phalanx.ranks"] == tuple(range(MAX_RANKS))
    assert attributes["phalanx.ranks.lost"] == 50_000
