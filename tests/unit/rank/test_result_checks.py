"""Checks of results: who is the odd one, and trainers (as threads) in which one bit is flipped."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from agents.rank import ReplicaDivergence, WorkloadRefused
from agents.rank.checks import StateMark, StepReplay, digest
from agents.rank.checks.compare import Culprits, culprits, disagreement, minority, pack, unpack
from agents.rank.checks.flip import Flip
from agents.rank.checks.replay import Suspect, Tables, suspects
from tests.fixtures.checked_trainers import Outcome, run
from tests.fixtures.thread_groups import Left
from training_jobs.moe.config import train_config

GOOD, BAD, WORSE = b"a" * 16, b"b" * 16, b"c" * 16


def marks(*states: bytes) -> tuple[StateMark, ...]:
    return tuple(StateMark(step, state) for step, state in enumerate(states, 1))


@pytest.mark.parametrize("bit", [0, 10, 22, 30, 31])
def test_a_digest_changes_with_every_bit(bit: int) -> None:
    tensor = torch.linspace(-1, 1, 1_000).reshape(10, 100)
    before = digest((tensor,))
    Flip("weights", "dense", 0, 1, bit, 777).strike("weights", "dense", 0, 1, tensor)
    assert digest((tensor,)) != before
    assert digest((tensor[:5], tensor[5:])) == digest((tensor,)), "of the bytes, however they are cut"


def test_marks_travel() -> None:
    told = (StateMark(7, GOOD, BAD), StateMark(1 << 40, WORSE))
    assert unpack(pack(told)) == told
    with pytest.raises(ValueError, match="41 bytes"):
        unpack(bytes(41))


def test_the_first_difference_counts_and_the_majority_is_right() -> None:
    tables = [marks(GOOD, GOOD, BAD), marks(GOOD, BAD, BAD), marks(GOOD, GOOD, WORSE)]
    found = disagreement(tables)
    assert found is not None
    assert (found.index, found.step, found.what, found.odd) == (1, 2, "state", (1,))
    assert disagreement([marks(GOOD), marks(GOOD)]) is None
    assert minority([GOOD, BAD]) == ()
    assert minority([GOOD, BAD, WORSE]) == ()
    other_steps = disagreement([marks(GOOD), marks(GOOD, GOOD)])
    assert other_steps is not None
    assert other_steps.odd == ()


@pytest.mark.parametrize(
    ("first", "again", "wanted"),
    [
        ([GOOD, BAD, GOOD], [GOOD, GOOD, GOOD], Culprits((1,), persistent=False)),
        ([GOOD, BAD], [GOOD, GOOD], Culprits((1,), persistent=False)),
        ([BAD, GOOD], [GOOD, GOOD], Culprits((0,), persistent=False)),
        ([GOOD, BAD, GOOD], [GOOD, BAD, GOOD], Culprits((1,), persistent=True)),
        ([BAD, GOOD], [BAD, GOOD], Culprits((0,), persistent=True)),  # what it loaded, GOOD, did not stay
        ([BAD, WORSE], [BAD, WORSE], Culprits((0, 1), persistent=True, decided=False)),
        ([BAD, WORSE], [GOOD, GOOD], Culprits((0, 1), persistent=False, decided=False)),
    ],
)
def test_who_was_wrong_after_a_replay(first: list[bytes], again: list[bytes], wanted: Culprits) -> None:
    replayed = [marks(state) for state in again]
    before = disagreement([marks(state) for state in first])
    assert before is not None
    assert culprits(before, disagreement(replayed), replayed, GOOD) == wanted


def test_who_was_wrong_cannot_be_said_of_two_that_differ_after_the_start() -> None:
    replayed = [marks(GOOD, BAD), marks(GOOD, WORSE)]
    again = disagreement(replayed)
    assert again is not None
    assert not culprits(again, again, replayed, GOOD).decided


def row(kind: bytes, value: bytes) -> bytes:
    return kind + value


@pytest.mark.parametrize(
    ("own", "other", "own_again", "other_again", "third", "wanted"),
    [
        # one run of member 1 was wrong
        ("axa", "aaa", "aaa", "aaa", "aaa", [Suspect(1, persistent=False)]),
        # member 0 was wrong when it did the work of member 1
        ("aaa", "xaa", "aaa", "aaa", "aaa", [Suspect(0, persistent=False)]),
        # member 1 is always wrong: a third one says so
        ("axa", "axa", "axa", "axa", "axa", [Suspect(1, persistent=True)]),
        # of two nobody can say
        ("ax", "ax", "ax", "ax", "", [Suspect(0, persistent=True, decided=False), Suspect(1, persistent=True, decided=False)]),
        ("xa", "aa", "aa", "aa", "", [Suspect(0, persistent=False)]),
        # a rank without a replica does its own work again
        ("a", "x", "a", "a", "", [Suspect(0, persistent=False)]),
        ("a", "x", "y", "z", "", [Suspect(0, persistent=True)]),
        ("aaa", "aaa", "aaa", "aaa", "aaa", []),
    ],
)  # fmt: skip
def test_who_computed_something_else(  # noqa: PLR0917
    own: str, other: str, own_again: str, other_again: str, third: str, wanted: list[Suspect]
) -> None:
    def table(text: str) -> list[bytes]:
        return [row(b"g", letter.encode() * 16) for letter in text]

    tables = Tables(table(own), table(other), table(own_again), table(other_again), table(third))
    assert suspects(tables) == wanted


def test_what_was_received_wrong_began_elsewhere() -> None:
    clean = row(b"s", GOOD) + row(b"r", GOOD) + row(b"g", GOOD)
    fed = row(b"s", GOOD) + row(b"r", BAD) + row(b"g", BAD)
    assert suspects(Tables([fed, clean], [clean, clean], [clean] * 2, [clean] * 2, [b""] * 2)) == []


def test_a_share_of_the_steps() -> None:
    assert [StepReplay.every(rate) for rate in (1, 0.25, 0.01)] == [1, 4, 100]
    with pytest.raises(ValueError, match=r"a share of 1\.5 steps"):
        StepReplay.every(1.5)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("weights/dense", "is not place/part"),
        ("disk/dense/rank=1/step=2/bit=3/index=4", "a place of weights"),
        ("weights/dense/rank=1/step=2/bit=32/index=4", "0 to 31"),
        ("weights/dense/rank=1/step=x/bit=3/index=4", "invalid literal"),
    ],
)
def test_a_flip_that_says_nothing_is_refused(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Flip.parse(text)


@pytest.mark.parametrize("args", [{"check_every": 1_001}, {"check_every": -1}, {"replay_rate": 1.2}])
def test_arguments_out_of_range_are_refused(args: dict[str, float]) -> None:
    with pytest.raises(WorkloadRefused, match=next(iter(args))):
        train_config(args)


def test_a_bit_that_is_stuck_keeps_what_it_was_not() -> None:
    tensor = torch.tensor([1.0, 2.0])
    flip = Flip.parse("weights/dense/rank=0/step=1/bit=0/index=3/stuck")
    for _ in range(2):
        tensor[1] = 2.0
        flip.strike("weights", "dense", 0, 5, tensor)
        assert int(tensor.view(torch.int32)[1]) & 1
    assert (flip.done, tensor[0].item()) == (2, 1.0)


def named(outcomes: list[Outcome]) -> dict[int, bool]:
    """Ranks that left with a divergence, with whether it was persistent; the others lost a peer."""
    wrong = {
        rank: one.error.persistent for rank, one in enumerate(outcomes) if isinstance(one.error, ReplicaDivergence)
    }
    assert all(isinstance(one.error, Left) for rank, one in enumerate(outcomes) if rank not in wrong), outcomes
    return wrong


@pytest.mark.parametrize(
    ("ep", "flip", "wanted", "step"),
    [
        (1, "weights/dense/rank=2/step=7/bit=0/index=100", {2: False}, 10),
        (1, "exp_avg/experts/rank=3/step=8/bit=0/index=5/stuck", {3: True}, 10),
        (2, "exp_avg_sq/experts/rank=0/step=8/bit=10/index=5", {0: False}, 10),
        (2, "gradient/dense/rank=2/step=8/bit=0/index=77", {2: False}, 7),
        (2, "activation/experts/rank=1/step=8/bit=20/index=3", {1: False}, 7),
        (1, "activation/dense/rank=1/step=6/bit=22/index=3/stuck", {1: True}, 7),
        (2, "weights/experts/rank=1/step=7/bit=0/index=100", {1: False}, 7),
    ],
)
def test_a_flipped_bit_names_its_rank(ep: int, flip: str, wanted: dict[int, bool], step: int) -> None:
    outcomes = run(12, ep=ep, check_every=5, replay_rate=0.25, seed=1232, flip=flip)
    assert named(outcomes) == wanted
    assert {one.step for one in outcomes} == {step}


def test_a_gradient_that_nobody_computes_twice_passes_and_is_alike_on_all() -> None:
    outcomes = run(12, check_every=5, flip="gradient/dense/rank=2/step=8/bit=28/index=4200")
    assert all(one.error is None for one in outcomes)
    assert outcomes[0].loss != run(12)[0].loss


def test_checks_change_no_bit() -> None:
    plain, checked = run(8, ep=2), run(8, ep=2, check_every=3, replay_rate=0.5)
    assert plain == checked
    assert all(one == other for one, other in pairwise(plain))
