"""Scenario files: what is written is read back, and every mistake is refused with its place and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.core.spec import JobSpec
from controlplane.sim.faults import CATALOGUE, FaultPlan
from controlplane.sim.faults.plan import Arrivals
from controlplane.sim.reading import BadScenario
from controlplane.sim.scenario import Scenario, dump, load, parse
from controlplane.sim.topology import Rack, Topology, lingjun
from controlplane.sim.version import SIM_VERSION

VERSION = f"sim_version = {SIM_VERSION}"
WHOLE = """
@VERSION@
name = "two jobs"
duration_s = "6h"
settle_s = 900

[topology]
super_pods = 2
accelerators = 4
labels = { sort = "h100" }

[policy]
effect_ms = "2m"
suspicion = { lease_s = 5.0 }

[timings]
step_s = "2s"

[[jobs]]
name = "ant"
at_s = "1m"
[jobs.spec]
ranks = 16
parallel = { dp = 16 }
restartPolicy = { collectWindow = "2s", jobRules = [ { match = { exitCode = [42] }, action = "fail", reason = "no \\"way\\"" } ] }

[[faults]]
kind = "node"
per_day = 3.5
duration_s = "20m"

[[faults]]
kind = "process_exit"
target = "ant/3"
at_s = "30m"
parameters = { code = 42 }

