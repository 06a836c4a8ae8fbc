"""Metrics: names by Prometheus' rules, a number of series that does not grow with the site, and their page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from controlplane.core import records as r
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.fleet import FREE, Fleet, NodeFacts
from controlplane.core.health.strain import Shown, Strain
from controlplane.core.identity import Identity
from controlplane.core.jobs import Job, Recovery
from controlplane.core.spec import JobSpec, Workload
from controlplane.core.state import Cell, State
from controlplane.core.vocabulary import Blame, Bucket, JobState, Phase, Rung
from controlplane.observability.metrics import MAX_REASONS, Metrics
from controlplane.observability.sight import Sight, StateCollector, standing_by

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
NOW_NS = 1_800_000_000 * 10**9
NOT_OURS = ("process_",)
"""Prefixes of the standard collectors of prometheus_client."""


def fleet(nodes: int, width: int = 8) -> Fleet:
    """A fleet of any size at once: `Fleet.add` is for nodes that come one by one."""
    facts = tuple(NodeFacts(f"node-{i:05d}", labels=(("rack", f"r{i // 16}"),)) for i in range(nodes))
    rows = np.arange(nodes)
    return Fleet(
        facts=facts,
        liveness=(1 + rows % 4).astype(np.uint8),
        service=(1 + rows % 8).astype(np.uint8),
        session=np.ones(nodes, dtype=bool),
        cell_member=np.ones(nodes, dtype=bool),
        cordoned=rows % 7 == 0,
        rack=(rows // 16).astype(np.int32),
        reserved=np.full(nodes, FREE, dtype=np.int32),
        acc_state=np.ones((nodes, width), dtype=np.uint8),
        acc_owner=np.full((nodes, width), FREE, dtype=np.int32),
        racks=tuple(f"r{i}" for i in range(nodes // 16 + 1)),
        index={fact.name: i for i, fact in enumerate(facts)},
        cell_known=np.ones(nodes, dtype=bool),
        path_broken=np.zeros(nodes, dtype=bool),
    )


def site(nodes: int, jobs: int) -> State:
    states = list(JobState)
    state = State(revision=7, epoch=3, fleet=fleet(nodes), cells={"cell-1": Cell("cell-1", True, "1", "ray", "s")})
    for kind, name in [("cell", "cell-1"), *(("node", f"node-{i:05d}") for i in range(nodes))]:
        known = Identity(kind, name, expires_ns=NOW_NS + (1 + len(state.identity.identities)) * 10**9)
        state.identity.identities[known.subject] = known
    for serial in range(1, jobs + 1):
        spec = JobSpec(f"job-{serial}", Workload("m"), ranks=8)
        uid = f"job-{serial}-{serial}"
        state.jobs[uid] = Job(spec.name, uid, serial, spec, states[serial % len(states)], NOW_NS - serial * 10**9)
    return state


STRAINED = Shown(
    Strain(0.5, 6, 24), ("the controller waits for the processor 50 % of the time",), NOW_NS - 10**9, NOW_NS
)


def sight(state: State) -> Sight:
    return Sight(
        state=state, now_ns=NOW_NS, version="0.2.0", leader=True,
        step_ns={job.uid: NOW_NS - 5 * 10**9 for job in state.active_jobs()}, sessions={"node": 3, "cell": 1, "relay": 1},
        inbox_depth=1, inbox_limit=20_000, loop_lag_s=0.0, degraded=False, strained=STRAINED, journal_blocked=False,
        journal_bytes=4096, authority_expires_s=2.0e9,
    )  # fmt: skip


def metrics(nodes: int = 4, jobs: int = 3) -> Metrics:
    found = Metrics()
    state = site(nodes, jobs)
    found.watch(StateCollector(lambda: sight(state)))
    return found


def families(found: Metrics) -> dict[str, Metric]:
    """What a scraper reads, through the text form and its parser."""
    text = generate_latest(found.registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def ours(found: Metrics) -> dict[str, Metric]:
    return {name: family for name, family in families(found).items() if not name.startswith(NOT_OURS)}


def series(found: Metrics) -> int:
    return sum(len(family.samples) for family in families(found).values())


def value(found: Metrics, name: str, **labels: str) -> float | None:
    return found.registry.get_sample_value(name, labels)


def test_the_number_of_series_does_not_grow_with_the_site() -> None:
    small, large = metrics(nodes=4, jobs=3), metrics(nodes=10_000, jobs=2_000)
    names = {sample.labels.get(label, "") for family in families(large).values() for sample in family.samples
             for label in sample.labels}  # fmt: skip
    assert series(large) == series(small) < 700
    assert not [name for name in names if name.startswith(("node-", "job-"))]


def test_reasons_are_bounded_whatever_is_refused() -> None:
    found = metrics()
    for number in range(10 * MAX_REASONS):
        found.refuse(f"REASON_{number}")
    samples = families(found)["phalanx_refused_messages"].samples
    assert len([s for s in samples if s.name.endswith("_total")]) == MAX_REASONS + 1
    assert value(found, "phalanx_refused_messages_total", reason="OTHER") == 9 * MAX_REASONS


def test_names_follow_the_conventions() -> None:
    units = ("_seconds", "_bytes", "_ratio", "_info", "_total")
    abbreviated = re.compile(r"_(ms|us|ns|msec|sec|secs|millis|minutes|kb|mb|percent)(_|$)")
    for name, family in ours(metrics()).items():
        assert re.fullmatch(r"phalanx_[a-z][a-z0-9_]*", name), name
        assert not abbreviated.search(name), f"{name}: base units only"
        assert family.documentation.endswith((".", "none.")), f"{name} has no HELP"
        assert not name.endswith("_total"), f"{name}: the parser takes _total from counters only"
        if family.type == "histogram":
            assert name.endswith(units[:2]), f"{name} is a histogram without a unit"
        for sample in family.samples:
            assert (sample.name == f"{name}_total") is (family.type == "counter")
            for label in sample.labels:
                assert re.fullmatch(r"[a-z][a-z_]*", label), label
                assert label not in {"job", "uid", "node", "rank", "peer", "request_id"}, f"{name} by {label}"


def test_a_scrape_shows_the_state() -> None:
    found = metrics(nodes=8, jobs=9)
    assert value(found, "phalanx_nodes", liveness="DEAD") == 1, "a retired node is none of the site's any more"
    assert value(found, "phalanx_nodes_by_service", service="RETIRED") == 1
    assert value(found, "phalanx_nodes_cordoned") == 2
    assert value(found, "phalanx_accelerators", state="HEALTHY") == 64
    assert value(found, "phalanx_jobs", state="QUEUED") == 1
    assert value(found, "phalanx_oldest_step_seconds") == 5.0
    assert value(found, "phalanx_oldest_queued_seconds") == 9.0
    assert value(found, "phalanx_oldest_recovery_seconds") == 0.0
    assert value(found, "phalanx_build_info", version="0.2.0") == 1
    assert value(found, "phalanx_certificate_expiry_timestamp_seconds", certificate="authority") == 2.0e9
    assert value(found, "phalanx_certificate_expiry_timestamp_seconds", certificate="cell") == NOW_NS // 10**9 + 1
    assert value(found, "phalanx_certificate_expiry_timestamp_seconds", certificate="node") == NOW_NS // 10**9 + 2


def test_a_standby_shows_that_it_stands_by_until_it_leads() -> None:
    found = Metrics()
    found.watch(lambda: standing_by("0.2.0", 3, 17))
    assert (value(found, "phalanx_leader"), value(found, "phalanx_journal_revision")) == (0, 17)
    assert value(found, "phalanx_nodes", liveness="ALIVE") is None, "sums over controllers would count nodes twice"
    state = site(4, 0)
    found.watch(StateCollector(lambda: sight(state)))
    assert (value(found, "phalanx_leader"), value(found, "phalanx_nodes", liveness="ALIVE")) == (1, 1)


def test_decisions_and_outcomes_are_counted() -> None:
    found = metrics()
    decided = r.RecoveryDecided("j", Rung.RESTART_RANK, "", (1,), Blame.USER, True, 5, 0, (), (), ())
    effect = Effect("e1", EffectKind.FENCE_HOSTS, "node:n1", 0)
    found.committed(
        [decided, r.EffectsIssued((effect, effect)), r.EffectsFinished(("e1", "e2"), True),
         r.EffectsFinished(("e3",), False), r.EffectsFinished(("e4",), False, "", True)]
    )  # fmt: skip
    found.recovered(recovery(overtaken=False))
    found.recovered(recovery(overtaken=True))
    assert value(found, "phalanx_recoveries_total", rung="RESTART_RANK") == 1
    assert value(found, "phalanx_effects_issued_total", kind="fence_hosts") == 2
    assert [value(found, "phalanx_effects_finished_total", outcome=o) for o in ("done", "failed", "expired")] == [
        2,
        1,
        1,
    ]
    assert value(found, "phalanx_recovery_phase_duration_seconds_sum", phase="place") == 2.0
    assert value(found, "phalanx_recovery_duration_seconds_count", rung="RESTART_RANK") == 1
    assert value(found, "phalanx_recovery_duration_seconds_sum", rung="RESTART_RANK") == 2.5
    assert value(found, "phalanx_recoveries_overtaken_total") == 1
    assert value(found, "phalanx_steps_lost_total") == 4


def recovery(*, overtaken: bool) -> Recovery:
    phases = {Phase.DETECT: 500_000_000, Phase.PLACE: 2_000_000_000}
    return Recovery(2, "exit code 1", Rung.RESTART_RANK, (1,), 4, 10, "c1", dict(phases), overtaken, Blame.USER, NOW_NS)


def test_the_ledgers_counter_never_falls() -> None:
    state = site(1, 0)
    found = Metrics()
    found.watch(StateCollector(lambda: sight(state)))
    shown = []
    for productive_s in (10, 4, 12):
        state.ledger.site = {Bucket.PRODUCTIVE: productive_s * 10**9}
        shown.append(
            (value(found, "phalanx_accelerator_seconds_total", bucket="PRODUCTIVE"),
             value(found, "phalanx_ledger_accelerator_seconds", bucket="PRODUCTIVE"))
        )  # fmt: skip
    assert shown == [(10, 10), (10, 4), (12, 12)]


def page() -> str:
    """docs/metrics.md: every family with its labels, how many series it can have, and its HELP."""
    rows = []
    for name, family in sorted(ours(metrics()).items()):
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        if name == "phalanx_refused_messages":
            labels = ["reason"]
        count = str(MAX_REASONS + 1) if name == "phalanx_refused_messages" else str(max(1, len(family.samples)))
        shown = f"{name}_total" if family.type == "counter" else name
        rows.append(
            f"| `{shown}` | {family.type} | {', '.join(f'`{x}`' for x in labels)} | {count} | {family.documentation} |"
        )
    return HEAD + "\n".join(rows) + "\n"


HEAD = """# Metrics

The controller serves these on `--metrics HOST:PORT` (`/metrics`). Labels only take words of the program, so that the
number of series does not grow with jobs, nodes or time; the column *series* is the most that a family can have. Standard
`process_*` metrics (memory, descriptors, CPU, start time) come with them. Jobs and nodes by name are questions for
`phalanx get`, `phalanx describe` and the event stream, not for Prometheus. Agents serve no metrics of their own: what they
see arrives here or in their JSON logs.

A standby serves the same page with `phalanx_leader 0` and without what only a leader knows. What to alarm on:
[alarms.md](alarms.md).

Generated from the registry: `python -m pytest tests/unit/observability --regenerate-golden`.

| metric | type | labels | series | meaning |
|---|---|---|---|---|
"""


def test_the_page_is_up_to_date(regenerate_golden: bool) -> None:
    if regenerate_golden:
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "run this test with --regenerate-golden"


@pytest.mark.parametrize("name", sorted({"phalanx_nodes", "phalanx_jobs", "phalanx_recoveries", "phalanx_epoch"}))
def test_names_of_earlier_releases_stay(name: str) -> None:
    assert name in families(metrics())
