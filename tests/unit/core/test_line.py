"""What of a job's past counts: the line of a job's starts, against a full account of its generations."""

from __future__ import annotations

import random

from agents.memory.state_file import Version
from controlplane.core.recovery.line import MOST_STARTS, Line, longer


def line_of(starts: list[int]) -> Line:
    line: Line = ()
    for generation, step in enumerate(starts, start=1):
        line = longer(line, generation, step)
    return line


def counts(line: Line, generation: int, step: int) -> bool:
    return Version(0, step, generation, whole=True).counts(line)


def test_a_start_from_an_earlier_step_ends_what_came_after_it() -> None:
    line = line_of([0, 60, 120])
    assert line == ((1, 0), (2, 60), (3, 120))
    assert counts(line, 1, 60)
    assert not counts(line, 1, 61), "generation 2 began at 60"
    assert counts(line, 2, 120)
    assert not counts(line, 2, 121)
    assert counts(line, 3, 500)


def test_a_rollback_takes_the_place_of_later_starts() -> None:
    line = line_of([0, 60, 120, 30])
    assert line == ((1, 0), (4, 30))
    assert not counts(line, 3, 120)
    assert counts(line, 2, 30)


def test_it_is_exact_while_it_is_short_and_refuses_more_when_it_is_cut() -> None:
    """Against the full account: a step of a generation counts when no later generation began before it."""
    dice = random.Random(3)
    for _ in range(300):
        starts, reached = [0], 0
        for _ in range(dice.randrange(60)):
            reached += dice.randrange(30)
            reached = dice.randrange(reached + 1) if dice.random() < 0.2 else reached
            starts.append(reached)
        line = line_of(starts)
        assert len(line) <= MOST_STARTS
        assert list(line) == sorted(line)
        cut = line[0][1] == 0 and line[0][0] != max(g for g, step in enumerate(starts, start=1) if step == 0)
        for generation in range(1, len(starts) + 1):
            for step in {*starts, *(s + 1 for s in starts)} - {0}:
                really = all(step <= start for start in starts[generation:])
                said = counts(line, generation, step)
                assert said == really or (cut and really), (starts, line, generation, step)
