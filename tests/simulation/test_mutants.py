"""A checker that never fires is no checker: every planted bug is found by seeds of the swarm.

`FOUND_BY` are seeds that are known to find a bug, so that this is quick; a change of the core changes what seeds do, so that
each bug has a few. `python -m tests.simulation all` finds new ones (it must take fewer than 200 each).
"""

from __future__ import annotations

import pytest

from controlplane.sim.swarm.run import run_seed
from tests.simulation.mutants import MUTANTS, planted

FOUND_BY: dict[str, tuple[int, ...]] = {}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name: str) -> None:
    with planted(name) as mutant:
        found = next((result for result in map(run_seed, FOUND_BY[name]) if not result.clean), None)
    assert found is not None, f"none of seeds {FOUND_BY[name]} finds it: python -m tests.simulation {name}"
    assert found.invariant in mutant.invariants, found.text
