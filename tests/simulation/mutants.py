"""Planted bugs of the core, one for each kind of promise: the swarm must find every one of them (test_mutants.py).

Each is a few lines that somebody could have written by mistake. `invariants`: who may be the first to notice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np

import controlplane.core.apply as applying
import controlplane.core.applying.recovery as recovery_records
import controlplane.core.commands.node as node_commands
import controlplane.core.health.quarantine as quarantining
import controlplane.core.observing.nodes as node_reports
import controlplane.core.settle as settling
import controlplane.core.sweep as sweeping
import controlplane.core.sweeping.liveness as sight
import controlplane.engine.turn as turns
import controlplane.sim.checkers.copies as copies_checked
import controlplane.sim.copies as held_copies
from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.accounting.ledger import Ledger
from controlplane.core.checkpoints import Checkpoint
from controlplane.core.draft import Answer, Draft
from controlplane.core.fleet import FREE, Cordon, Fleet
from controlplane.core.health.suspicion import Ground, Sight, SuspicionPolicy, judge
from controlplane.core.jobs import Job
from controlplane.core.observing import gathered
from controlplane.core.placement import gang
from controlplane.core.recovery import copies, rules, rungs
from controlplane.core.settling import binding, deciding, following, placing, upkeep
from controlplane.core.spec import RestartPolicy
from controlplane.core.state import State
from controlplane.core.vocabulary import Bucket, CheckpointState, NodeLiveness

Plant = Callable[[ExitStack], None]


@dataclass(frozen=True)
class Mutant:
    """A planted bug. `plant` puts it in; leaving the stack takes it out."""

    name: str
    invariants: tuple[str, ...]
    plant: Plant


MUTANTS: dict[str, Mutant] = {}


def mutant(*invariants: str) -> Callable[[Plant], Plant]:
    """Registers a planted bug under its function's name."""

    def add(plant: Plant) -> Plant:
        MUTANTS[plant.__name__] = Mutant(plant.__name__, invariants, plant)
        return plant

    return add


@contextmanager
def planted(name: str) -> Iterator[Mutant]:
    """The core with one bug in it."""
    found = MUTANTS[name]
    with ExitStack() as stack:
        found.plant(stack)
        yield found


def _swap(stack: ExitStack, where: Any, name: str, instead: Any) -> None:
    stack.enter_context(patch.object(where, name, instead))


@mutant("S1")
def fence_is_not_waited_for(stack: ExitStack) -> None:
    """A generation starts although processes of the one before may still run."""
    _swap(stack, binding, "_blocking", lambda draft, job: [])


@mutant("S2")
def any_node_will_do(stack: ExitStack) -> None:
    """Nobody asks whether a node takes work, neither for a new place nor for the one that a rank had."""

    def free(fleet: Fleet) -> Any:
        return fleet.usable_accelerators() & (fleet.acc_owner == FREE)

    _swap(stack, gang, "free_devices", free)
    for module in (rungs, binding):
        _swap(stack, module, "misplaced", lambda job, fleet, ranks: ())


@mutant("S3")
def old_generations_may_write(stack: ExitStack) -> None:
    """A shard counts whichever generation wrote it."""

    _swap(stack, gathered, "in_force", lambda job, generation: True)


@mutant("S4")
def generations_are_reused(stack: ExitStack) -> None:
    """The number of a generation does not grow."""
    _swap(stack, Job, "next_generation", property(lambda job: max(job.generation, 1)))


@mutant("S5")
def unfinished_checkpoints_are_restored(stack: ExitStack) -> None:
    """Any checkpoint may be restored, complete or not."""
    _swap(stack, Checkpoint, "restorable", property(lambda known: known.state is not CheckpointState.EXPIRED))


@mutant("S6")
def a_record_is_written_otherwise_than_applied(stack: ExitStack) -> None:
    """What is forgotten in memory is not forgotten in the journal."""
    entry = turns.entry

    def other(state: State, record: r.Record, at_ns: int, cause: str) -> Any:
        if isinstance(record, r.HostsForgotten):
            record = replace(record, serials=())
        return entry(state, record, at_ns, cause)

    _swap(stack, turns, "entry", other)


@mutant("S6")
def apply_counts_its_calls(stack: ExitStack) -> None:
    """Applying the same record twice gives two states."""
    calls = itertools.count()
    generation = applying.generation

    def counting(state: State, record: r.GenerationStarted, at_ns: int) -> None:
        generation(state, record, at_ns)
        state.own_job(record.job).last_error = f"generation number {next(calls)}"

    _swap(stack, applying, "generation", counting)


@mutant("S7")
def effects_leave_before_the_append(stack: ExitStack) -> None:
    """A turn acts first and writes afterwards."""
    turn = turns.Engine.turn

    def eager(engine: turns.Engine, requests: Sequence[turns.Request], now_ns: int) -> turns.TurnResult:
        effects = turns.decide(engine.machine, engine.state, requests, now_ns, engine.soft).effects
        if effects:
            engine.submit(effects)
        return turn(engine, requests, now_ns)

    _swap(stack, turns.Engine, "turn", eager)


@mutant("S8")
def neighbours_hold_copies(stack: ExitStack) -> None:
    """Whatever shares a rack is taken for safe."""
    _swap(stack, copies, "shared_fate", lambda sites, original, holder: np.zeros(len(original), dtype=np.uint8))


