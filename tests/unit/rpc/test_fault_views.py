"""What operators are told of faults, of the tables, and of the controller's own health, read from a simulated site."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from phalanx.v1 import fleet_pb2
from prometheus_client import CollectorRegistry, Histogram

from agents.node.probes.vendors import TOOLS, load
from controlplane.catalogues import built_in, merge
from controlplane.core import events as ev
from controlplane.core.draft import Policy
from controlplane.core.health.book import Source
from controlplane.core.health.budget import ActionBudget, refusal, spent
from controlplane.core.health.distrust import Vitals
from controlplane.core.health.strain import Shown, Strain
from controlplane.core.spec import SparePolicy
from controlplane.core.vocabulary import Assertion, NodeLiveness
from controlplane.observability.quantiles import Distribution, distributions
from controlplane.rpc import fault_views, health_views
from tests.support.world import World, spec

EVERYBODY: frozenset[str] = frozenset()
LOST = ev.FaultRow("node", "SIM-DEAD", "simulated", raised_ns=1, message="too hot")
BOARD = ev.FaultRow("node", "BOARD-7", "simulated", raised_ns=1, message="too hot")


def site(nodes: int = 4) -> World:
    return World(nodes, 2, 2, Policy(catalogue=built_in()))


def standing(world: World, *names: str) -> list[fleet_pb2.Fault]:
    return fault_views.standing(world.state(), frozenset(names), world.now_ns)[0]


def recent(world: World, limit: int = 10) -> list[fleet_pb2.Fault]:
    entries = world.journal.newest(100, types=("FaultsReported",))
    return fault_views.recent(world.state(), entries, EVERYBODY, limit, world.now_ns)


def test_what_stands_is_told_the_hardest_first_with_its_place() -> None:
    world = site()
    world.set_fault("node-02", 1, "SIM-SLOW")
    world.run(1)
    raised_ns = world.now_ns - 250_000_000
    world.agents.raise_fault(world.nodes["node-01"], replace(LOST, raised_ns=raised_ns))
    world.run(0.3)
    first, second = standing(world)
    assert (first.node, first.entity, first.code, first.level) == ("node-01", "node", "SIM-DEAD", "RETURN_TO_VENDOR")
    assert first.labels["rack"] == "r0"
    assert first.message == "too hot"
    assert first.detection_s == pytest.approx(0.25, abs=0.2)
    assert first.age_s == pytest.approx(0.3, abs=0.25)
    assert (second.node, second.entity, bool(second.serial)) == ("node-02", "accelerator/1", True)
    assert [one.node for one in standing(world, "node-02")] == ["node-02"]


def test_the_past_is_told_newest_first_without_what_still_stands() -> None:
    world = site()
    world.agents.raise_fault(world.nodes["node-00"], LOST)
    world.run(1)
    once = replace(LOST, code="SIM-ONCE", assertion=Assertion.ONCE, severity="minor", raised_ns=world.now_ns)
    world.agents.raise_fault(world.nodes["node-03"], once)
    world.run(1)
    assert [(one.code, one.assertion) for one in recent(world)] == [("SIM-ONCE", "once")]
    world.agents.raise_fault(world.nodes["node-00"], replace(LOST, assertion=Assertion.RECOVERED))
    world.run(1)
    told = recent(world)
    assert [(one.code, one.assertion) for one in told] == [
        ("SIM-DEAD", "recovered"),
        ("SIM-ONCE", "once"),
        ("SIM-DEAD", "occurred"),
    ]
    assert told[0].detection_s == 0.0, "the end of a fault was not found late"
    assert all(one.revision for one in told)
    assert len(recent(world, limit=2)) == 2


def test_a_fault_whose_source_is_not_read_any_more_is_marked() -> None:
    world = site()
    world.agents.raise_fault(world.nodes["node-00"], LOST)
    world.run(1)
    assert not standing(world)[0].unread
    state = world.state().fork()
    state.own_health().sources["node-00"] = (health_source("kernel log", (-1,)),)
    assert fault_views.standing(state, EVERYBODY, world.now_ns)[0][0].unread
    state.own_health().sources["node-00"] = (health_source("nvidia", (0, 1)),)
    assert not fault_views.standing(state, EVERYBODY, world.now_ns)[0][0].unread


def health_source(name: str, positions: tuple[int, ...]) -> Source:
    return Source(name, "not allowed", positions, 1)


TABLE = """
vendor = "nvidia"
source = "our site"
date = "2026-11-22"
[[code]]
code = "XID-79"
level = "REBOOT_NODE"
debounce = "20s"
frequency = {count = 3, window = "1h", release = "10m", level = "RETURN_TO_VENDOR"}
"""


def test_a_rule_says_which_file_it_is_from() -> None:
    state, catalogue = World(1).state(), merge(built_in(), [("site.toml", TABLE)])
    (rule,), _ = fault_views.rules(state, catalogue, "nvidia", "xid-79", 0)
    assert rule.origin == "our site, 2026-11-22", "the site's own file overrides the table"
    assert (rule.level, rule.debounce_s, rule.count, rule.raised_level) == ("REBOOT_NODE", 20.0, 3, "RETURN_TO_VENDOR")
    (before,), _ = fault_views.rules(state, built_in(), "nvidia", "XID-79", 0)
    assert before.origin != rule.origin


def test_all_tables_are_shown() -> None:
    rules, relations = fault_views.rules(World(1).state(), built_in(), "", "", 0)
    assert len(rules) == len(built_in().rules)
    assert len(relations) == len(built_in().relations)
    assert fault_views.rules(World(1).state(), built_in(), "", "NO-SUCH", 0) == ([], [])


# -- the controller's own health --------------------------------------------------------------------------------------


@dataclass
class Calm:
    """A brain that keeps up."""

    depth: int = 7
    blocked: str = ""
    strained: Shown = field(default_factory=Shown)

    def vitals(self) -> Vitals:
        return Vitals(append_ns=300_000_000, append_at_ns=5_000_000_000)

    def trusted_since_ns(self) -> int:
        return 1_000_000_000

    def lag_s(self) -> float:
        return 0.01

    def degraded(self) -> bool:
        return False

    def strain(self) -> Shown:
        return self.strained


def test_the_detector_tells_how_it_keeps_up() -> None:
    registry = CollectorRegistry()
    appends = Histogram("x", "y", registry=registry, buckets=(0.001, 0.01, 0.1))
    for value in (*[0.002] * 98, 0.05, 5.0):
        appends.observe(value)
    found = distributions(appends.collect())[""]
    message = health_views.detector(World(1).state(), Calm(), found, inbox_limit=100, now_ns=9_000_000_000)  # type: ignore[arg-type] # the parts it reads
    assert (message.appends, message.append_p99_s) == (100, 0.1)
    assert message.append_mean_s == pytest.approx(0.05246)
    assert (message.slow_append_s, message.slow_append_age_s) == (pytest.approx(0.3), 4.0)
    assert (message.inbox, message.inbox_limit, message.journal_state, message.listening_s) == (7, 100, "ok", 8.0)


def test_strain_is_told_after_what_the_journal_says() -> None:
    state, strained = World(1).state(), Shown(Strain(0.6), ("it waits",), 4_000_000_000, 5_000_000_000)
    told = partial(health_views.detector, state, Calm(strained=strained), Distribution(0, 0.0, ()), inbox_limit=9)  # type: ignore[arg-type] # the parts it reads
    message = told(now_ns=9_000_000_000)
    assert (message.degraded, [*message.reasons], message.degraded_s) == (False, ["it waits"], 5.0)
    state.health.degraded, state.health.degraded_since_ns = ("an append took 3 s",), 2_000_000_000
    message = told(now_ns=9_000_000_000)
    assert ([*message.reasons], message.degraded_s) == (["an append took 3 s", "it waits"], 7.0)


def test_quantiles_of_nothing_and_beyond_the_last_bucket() -> None:
    registry = CollectorRegistry()
    appends = Histogram("x", "y", ["class"], registry=registry, buckets=(0.1,))
    appends.labels("a")
    appends.labels("b").observe(9.0)
    found = distributions(appends.collect(), "class")
    assert math.isnan(found["a"].quantile(0.5))
    assert math.isinf(found["b"].quantile(0.5))


def test_the_budget_shows_what_is_spent_and_what_it_refused() -> None:
    limits = ActionBudget(share=0.01, window_ms=300_000)
    world = World(8, 1, 8, Policy(catalogue=built_in(), actions=limits))
    for name in ("one", "two"):
        world.submit(spec(name, 2, spares=SparePolicy()))
    world.run(30, 1)
    assert world.job("one").nodes() == (0, 1)
    assert world.job("two").nodes() == (2, 3)
    for name in ("node-00", "node-02"):
        world.agents.raise_fault(world.nodes[name], BOARD)
        world.run(0.2, 0.1)
    entries = world.journal.newest(100, types=("ActRefused",))
    message = health_views.budget(world.state(), limits, entries, world.now_ns)
    assert [(scope.kind, scope.name, scope.limit, scope.spent) for scope in message.scopes] == [
        ("site", "", 1, 1),
        ("rack", "r0", 1, 1),
    ]
    (act,) = message.refused
    assert act.node == "node-02"
    assert act.act.startswith("quarantine: ")
    assert "the site allows 1" in act.reason
    number = world.state().fleet.index["node-02"]
    used = spent(world.state().fleet, world.state().acts, limits, world.now_ns)[0]
    assert used.nodes >= used.limit, "what is shown as full is what refuses"
    assert refusal(world.state().fleet, number, world.state().acts, limits, world.now_ns)


def test_blind_spots_are_nodes_sources_and_probes() -> None:
    world = site()
    state = world.state().fork()
    fleet = state.own_fleet()
    fleet.liveness = fleet.liveness.copy()
    fleet.liveness[2] = NodeLiveness.UNKNOWN
    facts = fleet.facts[3]
    fleet.set_facts(3, replace(facts, accelerators=tuple(replace(one, vendor="hygon") for one in facts.accelerators)))
    state.own_health().sources["node-01"] = (health_source("kernel log", (-1,)), health_source("dcmi", (1,)))
    beats = [world.now_ns, world.now_ns, world.now_ns - 4_000_000_000, 0]
    message = health_views.blind_spots(state, beats, world.now_ns)
    assert [(one.name, one.why, one.silent_s) for one in message.nodes] == [("node-02", "UNKNOWN", 4.0)]
    assert [(one.name, one.node_only, list(one.accelerators)) for one in message.sources] == [
        ("kernel log", True, []),
        ("dcmi", False, [1]),
    ]
    assert [(one.vendor, one.nodes, one.accelerators) for one in message.probes] == [("hygon", 1, 2)]


def test_unproven_probes_are_those_that_say_so() -> None:
    assert {vendor for vendor in TOOLS if load(vendor).PROVEN == "constructed"} == health_views.UNPROVEN
