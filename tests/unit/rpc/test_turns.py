"""The calls of one name take turns, by a hand-made clock."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from controlplane.core.identity import NODE, OPERATOR, RELAY, Role
from controlplane.observability import Metrics
from controlplane.rpc import turns
from controlplane.rpc.access import Access
from controlplane.rpc.caller import LOCAL, Caller
from controlplane.rpc.errors import RequestRefused
from controlplane.rpc.guard import Guard
from controlplane.rpc.open_calls import OpenCalls
from controlplane.rpc.pace import MANY
from controlplane.rpc.turns import CALL_BURST, CALLS_PER_S, Turns


def caller(kind: str, name: str = "a") -> Caller:
    return Caller(f"spiffe://site/{kind}/{name}", kind, name, Role.NONE)


class Clock:
    now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


def test_a_loop_of_calls_is_taken_at_the_rate_after_the_burst() -> None:
    clock = Clock()
    found = Turns(clock)
    waits = [found.wait_s(caller(NODE)) for _ in range(round(CALL_BURST) + 40)]
    assert waits[: round(CALL_BURST)] == [0.0] * round(CALL_BURST)
    assert waits[round(CALL_BURST) :] == pytest.approx([number / CALLS_PER_S for number in range(1, 41)])
    assert found.wait_s(caller(NODE, "b")) == 0.0, "every name has turns of its own"


def test_nobody_waits_longer_than_a_burst_takes() -> None:
    clock = Clock()
    found = Turns(clock)
    assert max(found.wait_s(caller(NODE)) for _ in range(20 * round(CALL_BURST))) <= CALL_BURST / CALLS_PER_S
    clock.now_s += CALL_BURST / CALLS_PER_S
    assert found.wait_s(caller(NODE)) <= 1 / CALLS_PER_S


def test_a_relay_calls_for_many_and_people_and_plaintext_have_no_turns() -> None:
    found = Turns(Clock())
    assert not any(found.wait_s(caller(RELAY)) for _ in range(MANY * round(CALL_BURST)))
    assert not any(found.wait_s(one) for one in (caller(OPERATOR), LOCAL) for _ in range(2 * round(CALL_BURST)))


def test_so_many_wait_and_the_next_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MAX_WAITING", 3)
    found = Turns(Clock())
    while not found.wait_s(caller(NODE)):
        pass

    async def crowd() -> None:
        waiting = [asyncio.create_task(found.wait(caller(NODE))) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(RequestRefused) as caught:
            await found.wait(caller(NODE))
        assert caught.value.refusal.reason == "TOO_MANY_STREAMS"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        again = asyncio.create_task(found.wait(caller(NODE)))
        await asyncio.sleep(0)
        assert not again.done(), "there is room again"
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)

    asyncio.run(crowd())


def test_names_without_end_do_not_grow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MAX_NAMES", 10)
    found = Turns(Clock())
    for number in range(100):
        found.wait_s(caller(NODE, f"n{number}"))
    assert len(found._known) == 10


def test_who_is_refused_waits_for_his_turn_as_well() -> None:
    """A refused call costs as much as any: a loop of them is no faster."""
    guard = Guard(Metrics(), 1_000, Access("site"), OpenCalls())
    waited: list[Caller] = []

    class Stranger:
        def auth_context(self) -> dict[str, list[bytes]]:
            return {}

    async def wait(one: Caller) -> None:
        waited.append(one)

    async def call() -> None:
        with pytest.raises(RequestRefused):
            await guard._admit("FleetService/ListNodes", cast("Any", Stranger()), "ipv4:10.0.0.1:7")

    guard._turns.wait = wait  # type: ignore[method-assign]
    asyncio.run(call())
    assert [one.kind for one in waited] == ["anonymous"]