@mutant("S8")
def copies_stay_where_they_were(stack: ExitStack) -> None:
    """Copies are placed once for a job's layout, and not again when its ranks move."""
    known: dict[int, copies.CopyPlan] = {}
    place = copies.place_copies

    def once(sites: copies.Sites) -> copies.CopyPlan:
        return known.setdefault(len(sites.node), place(sites))

    for module in (copies, held_copies, copies_checked):
        _swap(stack, module, "place_copies", once)


@mutant("S9")
def drains_know_no_budget(stack: ExitStack) -> None:
    """Any number of working nodes may be drained."""
    _swap(stack, node_commands, "refusal", lambda *_: "")


@mutant("S9")
def quarantines_know_no_budget(stack: ExitStack) -> None:
    """Health takes out as many working nodes as it likes."""
    _swap(stack, quarantining, "refusal", lambda *_: "")


@mutant("S10")
def retention_counts_only(stack: ExitStack) -> None:
    """The newest `keep` checkpoints stay, verified or not."""

    def oldest(checkpoints: Any, keep: int, current: str) -> tuple[str, ...]:
        usable = sorted((c for c in checkpoints if c.restorable), key=lambda c: (c.step, c.generation), reverse=True)
        return tuple(c.id for c in usable[keep:] if c.id != current and not c.pins)

    _swap(stack, upkeep, "expirable", oldest)


@mutant("S11")
def uncordon_removes_every_reason(stack: ExitStack) -> None:
    """One owner's word takes all reasons away."""
    cordons = applying.cordons

    def fewer(state: State, fleet: Fleet, number: int, reasons: tuple[Cordon, ...]) -> None:
        cordons(state, fleet, number, () if len(reasons) < len(fleet.facts[number].cordons) else reasons)

    _swap(stack, applying, "cordons", fewer)


@mutant("S12")
def lost_progress_is_booked_twice(stack: ExitStack) -> None:
    """What turned out to be wasted is added to its bucket and left in the other one."""

    def rebook(ledger: Ledger, job: Job, source: Bucket, target: Bucket, amount_ns: int) -> int:
        amount = max(0, min(amount_ns, job.ledger_ns.get(source, 0)))
        ledger.add(target, amount)
        job.ledger_ns = {**job.ledger_ns, target: job.ledger_ns.get(target, 0) + amount}
        return amount

    _swap(stack, recovery_records, "rebook", rebook)


@mutant("rules")
def the_first_rule_is_passed_over(stack: ExitStack) -> None:
    """Rules are read from the second one on."""
    choose = rules.choose

    def late(policy: RestartPolicy, case: rules.Case, **how: bool) -> rules.Choice:
        return choose(replace(policy, job_rules=policy.job_rules[1:]), case, **how)

    _swap(stack, rules, "choose", late)


@mutant("rules")
def what_is_unknown_matches(stack: ExitStack) -> None:
    """A condition on what nobody observed is taken to hold."""
    word = rules._word

    def lenient(what: str, wanted: Any, seen: str) -> str:
        return word(what, wanted, seen) if seen else ""

    _swap(stack, rules, "_word", lenient)


@mutant("rules")
def places_are_judged_with_every_verdict(stack: ExitStack) -> None:
    """Whenever an incident is decided again, the node on which its rank is by then is judged."""
    _swap(stack, rules, "counted_before", lambda job, root, offences: None)


@mutant("rules")
def node_rules_are_not_asked(stack: ExitStack) -> None:
    """Only the rung follows from an incident."""
    _swap(stack, following, "_judge_place", lambda draft, job, root: None)


@mutant("L1")
def suspended_jobs_are_forgotten(stack: ExitStack) -> None:
    """A job without room never looks for room again."""
    _swap(stack, settling, "resume", lambda draft, job: None)


@mutant("L1")
def blockers_are_not_named(stack: ExitStack) -> None:
    """A job waits and does not say for what."""

    def silent(draft: Draft, job: Job, blocker: str, state: Any = None) -> None:
        target = state or job.state
        if job.blocker or job.state is not target:
            draft.write(r.JobStateChanged(job.uid, target, ""))

    for module in (settling, placing, binding, deciding):
        _swap(stack, module, "say", silent)


@mutant("L2")
def the_dead_stay_dead(stack: ExitStack) -> None:
    """A node that was judged DEAD is never taken back."""
    node_hello = node_reports.node_hello

    def deaf(draft: Draft, event: ev.NodeHello) -> None:
        number = draft.fleet.number(event.node)
        if number is not None and draft.fleet.liveness[number] == NodeLiveness.DEAD:
            draft.reply = Answer()
            return
        node_hello(draft, event)

    _swap(stack, node_reports, "node_hello", deaf)


@mutant("L3")
def spares_are_not_refilled(stack: ExitStack) -> None:
    """A spare that was used is not replaced."""

    def kept(fleet: Fleet, job: Job, *_: Any) -> tuple[int, ...]:
        mine = set(job.nodes())
        return tuple(node for node in job.spare_nodes if node not in mine)

    _swap(stack, upkeep, "refill_spares", kept)


@mutant("L4")
def effects_never_expire(stack: ExitStack) -> None:
    """What nobody answers stays outstanding."""
    _swap(stack, sweeping, "effects", lambda draft: None)


@mutant("believing")
def many_silent_are_all_dead(stack: ExitStack) -> None:
    """Silence of many at once is believed."""

    def credulous(seen: Sight, policy: SuspicionPolicy) -> Any:
        belief = judge(seen, policy)
        belief.liveness[belief.ground == Ground.CORRELATED] = NodeLiveness.DEAD
        return belief

    _swap(stack, sight, "judge", credulous)
