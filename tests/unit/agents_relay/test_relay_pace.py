"""How fast a relay reads one agent, by a hand-made clock."""

from __future__ import annotations

from agents.relay.door import MOST_PER_S, Pace


class Clock:
    now_s = 10.0

    def __call__(self) -> float:
        return self.now_s


def test_an_honest_agent_never_waits() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(5 * MOST_PER_S):
        clock.now_s += 0.1
        assert pace.rest_s() == 0.0


def test_a_flood_is_read_so_fast_and_no_faster() -> None:
    clock = Clock()
    pace = Pace(clock)
    read, began_s = 0, clock.now_s
    while clock.now_s < began_s + 10:
        read += 1
        clock.now_s += pace.rest_s()
    assert read <= 10 * MOST_PER_S


def test_a_burst_waits_a_second_at_most_and_is_forgiven() -> None:
    clock = Clock()
    pace = Pace(clock)
    rests = [pace.rest_s() for _ in range(MOST_PER_S)]
    assert rests[:-1] == [0.0] * (MOST_PER_S - 1)
    assert rests[-1] == 1.0
    clock.now_s += 60
    assert sum(pace.rest_s() for _ in range(MOST_PER_S)) == 0.0
