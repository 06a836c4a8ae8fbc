"""How fast peers are read: by hand-made clocks."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.config import parse_settings
from controlplane.core.identity import CELL, NODE
from controlplane.rpc.pace import (
    BURST,
    HELLO_BURST,
    HELLO_BYTES,
    LONGEST_REST_S,
    MANY,
    MAX_HELD,
    MAX_NAMES,
    Pace,
    Paces,
    PeerPace,
)

SETTINGS = parse_settings(["--dir", "x", "--listen", "127.0.0.1:1", "--metrics", "127.0.0.1:2", "--checkpoints", "y",
                           "--plaintext"])  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now_s


def test_an_honest_peer_costs_no_look_at_the_clock() -> None:
    clock = Clock()
    pace = Pace(10.0, 100.0, clock)
    looks = clock.looks
    assert all(pace.charge() for _ in range(100))
    assert clock.looks == looks


@pytest.mark.parametrize("step_s", [0.001, 0.01, 0.3])
def test_a_flood_passes_at_the_rate_after_the_burst(step_s: float) -> None:
    clock = Clock()
    pace = Pace(50.0, 200.0, clock)
    read, began_s = 0, clock.now_s
    while clock.now_s - began_s < 20:
        read += 1
        if not pace.charge():
            while rest_s := pace.rest_s():
                assert rest_s <= LONGEST_REST_S
                clock.now_s += rest_s
        clock.now_s += step_s if read % 50 == 0 else 0
    took_s = clock.now_s - began_s
    assert 50.0 * took_s * 0.9 <= read <= 2 * 200 + 50.0 * took_s + 1


def test_a_peer_that_stopped_has_its_burst_again() -> None:
    clock = Clock()
    pace = Pace(10.0, 100.0, clock)
    while pace.charge():
        pass
    clock.now_s += 60
    assert 100 <= sum(pace.charge() for _ in range(150)) <= 101  # what fills it is paid from what was there


def test_a_debt_is_no_larger_than_the_burst() -> None:
    clock = Clock()
    pace = Pace(10.0, 100.0, clock)
    assert not pace.charge(1e9)
    clock.now_s += 10.1
    assert pace.rest_s() == 0.0


def test_what_is_refused_costs_nothing() -> None:
    clock = Clock()
    pace = Pace(1.0, 3.0, clock)
    assert [pace.take() for _ in range(5)] == [True, True, True, False, False]
    clock.now_s += 1.0
    assert [pace.take() for _ in range(2)] == [True, False]


def test_names_have_limits_of_their_own_and_the_site_has_none() -> None:
    paces = Paces(SETTINGS)
    for number in range(6_250):
        limits = paces.of(f"node/{number}")
        assert limits.hellos.take()
        assert limits.messages.charge()
    assert paces.of("node/7") is paces.of("node/7")
    assert paces.of(f"{NODE}/a").messages.burst == BURST
    assert paces.of(f"{CELL}/a").messages.burst == MANY * BURST


def test_a_new_session_has_no_new_purse() -> None:
    paces = Paces(SETTINGS)
    assert sum(paces.of("node/a").hellos.take() for _ in range(100)) == HELLO_BURST


def test_large_hellos_cost_as_many_sessions() -> None:
    limits = Paces(SETTINGS).of("node/a")
    limits.weigh_hello(HELLO_BYTES - 1)
    assert limits.hellos.take(), "an honest one is not large"
    limits.weigh_hello(8 << 20)
    assert not limits.hellos.take()
    assert limits.hellos.debt_s() > 1, "the next one is let in when this one is paid"


def test_names_without_end_do_not_grow_it() -> None:
    paces = Paces(SETTINGS)
    first = paces.of("node/first")
    for number in range(MAX_NAMES):
        paces.of(f"node/{number}")
    assert paces.of("node/first") is not first


def test_so_many_are_held_and_the_others_are_told_at_once() -> None:
    async def hold_all(limits: PeerPace) -> int:
        held = [asyncio.create_task(limits.hold()) for _ in range(MAX_HELD)]
        await asyncio.sleep(0)
        assert limits.held == MAX_HELD
        await limits.hold()  # returns without a wait
        waiting = sum(not task.done() for task in held)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert limits.held == 0
        return waiting

    assert asyncio.run(hold_all(Paces(SETTINGS).of("node/a"))) == MAX_HELD