[[faults]]
kind = "device"
per_day = 2
arrivals = "stepfun"
code = "SIM-MEMORY"
""".replace("@VERSION@", VERSION)


def test_a_file_says_what_it_means(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(WHOLE)
    scenario = load(str(path))
    assert (scenario.duration_s, scenario.settle_s, scenario.timings.step_s) == (21_600.0, 900.0, 2.0)
    assert (scenario.policy.effect_ms, scenario.policy.suspicion.lease_s) == (120_000, 5.0)
    assert scenario.policy.suspicion.brief_s == 0.75, "what is not said keeps its default"
    assert len(scenario.topology.places()) == 64
    assert scenario.topology.places()[0].labels == (("sort", "h100"),)
    assert (scenario.jobs[0].spec.name, scenario.jobs[0].at_s, scenario.jobs[0].spec.ranks) == ("ant", 60.0, 16)
    assert scenario.faults[0] == FaultPlan("node", per_day=3.5, duration_s=1_200.0)
    assert scenario.faults[1].parameters == (("code", 42.0),)
    assert scenario.faults[2].arrivals is Arrivals.STEPFUN


def test_what_is_written_is_read_back() -> None:
    scenario = parse(WHOLE)
    again = parse(dump(scenario))
    assert again == scenario
    assert dump(again) == dump(scenario)
    assert parse(dump(Scenario())) == Scenario()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("super_pods = 2", "superpods = 2"), "topology.superpods: no key is named `superpods`; did you mean `super_pods`?"),
        (("per_day = 3.5", "per_day = -1"), "faults[0].per_day: -1 is negative"),
        (("super_pods = 2", "super_pods = 0"), "topology.super_pods: a site without machines cannot be simulated"),
        (('kind = "node"', 'kind = "nod"'), "faults[0].kind: no kind of fault is named `nod`; did you mean `node`?"),
        (("code = 42", "code = 300"), "faults[1].parameters.code: 300.0 is not between 0 and 255"),
        (("code = 42", "cod = 42"), "no parameter of process_exit is named `cod`; did you mean `code`?"),
        (('at_s = "30m"', 'at_s = "30x"'), "faults[1].at_s: `30x` is no duration"),
        (("per_day = 3.5", 'per_day = 3.5\nat_s = "1s"'), "give `at_s` for one fault at a time, or `per_day` for a rate"),
        (("per_day = 3.5", ""), "give `at_s` for one fault at a time, or `per_day` for a rate"),
        (("ranks = 16", "ranks = 512"), "jobs[0]"),
        (("accelerators = 4", "accelerators = 0"), "has 0 accelerators, 1 to 256 are possible"),
        (("super_pods = 2", "super_pods = 2.5"), "topology.super_pods: a whole number is expected, this is 2.5"),
        (("settle_s = 900", "settle_s = true"), "settle_s: a number is expected, this is `true`"),
        (('name = "two jobs"', "name = 7"), "name: text is expected, this is the number 7"),
        (('step_s = "2s"', "step_s = 0"), "timings.step_s: a step that takes no time never ends"),
        ((VERSION, "sim_version = 99"), f"sim_version is 99, this simulator is version {SIM_VERSION}"),
        (('arrivals = "stepfun"', 'arrivals = "stepfum"'), "did you mean `stepfun`?"),
        (("[topology]", "[topology]\nfile = 'lingjun-2024'"), "did you mean `lingjun-2023`?"),
        (("[topology]", "[[topology]]"), "topology: a table is expected, this is a list"),
        (("[policy]", "[policy]\ncatalogue = {}"), "policy.catalogue: a scenario file cannot hold"),
        (('name = "ant"', 'nam = "ant"'), "jobs[0].nam: no key is named `nam`; did you mean `name`?"),
        (("ranks = 16", "rank = 16"), "jobs[0].spec.rank"),
        (("[policy]", "[policy"), "not TOML"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_with_their_place(change: tuple[str, str], says: str) -> None:
    assert change[0] in WHOLE
    with pytest.raises(BadScenario) as refused:
        parse(WHOLE.replace(*change), "site.toml")
    assert str(refused.value).startswith("site.toml: ")
    assert says in str(refused.value)


def test_a_job_larger_than_the_site_is_refused() -> None:
    with pytest.raises(BadScenario, match=r"jobs\[0\]: ant needs 512 accelerators, the site has 256"):
        parse(WHOLE.replace("ranks = 16", "ranks = 512").replace("dp = 16", "dp = 512"))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(BadScenario, match=r"^/nowhere/site\.toml: cannot be read"):
        load("/nowhere/site.toml")


def test_a_regular_site_has_its_domains() -> None:
    places = Topology(
        super_pods=2, racks_per_super_pod=2, nodes_per_rack=2, racks_per_switch=1, racks_per_feed=0
    ).places()
    assert [(p.name, p.rack, p.switch, p.power, p.superpod) for p in places[3:5]] == [
        ("node-0003", "r1", "sw1", "", "pod0"),
        ("node-0004", "r2", "sw2", "", "pod1"),
    ]
    assert dict(places[4].all_labels()) == {"rack": "r2", "switch": "sw2", "superpod": "pod1"}


def test_the_public_topology_loads() -> None:
    places = Topology(file="lingjun-2023").places()
    assert len(places) == 847
    assert len({p.rack for p in places}) == 119
    assert (len({p.switch for p in places}), len({p.superpod for p in places})) == (3, 1)
    assert len(Topology(file="lingjun-2023", limit=40).places()) == 40


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ip,DSW,PSW\na,b,c", "x.csv:1: the columns ASW are missing"),
        ("ip,DSW,PSW,ASW\na,b,,d", "x.csv:2: PSW is empty"),
    ],
)
def test_an_unreadable_topology_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadScenario, match=says):
        list(lingjun(text, "x.csv"))


@pytest.mark.parametrize(
    ("racks", "says"),
    [
        ((Rack("r0", 0),), "rack r0 is empty"),
        ((Rack("r0", 1, switch="a"), Rack("r0", 1, switch="b")), "rack r0 cannot be in two switches, a and b"),
        ((Rack("r0", 1, accelerators=999),), "has 999 accelerators"),
    ],
)
def test_sites_that_cannot_be_are_refused(racks: tuple[Rack, ...], says: str) -> None:
    with pytest.raises(BadScenario, match=says):
        Topology(racks=racks).places()


def test_the_catalogue_is_complete() -> None:
    named = "process device node rack switch superpod power fail_slow hang silent_corruption network_drop network_delay"
    named += (
        " network_duplicate network_reorder partition_up half_open agent_crash agent_hang zombie duplicate_identity"
    )
    named += " version_skew relay cell crash_before_append crash_after_append crash_before_effects controller_stall clock_jump"
    named += (
        " clock_drift slow_fsync failing_fsync disk_full lost_leadership checkpoint_missing checkpoint_torn link_flap"
    )
    named += " checkpoint_corrupt checkpoint_slow spares_surplus spares_shortage burst"
    kinds = " ".join(CATALOGUE)
    assert [name for name in named.split() if name not in kinds] == []
    assert isinstance(parse(WHOLE).jobs[0].spec, JobSpec)


FILE = """
duration_s = "4h"
[topology]
racks_per_super_pod = 2
nodes_per_rack = 4
accelerators = 8
[[jobs]]
name = "ant"
[jobs.spec]
ranks = 2
acceleratorsPerRank = 8
[[faults]]
kind = "rack"
target = "r1"
at_s = "1h"
"""


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ('target = "r1"', 'target = "r1x"', "faults[0].target: no rack is named `r1x`; did you mean `r1`?"),
        ('target = "r1"', 'target = "zzz"', "known: r0, r1"),
        ('kind = "rack"', 'kind = "node"', "faults[0].target: no node is named `r1`"),
        ('kind = "rack"', 'kind = "process_kill"', "`r1` is of no job of this file; its jobs are ant"),
        ('at_s = "1h"', 'at_s = "4h"', "faults[0].at_s: 14400 s is after the end"),
        ('name = "ant"', 'name = "ant"\nat_s = "5h"', "jobs[0].at_s: 18000 s is after the end"),
        ('duration_s = "4h"', "duration_s = 0", "duration_s: nothing happens in no time"),
        ("accelerators = 8", "accelerators = 4", "a rank of ant needs 8 accelerators on one machine, the widest has 4"),
    ],
)
def test_what_nobody_can_have_meant_is_refused_in_a_file(tmp_path: Path, was: str, now: str, said: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(FILE)
    assert load(str(path)).faults[0].target == "r1"
    path.write_text(FILE.replace(was, now))
    with pytest.raises(BadScenario) as refused:
        load(str(path))
    assert said in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize("aim", ["ant/1", "ant-1/1"])
def test_a_rank_is_named_by_its_jobs_name_or_uid(tmp_path: Path, aim: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(FILE.replace('"rack"', '"process_kill"').replace('"r1"', f'"{aim}"'))
    assert load(str(path)).faults[0].target == aim


def test_a_topology_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "racks.csv"
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(BadScenario, match="is not UTF-8 at byte 0"):
        parse(f'[topology]\nfile = "{bad}"\n')
