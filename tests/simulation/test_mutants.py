"""A checker that never fires is no checker: every planted bug is found by seeds of the swarm.

`FOUND_BY` are seeds that are known to find a bug, so that this is quick; a change of the core changes what seeds do, so that
each bug has a few. `python -m tests.simulation all` finds new ones (it must take fewer than 200 each).
"""

from __future__ import annotations

import pytest

from controlplane.sim.swarm.run import run_seed
from tests.simulation.mutants import MUTANTS, planted

FOUND_BY: dict[str, tuple[int, ...]] = {
    "fence_is_not_waited_for": (10, 12, 14, 17),
    "any_node_will_do": (1, 2, 3),
    "old_generations_may_write": (1, 5, 9),
    "generations_are_reused": (1,),
    "unfinished_checkpoints_are_restored": (2, 4, 5),
    "a_record_is_written_otherwise_than_applied": (1,),
    "apply_counts_its_calls": (1,),
    "effects_leave_before_the_append": (1,),
    "neighbours_hold_copies": (1,),
    "drains_know_no_budget": (3, 5, 9),
    "retention_counts_only": (1, 2),
    "uncordon_removes_every_reason": (3, 5, 9),
    "lost_progress_is_booked_twice": (1,),
    "suspended_jobs_are_forgotten": (4, 5, 10),
    "blockers_are_not_named": (3, 4, 5),
    "the_dead_stay_dead": (1,),
    "spares_are_not_refilled": (1,),
    "effects_never_expire": (4, 5, 8),
    "many_silent_are_all_dead": (1,),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name: str) -> None:
    with planted(name) as mutant:
        found = next((result for result in map(run_seed, FOUND_BY[name]) if not result.clean), None)
    assert found is not None, f"none of seeds {FOUND_BY[name]} finds it: python -m tests.simulation {name}"
    assert found.invariant in mutant.invariants, found.text
