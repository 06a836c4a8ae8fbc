"""Every checker fires: each is shown the one thing that must not be, and its quiet neighbour."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from controlplane.core import records as r
from controlplane.core.checkpoints import Shard
from controlplane.core.draft import Policy
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.evidence import Facts
from controlplane.core.fleet import Accelerator
from controlplane.core.jobs import LostRank
from controlplane.core.spec import (
    JobRule,
    JobSpec,
    Match,
    NodeAction,
    NodeRule,
    Parallel,
    RestartPolicy,
    RuleAction,
    SparePolicy,
    Workload,
)
from controlplane.core.vocabulary import Blame, HandlingLevel, JobState, NodeLiveness, Rung
from controlplane.sim.checkers.acts import BudgetHolds, OwnersKeepTheirReasons
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import Book
from controlplane.sim.checkers.durability import DurableBeforeSent
from controlplane.sim.checkers.numbering import NumbersGrow
from controlplane.sim.checkers.old_writers import OldWritersAreHarmless
from controlplane.sim.checkers.places import OnlyWhereWorkMayGo
from controlplane.sim.checkers.roots import RootsAreJudgedOnce
from controlplane.sim.checkers.rules import RulesAreObeyed
from controlplane.sim.checkers.storage import LastGoodIsKept, StartsFromARestorePoint

SPEC = JobSpec("moe", Workload("m"), 2, parallel=Parallel(dp=2), spares=SparePolicy(warm_nodes=1))
S = 1_000_000_000


def registered(name: str, rack: str) -> r.NodeRegistered:
    devices = (Accelerator(f"{name}-0"), Accelerator(f"{name}-1"))
    return r.NodeRegistered(name, "0001", "", "0", (("rack", rack),), devices, (1, 1))


def shard(rank: int, generation: int = 1, step: int = 20) -> r.ShardsReported:
    name = f"moe-1/g{generation}/step-{step}"
    return r.ShardsReported("moe-1", name, generation, step, f"/s/{name}", (Shard(rank, (), 0, 0),))


BEGIN: tuple[r.Record, ...] = (
    r.ControllerStarted(1, "0"),
    *(registered(f"n{i}", f"r{i // 2}") for i in range(4)),
    r.JobSubmitted("moe-1", "moe", 1, SPEC),
    r.JobPlaced("moe-1", (0, 1), (0, 0), (2,)),
    r.HostsRequested("moe-1", (1, 2), (0, 1)),
    r.GenerationStarted("moe-1", 1, ((1, 2),), ((0, 2),), "", 0),
    r.JobStateChanged("moe-1", JobState.RUNNING),
)
COMMITTED = (shard(0), shard(1), r.CheckpointCommitted("moe-1", "moe-1/g1/step-20", 20))
VERIFIED = (*COMMITTED, r.CheckpointVerified("moe-1", "moe-1/g1/step-20"))
NEWER = (shard(0, 1, 40), shard(1, 1, 40), r.CheckpointCommitted("moe-1", "moe-1/g1/step-40", 40))
AGAIN = r.GenerationStarted("moe-1", 2, ((3, 1),), ((0, 1),), "moe-1/g1/step-20", 20)
ISSUED = r.EffectsIssued((Effect("e1", EffectKind.FENCE_HOSTS, "node:n0", 0),))


def judge(checker: Checker, before: Iterable[r.Record], last: r.Record, cause: str = "Tick") -> list[str]:
    """What a checker says of the last record, a second after each earlier one; of those it must say nothing."""
    book = Book()
    told: list[Finding] = []
    for number, record in enumerate((*before, last), start=1):
        assert not told, told
        if type(record) in checker.watches:
            told += checker.record(Durable(record, number, number * S, cause), book)
        book.fold(record, number, number * S)
    return [finding.text for finding in told]


TAKEN_OUT = r.NodeQuarantined("n3", "it is not well", HandlingLevel.ISOLATE, ())
WORKS = r.JobStateChanged("moe-1", JobState.RUNNING)
DRAINED = [r.NodeCordoned(f"n{i}", "operator", "x", drain=True) for i in range(2)]
RULES = RestartPolicy(
    job_rules=(JobRule(Match(signals=(9,), message="^gone"), RuleAction.SUSPEND),),
    node_rules=(NodeRule(Match(of_rank=1, within_ms=1_000), NodeAction.QUARANTINE),),
)
RULED = r.JobSubmitted("ant-2", "ant", 2, replace(SPEC, name="ant", restart_policy=RULES))
FACTS = Facts("killed", 137, 9, message="gone for good")
KILLED = r.RanksLost("ant-2", (LostRank(0, 1, "x", Blame.INFRASTRUCTURE, 1, "x", facts=FACTS),), 0, 0, "x")
EXITED = r.RanksLost("ant-2", (LostRank(0, 1, "x", Blame.USER, 1, "x", facts=Facts("exited", 1, 0)),), 0, 0, "x")
VERDICT = r.RecoveryDecided("", Rung.RESTART_RANK, "x", (0,), Blame.INFRASTRUCTURE, True, 0, 0, (), (), ())
PLACED = r.JobPlaced("ant-2", (1, 1), (0, 1), ())
NOTHING_LOST = r.RanksLost("ant-2", (), 0, 0, "there is room again")
DECIDED: list[r.Record] = [RULED, PLACED, KILLED, replace(VERDICT, job="ant-2", rule="jobRules[0]")]
OUT_BY_RULE = r.NodeQuarantined("n1", "it matches (nodeRules[0] of ant)", HandlingLevel.ISOLATE, ())
JUDGED = r.NodeJudged("ant-2", "n1", ("nodeRules[0]: x",))
BROAD = (
    r.JobUnplaced("moe-1", "x"),
    r.JobPlaced("moe-1", (0, 2), (0, 0), ()),
    r.NodeCordoned("n0", "operator", "x", drain=True),
)
POLICY = Policy()

FIRES = {
    "S2 a cordoned node": (OnlyWhereWorkMayGo(), [r.NodeCordoned("n3", "ann", "x")],
        r.RanksMoved("moe-1", (0,), (3,), (0,)), "cordoned by ann"),
    "S2 a dead node": (OnlyWhereWorkMayGo(), [r.LivenessChanged(("n3",), NodeLiveness.DEAD, "x")],
        r.RanksMoved("moe-1", (0,), (3,), (0,)), "is DEAD"),
    "S2 a quarantined node": (OnlyWhereWorkMayGo(), [TAKEN_OUT], r.RanksMoved("moe-1", (0,), (3,), (0,)),
        "cordoned by health"),
    "S2 a node out of sight": (OnlyWhereWorkMayGo(),
        [r.LivenessChanged(("n3",), NodeLiveness.ALIVE, "x", path_broken=True)],
        r.RanksMoved("moe-1", (0,), (3,), (0,)), "out of sight"),
    "S2 a newcomer": (OnlyWhereWorkMayGo(), [*COMMITTED, r.LivenessChanged(("n0",), NodeLiveness.SUSPECT, "x")],
        AGAIN, "is SUSPECT"),
    "S3 an old shard": (OldWritersAreHarmless(), [*COMMITTED, AGAIN], shard(1, 1, 60), "2 is in force"),
    "S4 a generation": (NumbersGrow(), [*COMMITTED, AGAIN], AGAIN, "starts after generation 2"),
    "S4 an epoch": (NumbersGrow(), [], r.ControllerStarted(1, "0"), "epoch 1 begins after epoch 1"),
    "S4 a process": (NumbersGrow(), [], r.HostsRequested("moe-1", (2,), (0,)), "a second time"),
    "S5 unfinished": (StartsFromARestorePoint(), [shard(0)], AGAIN, "without the shards of ranks [1]"),
    "S5 poisoned": (StartsFromARestorePoint(), [*COMMITTED, r.CheckpointPoisoned("moe-1", "moe-1/g1/step-20", "x")],
        AGAIN, "which is POISONED"),
    "S5 unknown": (StartsFromARestorePoint(), [], AGAIN, "does not exist"),
    "S5 another step": (StartsFromARestorePoint(), COMMITTED, replace(AGAIN, restore_step=21), "is of step 20"),
    "S7 issued twice": (DurableBeforeSent(), [ISSUED], ISSUED, "a second time"),
    "S7 two outcomes": (DurableBeforeSent(), [ISSUED, r.EffectsFinished(("e1",), ok=True)],
        r.EffectsFinished(("e1",), ok=True), "second outcome"),
    "S9 over the cap": (BudgetHolds(replace(POLICY.actions, share=0.1)),
        [r.JobUnplaced("moe-1", "x"), r.JobPlaced("moe-1", (0, 1, 2), (0, 0, 0), ()), WORKS, *DRAINED],
        r.NodeCordoned("n2", "operator", "x", drain=True), "3 working nodes"),
    "S9 quarantines count": (BudgetHolds(replace(POLICY.actions, share=0.1)),
        [r.JobUnplaced("moe-1", "x"), r.JobPlaced("moe-1", (0, 1, 2), (0, 0, 0), ()), WORKS, *DRAINED],
        replace(TAKEN_OUT, node="n2"), "3 working nodes of the site"),
    "S9 in a domain": (BudgetHolds(POLICY.actions),
        [replace(registered("n4", "r4"), labels=(("rack", "r4"), ("power", "p0"))),
        replace(registered("n5", "r5"), labels=(("rack", "r5"), ("power", "p0"))),
        r.JobUnplaced("moe-1", "x"), r.JobPlaced("moe-1", (4, 5), (0, 0), ()), WORKS, replace(TAKEN_OUT, node="n4")],
        replace(TAKEN_OUT, node="n5"), "2 working nodes of power p0"),
    "S10 the last good": (LastGoodIsKept(), [*VERIFIED, *NEWER],
        r.CheckpointsExpired("moe-1", ("moe-1/g1/step-20",)), "newest VERIFIED"),
    "S10 a pinned one": (LastGoodIsKept(), [*VERIFIED, *NEWER, r.CheckpointVerified("moe-1", "moe-1/g1/step-40"),
        r.CheckpointPinned("moe-1", "moe-1/g1/step-20", "ann", "x")],
        r.CheckpointsExpired("moe-1", ("moe-1/g1/step-20",)), "pinned by ann"),
    "S11 without a command": (OwnersKeepTheirReasons(), [r.NodeCordoned("n0", "ann", "x")],
        r.NodeUncordoned("n0", "ann"), "taken back by Tick"),
    "S11 a release": (OwnersKeepTheirReasons(), [TAKEN_OUT], r.NodeReleased("n3", "x"), "not by an operator"),
    "rules: another one": (RulesAreObeyed(), [RULED, KILLED], replace(VERDICT, job="ant-2"), "matches first"),
    "rules: none matches": (RulesAreObeyed(), [RULED, EXITED], replace(VERDICT, job="ant-2", rule="jobRules[0]"),
        "no rule of ant-2 matches first"),
    "rules: something else follows": (RulesAreObeyed(), [RULED, KILLED],
        replace(VERDICT, job="ant-2", rule="jobRules[0]"), "says suspend, and RESTART_RANK follows"),
    "rules: it grows where ranks were lost": (RulesAreObeyed(), [RULED, KILLED],
        replace(VERDICT, job="ant-2", rung=Rung.GROW, charged=False), "ranks [0] were lost"),
    "rules: growing is charged": (RulesAreObeyed(), [RULED, NOTHING_LOST],
        replace(VERDICT, job="ant-2", rung=Rung.GROW), "the infrastructure ledger is asked"),
    "rules: it grows by who is there": (RulesAreObeyed(), [RULED, PLACED, NOTHING_LOST],
        replace(VERDICT, job="ant-2", rung=Rung.GROW, charged=False), "ranks [0], which take part already"),
    "roots: a rule takes a node out of itself": (RootsAreJudgedOnce(), [RULED, PLACED, KILLED], OUT_BY_RULE,
        "no verdict asked for it"),
    "roots: a cordon of itself": (RootsAreJudgedOnce(), [], r.NodeCordoned("n3", "rules", "x"), "no verdict asked for it"),
    "roots: another node": (RootsAreJudgedOnce(), DECIDED, replace(OUT_BY_RULE, node="n2"), "which was on n1"),
    "roots: where its rank went": (RootsAreJudgedOnce(), [*DECIDED, r.RanksMoved("ant-2", (0,), (2,), (0,)), DECIDED[-1]],
        replace(OUT_BY_RULE, node="n2"), "which was on n1"),
    "roots: taken twice": (RootsAreJudgedOnce(), [*DECIDED, OUT_BY_RULE, DECIDED[-1]],
        replace(OUT_BY_RULE, reason="silent corruption: results disagreed"), "a second time for one loss of ant-2"),
    "roots: judged twice": (RootsAreJudgedOnce(), [*DECIDED, JUDGED, DECIDED[-1]], JUDGED, "a second time"),
    "roots: judged elsewhere": (RootsAreJudgedOnce(), DECIDED, replace(JUDGED, node="n0"), "the root was on n1"),
    "roots: judged without a verdict": (RootsAreJudgedOnce(), [RULED, PLACED, KILLED], JUDGED, "without a verdict"),
    "roots: said and not done": (RootsAreJudgedOnce(), DECIDED, replace(JUDGED, action="quarantineNode"),
        "health has no cordon on it"),
    "rules: a node is left alone": (RulesAreObeyed(), [RULED, KILLED], r.NodeJudged("ant-2", "n0", ()),
        "say quarantineNode of n0"),
}  # fmt: skip


@pytest.mark.parametrize(("checker", "before", "last", "says"), FIRES.values(), ids=list(FIRES))
def test_it_fires(checker: Checker, before: list[r.Record], last: r.Record, says: str) -> None:
    told = judge(checker, (*BEGIN, *before), last)
    assert len(told) == 1
    assert says in told[0]


QUIET = {
    "S2 a survivor": (OnlyWhereWorkMayGo(), [*COMMITTED, r.LivenessChanged(("n1",), NodeLiveness.SUSPECT, "x")], AGAIN),
    "S3 the same generation": (OldWritersAreHarmless(), [shard(0)], shard(1)),
    "S5 a complete one": (StartsFromARestorePoint(), COMMITTED, AGAIN),
    "S9 a node without ranks": (BudgetHolds(replace(POLICY.actions, share=0.1)), DRAINED,
        r.NodeCordoned("n3", "operator", "x", drain=True)),
    "S10 an older one": (LastGoodIsKept(), [*VERIFIED, *NEWER, r.CheckpointVerified("moe-1", "moe-1/g1/step-40")],
        r.CheckpointsExpired("moe-1", ("moe-1/g1/step-20",))),
    "rules: it grows": (RulesAreObeyed(), [RULED, NOTHING_LOST],
        replace(VERDICT, job="ant-2", rung=Rung.GROW, charged=False)),
    "roots: where it was": (RootsAreJudgedOnce(), DECIDED, OUT_BY_RULE),
    "roots: judged and done": (RootsAreJudgedOnce(), [*DECIDED, OUT_BY_RULE], replace(JUDGED, action="quarantineNode")),
    "roots: health's own": (RootsAreJudgedOnce(), [], TAKEN_OUT),
    "roots: an operator's": (RootsAreJudgedOnce(), [], r.NodeCordoned("n3", "operator", "x")),
    "rules: it is obeyed": (RulesAreObeyed(), [RULED, KILLED],
        replace(VERDICT, job="ant-2", rung=Rung.SUSPEND, rule="jobRules[0]")),
    "S9 a job that recovers": (BudgetHolds(replace(POLICY.actions, share=0.1)),
        [r.JobUnplaced("moe-1", "x"), r.JobPlaced("moe-1", (0, 1, 2), (0, 0, 0), ()),
        r.JobStateChanged("moe-1", JobState.RECOVERING), *DRAINED], replace(TAKEN_OUT, node="n2")),
    "S11 the controller's own": (OwnersKeepTheirReasons(), [r.NodeCordoned("n0", "fencing", "x")],
        r.NodeUncordoned("n0", "fencing")),
}  # fmt: skip


@pytest.mark.parametrize(("checker", "before", "last"), QUIET.values(), ids=list(QUIET))
def test_it_is_quiet(checker: Checker, before: list[r.Record], last: r.Record) -> None:
    assert judge(checker, (*BEGIN, *before), last) == []


def test_a_job_with_node_rules_has_the_place_of_every_loss_judged() -> None:
    checker, book = RootsAreJudgedOnce(), Book()
    for number, record in enumerate([*BEGIN, *DECIDED], start=1):
        if type(record) in checker.watches:
            assert not list(checker.record(Durable(record, number, number * S, "Tick"), book))
        book.fold(record, number, number * S)
    state: Any = None
    found = [finding.text for finding in checker.turn(state, book, state)]
    assert found == ["ant-2 has node rules, and nobody judged where rank 0 was when it was lost"]
    assert not list(checker.turn(state, book, state)), "it is said once"
