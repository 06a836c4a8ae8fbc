"""Pairs in two rounds: one bad node is named, and no bad node is ever cleared."""

from __future__ import annotations

from itertools import combinations

import pytest

from controlplane.core.health.pairing import Pair, Verdicts, first_round, second_round, verdicts


def judged(count: int, bad: set[int]) -> tuple[Verdicts, int]:
    """The verdicts on `count` nodes, and the number of waves that it took."""
    nodes = [f"n{number:03d}" for number in range(count)]
    ill = {nodes[number] for number in bad}
    results: dict[Pair, bool] = {pair: not ill & {*pair} for pair in first_round(nodes)}
    waves = second_round(nodes, results)
    for wave in waves:
        used = [node for pair in wave for node in pair]
        assert len(used) == len(set(used)), "nobody works in two pairs at once"
        results |= {pair: not ill & {*pair} for pair in wave}
    found = verdicts(nodes, results)
    assert found.cleared | found.convicted | found.suspects == {*nodes}
    assert not found.cleared & ill
    assert found.convicted <= ill
    return found, 1 + len(waves)


@pytest.mark.parametrize("count", [4, 5, 6, 7, 8, 9, 33, 64])
def test_any_single_bad_node_is_named_in_two_rounds_and_all_others_are_cleared(count: int) -> None:
    for bad in range(count):
        found, rounds = judged(count, {bad})
        assert found.convicted == {f"n{bad:03d}"}
        assert not found.suspects
        assert rounds <= (3 if count == 5 else 2), "three suspects of five share two sound nodes"


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 9])
def test_two_bad_nodes_are_never_cleared_and_nobody_else_is_convicted(count: int) -> None:
    for pair in combinations(range(count), 2):
        judged(count, {*pair})


@pytest.mark.parametrize("count", [6, 7, 12])
def test_two_bad_nodes_among_enough_sound_ones_are_both_named(count: int) -> None:
    for pair in combinations(range(count), 2):
        found, _ = judged(count, {*pair})
        assert found.convicted == {f"n{number:03d}" for number in pair}


def test_sound_nodes_are_cleared_and_only_an_odd_one_needs_a_second_round() -> None:
    assert judged(8, set()) == (Verdicts(frozenset(f"n{n:03d}" for n in range(8)), frozenset(), frozenset()), 1)
    found, rounds = judged(9, set())
    assert (len(found.cleared), rounds) == (9, 2)


def test_where_all_are_bad_nobody_is_cleared_and_nobody_is_guessed() -> None:
    found, _ = judged(8, set(range(8)))
    assert len(found.suspects) == 8


def test_of_three_the_bad_one_is_named_or_both_stay_suspects() -> None:
    for bad in range(3):
        found, _ = judged(3, {bad})
        assert f"n{bad:03d}" in found.convicted | found.suspects


def test_a_pair_without_a_result_proves_nothing() -> None:
    found = verdicts(["a", "b", "c", "d"], {("a", "b"): True})
    assert found.suspects == {"c", "d"}


def test_a_pair_of_strangers_is_refused() -> None:
    with pytest.raises(ValueError, match="no pair of these 2 nodes"):
        verdicts(["a", "b"], {("a", "x"): True})
