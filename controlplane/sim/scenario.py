"""A whole scenario: a site, its jobs, what goes wrong, for how long; from TOML, to TOML, and run under a seed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from controlplane.catalogues import built_in
from controlplane.core.draft import Policy
from controlplane.core.health.catalogue import Catalogue
from controlplane.core.manifest import parse_manifest, spec_to_document
from controlplane.core.spec import JobSpec
from controlplane.core.units import seconds
from controlplane.sim.faults.injector import Injector, RepairPlan
from controlplane.sim.faults.plan import FaultPlan, check_plan
from controlplane.sim.kernel import START_NS
from controlplane.sim.observer import Observer
from controlplane.sim.reading import ROOT, BadScenario, as_list, as_table, read, to_toml, unknown, write
from controlplane.sim.sense import check_sense
from controlplane.sim.topology import Topology
from controlplane.sim.version import SIM_VERSION
from controlplane.sim.world.nodes import SimNode
from controlplane.sim.world.peace import calm
from controlplane.sim.world.play import Playing
from controlplane.sim.world.site import World
from controlplane.sim.world.timings import Timings

MODULE = "training_jobs.moe.train"


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job and when it is submitted, from the begin of the scenario. `copies`: the state of its ranks is copied to the memory
    of other nodes after every step."""

    spec: JobSpec
    at_s: float = 0.0
    copies: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens. After `duration_s` all faults are over and everything is repaired; then `settle_s` of quiet.

    `policy`: without a catalogue of faults the built-in one is used. `save_s`: how long a save takes until all its shards are
    stored. `park_spread`: starting processes take up to this
    share longer or shorter.
    """

    name: str = "scenario"
    topology: Topology = field(default_factory=Topology)
    jobs: tuple[PlannedJob, ...] = ()
    faults: tuple[FaultPlan, ...] = ()
    duration_s: float = 6 * 3_600.0
    settle_s: float = 1_800.0
    policy: Policy = field(default_factory=Policy)
    timings: Timings = field(default_factory=Timings)
    repairs: RepairPlan = field(default_factory=RepairPlan)
    save_s: float = 10.0
    park_spread: float = 0.3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. `digest`: over all its records; `injected`: faults that struck, by kind."""

    seed: int
    digest: str
    turns: int
    ticks: int
    records: int
    simulated_s: float
    injected: Mapping[str, int]
    world: World


def world_of(scenario: Scenario, seed: int, observers: Sequence[Observer] = (), *, keep_lines: bool = False) -> World:
    """The site of a scenario, before anything has happened."""
    topology = scenario.topology
    nodes = []
    for at, place in enumerate(topology.places()):
        relay = f"relay-{at // topology.nodes_per_relay}" if topology.nodes_per_relay else ""
        nodes.append(SimNode(place.name, place.rack, place.accelerators, place.all_labels(), relay=relay))
    timings = read(Timings, write(scenario.timings), "timings")
    policy = scenario.policy
    if policy.catalogue == Catalogue():
        policy = replace(policy, catalogue=built_in())
    world = World(nodes, policy, seed=seed, observers=observers, timings=timings, keep_lines=keep_lines)
    world.stores.saving, world.stores.save_s = True, scenario.save_s
    world.park_spread = scenario.park_spread
    world.keeps_copies.update(planned.spec.name for planned in scenario.jobs if planned.copies)
    return world


def run(scenario: Scenario, seed: int, observers: Sequence[Observer] = (), *, keep_lines: bool = False) -> Outcome:
    """Play a scenario under a seed. The same seed is the same run, in any process.

    Raises:
        BadScenario: it cannot be played.
        Exception: whatever an observer raises.
    """
    check(scenario)
    world = world_of(scenario, seed, observers, keep_lines=keep_lines)
    injector = Injector(world, scenario.faults, scenario.repairs, scenario.duration_s)
    world.injected = injector.counted
    for planned in scenario.jobs:
        world.kernel.at(START_NS + seconds(planned.at_s), partial(world.order, planned.spec))
    playing = Playing(world)
    playing.until(START_NS + seconds(scenario.duration_s))
    injector.stop()
    calm(world)
    for observer in world.observers:
        observer.on_quiet(world)
    playing.until(START_NS + seconds(scenario.duration_s + scenario.settle_s))
    for observer in world.observers:
        observer.on_end(world)
    return Outcome(
        seed, world.trace.digest(), world.turns, playing.ticks, world.trace.records, world.kernel.elapsed_s,
        injector.counted, world,
    )  # fmt: skip


