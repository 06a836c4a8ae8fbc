"""Who hangs, by the stacks and collectives of all ranks: a table of what may be found, and what it means."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from controlplane.core.health.standstill import UNREAD, Calls, StackGroup, Stacks, Verdict, judge, merged, shortly

PLACES = ("train.py:step < train.py:main (in group.py:all_reduce)", "data.py:load < train.py:main")
IN, OUT = 0, 1


def gang(
    places: list[int], *, stopped: tuple[int, ...] = (), moved: tuple[int, ...] = (), ranks: list[int] | None = None
) -> Stacks:
    """Ranks at places; who is at IN waits in a collective. Nobody counts collectives."""
    rank = np.array(ranks if ranks is not None else range(len(places)), dtype=np.int64)
    place = np.array(places, dtype=np.int64)
    return Stacks(rank, place, place == IN, np.isin(rank, stopped), np.isin(rank, moved), PLACES, Calls.none())


def counted(
    stacks: Stacks, rows: list[tuple[int, int, int, bool]], groups: tuple[str, ...] = ("dp:1", "ep:2")
) -> Stacks:
    """The same with rows (rank, group, issued, waits); who waits by them is inside, and nobody else."""
    table = [np.array(column) for column in zip(*rows, strict=True)]
    calls = Calls(table[0], table[1], np.zeros(len(rows), dtype=np.int64), table[2], table[3].astype(np.bool_))
    inside = np.isin(stacks.rank, [rank for rank, _, _, waits in rows if waits])
    return replace(stacks, calls=calls, inside=inside, groups=groups, operations=("all_reduce",))


def found(stacks: Stacks, ranks: int) -> tuple[Verdict, list[int]]:
    finding = judge(stacks, np.arange(ranks), lambda rank: f"n{rank}")
    return finding.verdict, finding.odd.tolist()


WAITING = [(rank, 0, 7, True) for rank in range(3)]
CASES = [
    ("one loads data, by its stack alone", gang([IN, IN, IN, OUT]), (Verdict.ODD, [3])),
    ("one has not begun the collective of the others", counted(gang([IN] * 4), [*WAITING, (3, 0, 6, False)]), (Verdict.ODD, [3])),
    (
        "who is behind because it waits for another one is not the one",
        counted(gang([IN] * 4), [(0, 0, 7, True), (1, 0, 7, True), (2, 0, 6, False), (2, 1, 4, True), (3, 1, 3, False)]),
        (Verdict.ODD, [3]),
    ),
    ("a stopped one hangs wherever it was stopped", gang([IN] * 4, stopped=(2,)), (Verdict.ODD, [2])),
    ("half of them", gang([IN, IN, OUT, OUT]), (Verdict.ODD, [2, 3])),
    ("more than half are nobody's odd ones", gang([IN, OUT, OUT, OUT]), (Verdict.UNCLEAR, [])),
    ("all in the same collective", counted(gang([IN] * 3), WAITING), (Verdict.STUCK, [])),
    ("all load data", gang([OUT] * 4), (Verdict.UNCLEAR, [])),
    ("a collective ended while we looked", gang([IN, IN, IN, OUT], moved=(1,)), (Verdict.MOVING, [])),
    ("of one nothing was heard: it may be the one", gang([IN, IN, OUT]), (Verdict.UNCLEAR, [])),
    ("all that were heard wait", gang([IN, IN, IN]), (Verdict.UNCLEAR, [])),
    ("a stack that cannot be read accuses nobody", gang([IN, IN, IN, UNREAD]), (Verdict.UNCLEAR, [])),
    ("who was not asked for does not count", gang([IN, IN, IN, OUT, OUT], ranks=[0, 1, 2, 3, 9]), (Verdict.ODD, [3])),
    ("nobody answered", Stacks.none(), (Verdict.UNCLEAR, [])),
]  # fmt: skip


@pytest.mark.parametrize(("case", "stacks", "verdict"), CASES)
def test_verdicts(case: str, stacks: Stacks, verdict: tuple[Verdict, list[int]]) -> None:
    assert found(stacks, 4 if "same collective" not in case else 3) == verdict, case


def test_the_words_name_rank_node_place_and_collective() -> None:
    stacks = counted(gang([IN, IN, IN, OUT]), [*WAITING, (3, 0, 6, False)], ("data_parallel:00ab",))
    finding = judge(stacks, np.arange(4), lambda rank: f"n{rank}")
    assert finding.reason == (
        "3 of 4 ranks wait in all_reduce #7 of group data_parallel; rank 3 (node n3) is in data.py:load"
    )
    assert finding.groups[0] == StackGroup(((0, 3),), 3, f"in all_reduce #7 of group data_parallel: {PLACES[IN]}")
    assert finding.groups[1] == StackGroup(((3, 1),), 1, PLACES[OUT])
    assert shortly("a.py:f < b.py:g (in socket.py:recv)") == "a.py:f (in socket.py:recv)"


def test_answers_of_nodes_become_one_and_the_later_answer_of_a_rank_counts() -> None:
    first = counted(gang([IN, IN], ranks=[4, 5]), [(4, 0, 7, True), (5, 0, 7, True)], ("dp:1",))
    other = replace(
        counted(gang([IN, IN], ranks=[0, 5]), [(0, 0, 7, True), (5, 0, 6, False)], ("dp:9",)), places=PLACES[::-1]
    )
    whole = merged([first, other])
    assert whole.rank.tolist() == [0, 4, 5]
    assert [whole.places[place] for place in whole.place] == [PLACES[OUT], PLACES[IN], PLACES[OUT]]
    rows = zip(whole.calls.rank.tolist(), whole.calls.group.tolist(), whole.calls.issued.tolist(), strict=True)
    assert [(rank, whole.groups[group], issued) for rank, group, issued in rows] == [
        (4, "dp:1", 7),
        (0, "dp:9", 7),
        (5, "dp:9", 6),
    ]
    assert len(merged([]).rank) == 0


def test_a_gang_of_fifty_thousand_in_parts_is_judged_at_once_and_told_in_a_few_lines() -> None:
    count, width = 50_000, 8
    parts = []
    for start in range(0, count, width):
        ranks = [*range(start, start + width)]
        rows = [(rank, 0, 7 if rank != 17_003 else 6, rank != 17_003) for rank in ranks]
        parts.append(counted(gang([OUT if rank == 17_003 else IN for rank in ranks], ranks=ranks), rows, ("world:0",)))
    begun = time.monotonic()
    finding = judge(merged(parts), np.arange(count), lambda rank: f"n{rank // width}")
    assert time.monotonic() - begun < 20, "columns, not rows: 0.2 s here"
    assert (finding.verdict, finding.odd.tolist()) == (Verdict.ODD, [17_003])
    assert "rank 17003 (node n2125)" in finding.reason
    assert len(str(finding.groups)) < 2_000


def test_places_and_runs_beyond_a_verdict_are_counted() -> None:
    ranks = 100
    names = tuple(f"f{number}.py:run" for number in range(40))
    stacks = replace(
        gang([number % 40 for number in range(ranks)]), places=names, inside=np.zeros(ranks, dtype=np.bool_)
    )
    groups = judge(stacks, np.arange(ranks), str).groups
    assert groups[-1].where == "at 28 other places"
    assert sum(group.count for group in groups) == ranks
