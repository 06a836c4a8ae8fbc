"""What a kill cost, read from a step log: the benchmark's definitions."""

from __future__ import annotations

from tests.benchmarks.recovery.steplog import Recovery, carried_on, median_step_s, parse, recovery

MS = 1_000_000
KILLED_NS = 100 * MS


def log(*rows: tuple[int, int, str, int]) -> str:
    """Rows of (milliseconds, rank, event, step)."""
    return "".join(f"{at_ms * MS} {rank} {900 + rank} {event} {step}\n" for at_ms, rank, event, step in rows)


BEFORE = ((10, 0, "loaded", 0), (11, 1, "loaded", 0), (90, 0, "step", 12), (91, 1, "step", 12), (95, 0, "step", 13))


def test_a_kill_costs_until_the_last_rank_has_made_the_step_that_nobody_had_made() -> None:
    after = (
        (400, 0, "loaded", 10), (450, 1, "loaded", 10), (470, 0, "step", 11), (490, 0, "step", 13), (510, 0, "step", 14),
        (540, 1, "step", 14),
    )  # fmt: skip
    assert recovery(parse(log(*BEFORE, *after)), KILLED_NS, 2) == Recovery(0.35, 0.44, 3)


def test_a_step_that_survivors_finish_after_the_kill_is_not_a_new_one() -> None:
    late = (105, 0, "step", 14)
    after = ((400, 0, "loaded", 10), (450, 1, "loaded", 10), (510, 0, "step", 14), (511, 1, "step", 14))
    assert recovery(parse(log(*BEFORE, late, *after)), KILLED_NS, 2) is None
    more = (*after, (530, 0, "step", 15), (535, 1, "step", 15))
    assert recovery(parse(log(*BEFORE, late, *more)), KILLED_NS, 2) == Recovery(0.35, 0.435, 4)


def test_an_attempt_that_fails_again_counts_until_the_one_that_works() -> None:
    first = ((300, 0, "loaded", 10), (301, 1, "loaded", 10), (320, 0, "step", 14))
    again = ((700, 0, "loaded", 10), (701, 1, "loaded", 10), (790, 0, "step", 14), (800, 1, "step", 14))
    assert recovery(parse(log(*BEFORE, *first, *again)), KILLED_NS, 2) == Recovery(0.601, 0.7, 3)


def test_not_recovered_while_a_rank_is_missing() -> None:
    assert recovery(parse(log(*BEFORE)), KILLED_NS, 2) is None
    assert recovery(parse(log(*BEFORE, (400, 0, "loaded", 10), (450, 0, "step", 14))), KILLED_NS, 2) is None


def test_survivors_that_go_on_are_judged_by_their_own_next_step() -> None:
    after = (
        (300, 0, "loaded", 13), (330, 0, "step", 14), (350, 0, "step", 15), (900, 0, "loaded", 20), (901, 1, "loaded", 20),
        (920, 0, "step", 21), (925, 1, "step", 21),
    )  # fmt: skip
    lines = parse(log(*BEFORE, *after))
    assert carried_on(lines, KILLED_NS, {0}) == Recovery(0.2, 0.23, 0)
    assert carried_on(lines, KILLED_NS, {0, 1}) == Recovery(0.801, 0.825, 0)
    assert carried_on(lines[:-1], KILLED_NS, {0, 1}) is None


def test_a_survivor_that_takes_the_state_after_the_step_of_the_others_has_come_back_all_the_same() -> None:
    # Rank 2 waits in the old group while 0 makes step 14, and is given its state: no line of it says step 14, ever.
    after = (
        (300, 0, "loaded", 13), (330, 0, "step", 14), (400, 0, "loaded", 14), (401, 2, "loaded", 14), (440, 2, "step", 15),
        (441, 0, "step", 15),
    )  # fmt: skip
    assert carried_on(parse(log(*BEFORE, *after)), KILLED_NS, {0, 2}) == Recovery(0.301, 0.34, 0)


def test_a_line_in_the_making_is_left_out() -> None:
    assert [line.step for line in parse(log((1, 0, "step", 1)) + "2000000 0 900 st")] == [1]


def test_step_times_do_not_reach_over_a_recovery() -> None:
    rows = ((0, 0, "loaded", 0), (20, 0, "step", 1), (40, 0, "step", 2), (900, 0, "loaded", 1), (930, 0, "step", 2))
    assert median_step_s(parse(log(*rows))) == 0.02