def check(scenario: Scenario) -> None:
    """What no run could begin with.

    Raises:
        BadScenario: an impossible topology, a job that the site is too small for, a fault plan that makes no sense.
    """
    places = scenario.topology.places()
    devices = sum(place.accelerators for place in places)
    names: set[str] = set()
    for at, planned in enumerate(scenario.jobs):
        spec, where = planned.spec, f"jobs[{at}]"
        if spec.name in names:
            raise BadScenario(f"{where}.name: another job is named {spec.name}")
        names.add(spec.name)
        wanted = spec.ranks * spec.accelerators_per_rank
        if wanted > devices:
            raise BadScenario(f"{where}: {spec.name} needs {wanted} accelerators, the site has {devices}")
    for at, plan in enumerate(scenario.faults):
        check_plan(plan, f"faults[{at}]")
    if scenario.timings.step_s <= 0:
        raise BadScenario("timings.step_s: a step that takes no time never ends; use a positive duration")


def load(path: str) -> Scenario:
    """The scenario of a TOML file that a person has written.

    Raises:
        BadScenario: the file cannot be read, or says something that cannot be, or be meant; with the place.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise BadScenario(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadScenario(f"{path}: is not UTF-8 at byte {error.start}") from error
    scenario = parse(text, path)
    try:
        check_sense(scenario)
    except BadScenario as error:
        raise BadScenario(f"{path}: {error}") from error
    return scenario


def parse(text: str, place: str = "scenario") -> Scenario:
    """The scenario of a TOML text.

    Raises:
        BadScenario: not TOML, or something in it cannot be; with the place.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadScenario(f"{place}: not TOML: {error}") from error
    try:
        return _scenario(table)
    except BadScenario as error:
        raise BadScenario(f"{place}: {error}") from error


def _scenario(table: dict[str, Any]) -> Scenario:
    version = table.pop("sim_version", SIM_VERSION)
    if version != SIM_VERSION:
        raise BadScenario(
            f"sim_version is {version}, this simulator is version {SIM_VERSION}: its seeds mean other runs"
        )
    jobs = tuple(_job(item, f"jobs[{at}]") for at, item in enumerate(as_list(table.pop("jobs", []), "jobs")))
    if "catalogue" in as_table(table.get("policy", {}), "policy"):
        raise BadScenario("policy.catalogue: a scenario file cannot hold a catalogue of faults")
    scenario = replace(read(Scenario, table, ROOT), jobs=jobs)
    check(scenario)
    return scenario


def dump(scenario: Scenario) -> str:
    """The TOML text from which `parse` makes this scenario.

    Raises:
        BadScenario: its policy has a catalogue of its own.
    """
    if scenario.policy.catalogue != Catalogue():
        raise BadScenario(
            "policy.catalogue: a scenario file cannot hold a catalogue of faults; leave it to the built-in one"
        )
    table: dict[str, Any] = {"sim_version": SIM_VERSION, **write(scenario)}
    jobs = []
    for planned in scenario.jobs:
        spec: Any = spec_to_document(planned.spec)["spec"]
        copies = {"copies": True} if planned.copies else {}
        jobs.append({"name": planned.spec.name, "at_s": planned.at_s, **copies, "spec": _without_empty(spec)})
    table["jobs"] = jobs
    return to_toml(table)


def _without_empty(value: Any) -> Any:
    """TOML has no null, and an empty text is a default."""
    if isinstance(value, dict):
        return {key: _without_empty(item) for key, item in value.items() if item not in (None, "", [], {})}
    if isinstance(value, list):
        return [_without_empty(item) for item in value]
    return value


def _job(value: object, place: str) -> PlannedJob:
    """A job: `name`, `at_s`, `copies`, and the `spec` of a manifest; `workload` may be left out.

    Raises:
        BadScenario: every mistake of it, as `phalanx submit` would name them.
    """
    table = as_table(value, place)
    for key in table:
        if key not in (*_OF_PLAN, "name", "spec"):
            raise unknown(f"{place}.{key}", key, ["name", "spec", *_OF_PLAN])
    spec = {"workload": {"module": MODULE}, **as_table(table.get("spec", {}), f"{place}.spec")}
    document = {
        "apiVersion": "phalanx/v1",
        "kind": "TrainingJob",
        "metadata": {"name": table.get("name", "")},
        "spec": spec,
    }
    parsed = parse_manifest(document)
    if parsed.spec is None:
        raise BadScenario(
            "; ".join(f"{place}.{found.path}: {found.reason} ({found.fix})" for found in parsed.violations)
        )
    plan = read(_Plan, {key: table[key] for key in _OF_PLAN if key in table}, place)
    return PlannedJob(parsed.spec, plan.at_s, plan.copies)


@dataclass(frozen=True, slots=True)
class _Plan:
    at_s: float = 0.0
    copies: bool = False


_OF_PLAN = ("at_s", "copies")
