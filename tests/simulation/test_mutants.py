"""A checker that never fires is no checker: every planted bug is found by seeds of the swarm.

`FOUND_BY` are seeds that are known to find a bug, so that this is quick; a change of the core changes what seeds do. The
others are looked for by the soak, in at most 200 seeds each: `python -m tests.simulation all`.
"""

from __future__ import annotations

import pytest

from controlplane.sim.swarm.run import run_seed
from tests.simulation.mutants import MUTANTS, planted

FOUND_BY: dict[str, tuple[int, ...]] = {
    "old_generations_may_write": (9,),
    "generations_are_reused": (1,),
    "a_record_is_written_otherwise_than_applied": (1,),
    "apply_counts_its_calls": (1,),
    "effects_leave_before_the_append": (1,),
    "copies_stay_where_they_were": (1,),
    "quarantines_know_no_budget": (70,),
    "places_are_judged_with_every_verdict": (4,),
    "node_rules_are_not_asked": (1,),
    "the_first_rule_is_passed_over": (2,),
    "what_is_unknown_matches": (4,),
    "effects_never_expire": (3,),
    "neighbours_hold_copies": (1,),
    "lost_progress_is_booked_twice": (1,),
    "any_node_will_do": (3,),
    "fence_is_not_waited_for": (27,),
    "unfinished_checkpoints_are_restored": (16,),
    "suspended_jobs_are_forgotten": (142,),
    "drains_know_no_budget": (1,),
    "retention_counts_only": (3,),
    "uncordon_removes_every_reason": (1,),
    "blockers_are_not_named": (11,),
    "the_dead_stay_dead": (5,),
    "spares_are_not_refilled": (1,),
    "many_silent_are_all_dead": (12,),
}
MOST_SEEDS = 200


@pytest.mark.parametrize("name", FOUND_BY)
def test_a_planted_bug_is_found(name: str) -> None:
    with planted(name) as mutant:
        found = next((result for result in map(run_seed, FOUND_BY[name]) if not result.clean), None)
    assert found is not None, f"none of seeds {FOUND_BY[name]} finds it: python -m tests.simulation {name}"
    assert found.invariant in mutant.invariants, found.text


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found_within_200_seeds(name: str) -> None:
    with planted(name) as mutant:
        results = map(run_seed, range(1, MOST_SEEDS + 1))
        assert any(result.invariant in mutant.invariants for result in results)
