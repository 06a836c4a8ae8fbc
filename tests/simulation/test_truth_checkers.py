"""Checkers that judge by the world's truth: a site at peace satisfies all of them, and each fires when one thing is changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.health.book import FaultNote, StandingFault
from controlplane.core.jobs import Exit
from controlplane.core.spec import CheckpointPolicy, JobSpec, Parallel, SparePolicy, Workload
from controlplane.core.vocabulary import Bucket, HandlingLevel, JobState, NodeLiveness
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.believing import SilenceKillsNobody
from controlplane.sim.checkers.durability import DurableBeforeSent, ReplayAgrees
from controlplane.sim.checkers.ledger import EverySecondOnce
from controlplane.sim.checkers.lines import CheckpointLine, NodeLine
from controlplane.sim.checkers.monitor import Monitor, all_checkers
from controlplane.sim.checkers.old_writers import OldWritersAreHarmless
from controlplane.sim.checkers.peace import EveryJobKnowsWhy, NodesAreWhatTheyAre, NothingGrows, SparesComeBack
from controlplane.sim.checkers.places import OneRankPerAccelerator
from controlplane.sim.checkers.storage import StartsFromARestorePoint
from controlplane.sim.scenario import PlannedJob, Scenario, run
from controlplane.sim.topology import Topology
from controlplane.sim.world.stores import StoredShard

SPEC = JobSpec(
    "moe", Workload("m"), 4, parallel=Parallel(dp=4), spares=SparePolicy(warm_nodes=1),
    checkpoint=CheckpointPolicy(every_steps=50),
)  # fmt: skip
SITE = Topology(racks_per_super_pod=2, nodes_per_rack=3, accelerators=2)


Site = tuple[Monitor, Any]
S = 1_000_000_000
Change = Callable[[Site, pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def site() -> Site:
    """A job that runs on a whole site, and the monitor that has read everything. Tests take back what they change."""
    scenario = Scenario(topology=SITE, jobs=(PlannedJob(SPEC),), duration_s=60.0, settle_s=30.0)
    monitor = Monitor(all_checkers(scenario.policy))
    return monitor, run(scenario, 1, [monitor]).world


def first(found: Iterator[Finding]) -> str:
    return next((finding.text for finding in found), "")


def rank_stops(site: Site, patch: pytest.MonkeyPatch) -> None:
    _, process = site[1].process("moe", 1)
    patch.setattr(process, "obeys", False)
    patch.setattr(
        site[1].leader.soft, "progress", lambda uid: (0, 0)
    )  # for so long that the hang must have been noticed


def rank_is_gone(site: Site, patch: pytest.MonkeyPatch) -> None:
    _, process = site[1].process("moe", 1)
    patch.setattr(process, "exit", Exit(observed=True, signal=9))


def ends_without_reason(site: Site, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(site[0].book.jobs["moe-1"], "ended", True)
    patch.setattr(site[0].book.jobs["moe-1"], "state", JobState.FAILED)


def waits_in_vain(site: Site, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(site[0].book.jobs["moe-1"], "state", JobState.SUSPENDED)
    patch.setattr(site[0].book.jobs["moe-1"], "blocker", "no place for 1 rank")


def is_buried(site: Site, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(site[0].book.nodes[5], "liveness", NodeLiveness.DEAD)


def is_kept_out(site: Site, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(site[0].book.nodes[5], "cordons", {"health": False})
    patch.setattr(site[0].book.nodes[5], "away", "it once was ill")


def is_ruled_out(site: Site, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(site[0].book.nodes[5], "cordons", {"rules": False})


def burns(site: Site, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(site[1].nodes["node-0005"], "up", False)


def spare_goes(site: Site, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(site[0].book.jobs["moe-1"], "spares", ())


def effect_stays(site: Site, patch: pytest.MonkeyPatch) -> None:
    effect = Effect("e9999", EffectKind.FENCE_HOSTS, "node:node-0001", site[1].now_ns - 1)
    patch.setitem(site[1].state().effects, effect.id, effect)


UNREST = {
    "L1 a rank does not work": (EveryJobKnowsWhy, rank_stops, "does not work"),
    "L1 a rank is gone": (EveryJobKnowsWhy, rank_is_gone, "does not work"),
    "L1 no reason": (EveryJobKnowsWhy, ends_without_reason, "without a reason"),
    "L1 a blocker that is not so": (EveryJobKnowsWhy, waits_in_vain, "would fit"),
    "L2 a whole node is out": (NodesAreWhatTheyAre, is_buried, "is whole, and believed DEAD"),
    "L2 a cordon that nothing explains": (NodesAreWhatTheyAre, is_kept_out, "cordoned by health: it once was ill"),
    "L2 a rule's cordon that an operator has lifted": (NodesAreWhatTheyAre, is_ruled_out, "cordoned by rules"),
    "L2 a dead node is in": (NodesAreWhatTheyAre, burns, "is dead, and believed ALIVE"),
    "L3 a spare is missing": (SparesComeBack, spare_goes, "holds 0 of 1 spare nodes"),
    "L4 an effect stays": (NothingGrows, effect_stays, "past their deadline"),
}


@pytest.mark.parametrize(("kind", "change", "says"), UNREST.values(), ids=list(UNREST))
def test_unrest_is_seen(
    site: Site, monkeypatch: pytest.MonkeyPatch, kind: type[Checker], change: Change, says: str
) -> None:
    monitor, world = site
    assert first(kind().settled(monitor.book, world)) == ""
    change(site, monkeypatch)
    assert says in first(kind().settled(monitor.book, world))


def test_what_a_rule_has_cordoned_since_the_faults_stopped_waits_for_an_operator(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, world = site
    is_ruled_out(site, monkeypatch)
    cordoned = Durable(r.NodeCordoned("node-0005", "rules", "it matches"), 1, 1, "Tick")
    early, late = NodesAreWhatTheyAre(), NodesAreWhatTheyAre()
    assert not list(early.record(cordoned, monitor.book))
    early.quiet(monitor.book)
    late.quiet(monitor.book)
    assert not list(late.record(cordoned, monitor.book))
    assert "cordoned by rules" in first(early.settled(monitor.book, world))
    assert first(late.settled(monitor.book, world)) == ""


def test_a_device_that_a_timer_still_holds_is_no_room_for_a_spare(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, world = site
    spare_goes(site, monkeypatch)
    health, now_ns = world.state().health, world.leader.clock_ns()
    for node in world.nodes.values():
        note = FaultNote("accelerator/0", "SIM-ECC", HandlingLevel.ISOLATE, until_ns=now_ns + 1, held=True)
        monkeypatch.setitem(health.standing, node.name, (StandingFault(note, now_ns),))
    assert first(SparesComeBack().settled(monitor.book, world)) == ""
    for node in world.nodes.values():
        over = FaultNote("accelerator/0", "SIM-ECC", HandlingLevel.ISOLATE, until_ns=now_ns - 1, held=True)
        monkeypatch.setitem(health.standing, node.name, (StandingFault(over, now_ns),))
    assert "holds 0 of 1 spare nodes" in first(SparesComeBack().settled(monitor.book, world))


def test_two_ranks_on_one_accelerator(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, world = site
    node, process = world.process("moe", 0)
    checker = OneRankPerAccelerator()
    assert first(checker.occupied(node, monitor.book)) == ""
    twin = copy.copy(process)
    twin.serial = 99
    monkeypatch.setitem(node.processes, ("moe-1", 99), twin)
    assert "runs moe-1-" in first(checker.occupied(node, monitor.book))


def test_a_lower_epoch_is_obeyed(site: Site) -> None:
    node, _ = site[1].process("moe", 0)
    checker = OldWritersAreHarmless()
    effect = Effect("e1", EffectKind.FENCE_HOSTS, f"node:{node.name}", 0)
    assert first(checker.obeyed(effect, node, 2)) == first(checker.obeyed(effect, node, 2)) == ""
    assert "of epoch 1, after one of epoch 2" in first(checker.obeyed(effect, node, 1))


def test_a_process_goes_back_to_an_older_generation(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    node, process = site[1].process("moe", 0)
    checker = OldWritersAreHarmless()
    effect = Effect("e1", EffectKind.APPLY_GENERATION, "job:moe-1", 0)
    assert first(checker.obeyed(effect, node, 1)) == ""
    monkeypatch.setattr(process, "generation", 0)
    assert "from generation 1 back to 0" in first(checker.obeyed(effect, node, 1))


def test_a_machine_that_was_restarted_knows_no_generation_of_what_has_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, process = site[1].process("moe", 0)
    checker = OldWritersAreHarmless()
    effect = Effect("e1", EffectKind.APPLY_GENERATION, "job:moe-1", 0)
    assert first(checker.obeyed(effect, node, 1)) == ""
    monkeypatch.setattr(process, "generation", 0)
    monkeypatch.setattr(process, "exit", Exit(observed=False, sender="agent", group_empty=True))
    assert first(checker.obeyed(effect, node, 1)) == ""
    monkeypatch.setattr(process, "exit", None)
    assert "from generation 1 back to 0" in first(checker.obeyed(effect, node, 1))


def test_what_comes_while_a_turn_is_stored_waits_for_its_end_and_no_longer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, world = site
    leader, now_ns = world.leader, world.now_ns
    monkeypatch.setattr(leader, "busy_until_ns", now_ns + 1)
    monkeypatch.setattr(leader, "_inbox", [])
    leader.tell(ev.Tick())
    assert first(NothingGrows().settled(monitor.book, world)) == ""
    monkeypatch.setattr(leader, "_waits_from_ns", now_ns - round(leader.turn_s * 1e9) - 1)
    assert "1 events wait in the inbox" in first(NothingGrows().settled(monitor.book, world))


def test_what_was_stored_too_late_is_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, world = site
    job = monitor.book.jobs["moe-1"]
    line = CheckpointLine("moe-1/g1/step-20", job.generation, 20, "/s", frozenset({0}))
    monkeypatch.setitem(job.checkpoints, line.id, line)
    monkeypatch.setitem(world.stores.shards, line.id, {0: StoredShard(0, stored_ns=world.now_ns)})
    gang = copy.copy(world.gangs.newest["moe-1"])
    gang.restore_id, gang.generation = line.id, job.generation + 1
    checker = OldWritersAreHarmless()
    overtaken = r.GenerationStarted("moe-1", 2, (), (), line.id, line.step)
    assert not list(checker.record(Durable(overtaken, 1, 1, "Tick"), monitor.book))
    assert not list(checker.turn(world.state(), monitor.book, world))
    assert first(checker.read(gang, monitor.book, world)) == ""
    monkeypatch.setattr(world.stores.shards[line.id][0], "stored_ns", world.now_ns + 1)
    assert "ranks [0] had stored their parts after it was overtaken" in first(checker.read(gang, monitor.book, world))


@pytest.mark.parametrize(
    ("replicated", "decided_s", "found"),
    [(False, 0, "nobody holds the state of ranks [1]"), (True, 0, ""), (False, 9, "ranks [1]"), (False, 11, "")],
    ids=["lost", "a replica has it", "lost before an uncertain commit", "lost after it"],
)
def test_a_rank_that_is_gone_is_said_to_hold_its_state(
    site: Site, monkeypatch: pytest.MonkeyPatch, *, replicated: bool, decided_s: int, found: str
) -> None:
    """Rank 1 ended ten seconds ago. That the generation is in force already by now excuses nothing."""
    monitor, world = site
    _, process = world.process("moe", 1)
    monkeypatch.setattr(process, "exit", Exit(observed=True, signal=9))
    monkeypatch.setattr(process, "since_ns", world.now_ns - 10 * S)
    monkeypatch.setattr(world, "keeps_copies", {"moe"})
    job = world.job("moe")
    monkeypatch.setattr(job, "spec", replace(SPEC, checkpoint=replace(SPEC.checkpoint, replicated=replicated)))
    checker = StartsFromARestorePoint()
    sources = (r.FromTier("survivor", 4, ((0, 4),)),)
    started = r.GenerationStarted("moe-1", 1, (), (), "", world.gangs.step("moe-1"), sources=sources)
    seen = Durable(started, 1, world.leader.clock_ns() - decided_s * S, "Tick")
    assert not list(checker.record(seen, monitor.book))
    text = first(checker.submitted((), monitor.book, world))
    assert text.endswith(found) if found else not text
    assert first(checker.turn(world.state(), monitor.book, world)) == ""


def test_a_generation_that_a_crash_had_hidden_is_judged_by_who_lived_then(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor, world = site
    _, process = world.process("moe", 1)
    monkeypatch.setattr(process, "exit", Exit(observed=True, signal=9))
    monkeypatch.setattr(world, "keeps_copies", {"moe"})
    sources = (r.FromTier("survivor", 4, ((0, 4),)),)
    started = r.GenerationStarted("moe-1", 2, (), (), "", world.gangs.step("moe-1"), sources=sources)
    for ended_s, found in ((1, ""), (60, "nobody holds the state of ranks [1]")):
        monkeypatch.setattr(process, "since_ns", world.now_ns - ended_s * S)
        checker = StartsFromARestorePoint()
        assert not list(checker.record(Durable(started, 1, world.leader.clock_ns(), "Tick"), monitor.book))
        text = first(checker.restarted(world.state(), monitor.book, world))
        assert text.endswith(found) if found else not text


def test_a_generation_of_which_nobody_is_told(site: Site) -> None:
    monitor, world = site
    sources = (r.FromTier("survivor", 4, ((0, 4),)),)
    started = r.GenerationStarted("moe-1", 2, (), (), "", world.gangs.step("moe-1"), sources=sources)
    checker = StartsFromARestorePoint()
    assert not list(checker.record(Durable(started, 1, 1, "Tick"), monitor.book))
    assert "nobody is told" in first(checker.turn(world.state(), monitor.book, world))


def test_a_state_that_the_journal_does_not_tell(site: Site) -> None:
    monitor, world = site
    checker = ReplayAgrees()
    assert first(checker.restarted(world.state(), monitor.book, world)) == ""
    other = world.state().fork()
    other.own_job("moe-1").last_error = "nobody wrote this down"
    assert "replay gives another state" in first(checker.restarted(other, monitor.book, world))


def test_an_effect_that_nobody_has_written_down(site: Site) -> None:
    monitor, world = site
    early = Effect("e9999", EffectKind.FENCE_HOSTS, "node:node-0001", 0)
    assert "left before its record" in first(DurableBeforeSent().submitted([early], monitor.book, world))


def test_a_second_that_is_booked_twice(site: Site) -> None:
    monitor, world = site
    assert first(EverySecondOnce().turn(world.state(), monitor.book, world)) == ""
    other = world.state().fork()
    other.ledger.add(Bucket.IDLE, 1)
    assert "buckets sum to" in first(EverySecondOnce().turn(other, monitor.book, world))
    other = world.state().fork()
    job = other.own_job("moe-1")
    job.ledger_ns = {**job.ledger_ns, Bucket.PRODUCTIVE: job.ledger_ns[Bucket.PRODUCTIVE] + 1}
    assert "buckets of moe-1" in first(EverySecondOnce().turn(other, monitor.book, world))


@pytest.mark.parametrize(("witnesses", "found"), [(2, ""), (1, "3 living nodes of 2 racks")])
def test_who_is_cut_off_as_two_peers_say_is_not_buried_for_silence(
    site: Site, monkeypatch: pytest.MonkeyPatch, witnesses: int, found: str
) -> None:
    monitor, world = site
    lost = ("node-0000", "node-0001", "node-0004")
    for name in lost:
        monkeypatch.setattr(world.nodes[name].link, "up", False)
    checker = SilenceKillsNobody()
    said = [r.LinksReported(f"node-000{number}", lost) for number in (2, 3)[:witnesses]]
    for record in (*said, r.LivenessChanged(lost, NodeLiveness.DEAD, "silent")):
        assert not list(checker.record(Durable(record, 1, 1, "Tick"), monitor.book))
    text = first(checker.turn(world.state(), monitor.book, world))
    assert text.startswith(found) if found else not text


@pytest.mark.parametrize(("seen_to_die", "found"), [(2, ""), (1, "3 living nodes of 2 racks")])
def test_a_domain_is_lost_with_all_in_it_when_two_of_it_were_seen_to_die(
    site: Site, seen_to_die: int, found: str
) -> None:
    monitor, world = site
    lost = ("node-0000", "node-0001", "node-0004")
    died = ("node-0002", "node-0003")[:seen_to_die]
    checker = SilenceKillsNobody()
    for record in (
        r.LivenessChanged(died, NodeLiveness.DEAD, "links", ("lease", "peer links")),
        r.LivenessChanged(lost, NodeLiveness.DEAD, "fell with its domain", ("lease", "failure domain")),
    ):
        assert not list(checker.record(Durable(record, 1, 1, "Tick"), monitor.book))
        text = first(checker.turn(world.state(), monitor.book, world))
    assert text.startswith(found) if found else not text


@pytest.mark.parametrize(
    ("left_s", "back_s", "found"),
    [(100, 0, ""), (200, 0, ""), (39, 0, "3 living nodes of 2 racks"), (90, 95, "3 living nodes of 2 racks")],
    ids=["left near the silence", "left after it began", "left long before", "came back"],
)
def test_a_raylet_that_left_long_before_a_silence_says_nothing_of_it(
    site: Site, left_s: int, back_s: int, found: str
) -> None:
    """Found silent at second 100, judged at 400."""
    monitor, world = site
    lost = ("node-0000", "node-0001", "node-0004")
    told = [
        (left_s, r.CellMembershipChanged("cell-0", (), lost)),
        *([(back_s, r.CellMembershipChanged("cell-0", lost, ()))] if back_s else []),
        (100, r.LivenessChanged(lost, NodeLiveness.SUSPECT, "silent")),
        (400, r.LivenessChanged(lost, NodeLiveness.DEAD, "silent, and its raylet is gone")),
    ]
    checker = SilenceKillsNobody()
    for at_s, record in sorted(told, key=lambda pair: pair[0]):
        assert not list(checker.record(Durable(record, 1, at_s * S, "Tick"), monitor.book))
    text = first(checker.turn(world.state(), monitor.book, world))
    assert text.startswith(found) if found else not text


def test_the_living_are_not_buried_in_a_crowd(site: Site) -> None:
    monitor, world = site
    verdict = r.LivenessChanged(("node-0000", "node-0001", "node-0004"), NodeLiveness.DEAD, "silent")
    for nodes, says in ((verdict.nodes, "3 living nodes of 2 racks"), (verdict.nodes[:2], "")):
        checker = SilenceKillsNobody()
        assert not list(checker.record(Durable(replace(verdict, nodes=nodes), 1, 1, "Tick"), monitor.book))
        assert says in first(checker.turn(world.state(), monitor.book, world))


@pytest.mark.parametrize(
    ("known", "found"), [(60, "3 living nodes"), (80, "")], ids=["5 % of the site", "fewer than that"]
)
def test_three_of_a_large_site_are_no_crowd(
    site: Site, monkeypatch: pytest.MonkeyPatch, known: int, found: str
) -> None:
    monitor, world = site
    others = [NodeLine(f"other-{number}", {}) for number in range(known - len(monitor.book.nodes))]
    monkeypatch.setattr(monitor.book, "nodes", [*monitor.book.nodes, *others])
    lost = ("node-0000", "node-0001", "node-0004")
    for name in lost:
        monkeypatch.setattr(monitor.book.node(name), "liveness", NodeLiveness.DEAD)
    checker = SilenceKillsNobody()
    verdict = r.LivenessChanged(lost, NodeLiveness.DEAD, "silent past the long time-out")
    assert not list(checker.record(Durable(verdict, 1, 1, "Tick"), monitor.book))
    text = first(checker.turn(world.state(), monitor.book, world))
    assert text.startswith(found) if found else not text
