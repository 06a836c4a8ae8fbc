"""Agents that send what no well-behaved agent sends, beside twenty that behave: each is bounded and named, the others are heard."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from phalanx.v1 import fleet_pb2

from tests.fixtures.controller_peers import FakeAgent
from tests.fixtures.controller_process import Controller, until


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    one = Controller(tmp_path_factory.mktemp("hostile")).start()
    yield one
    one.close()


def offence(controller: Controller, name: str, reason: str) -> fleet_pb2.Offence | None:
    """What the controller has noted of a peer."""
    rows = controller.fleet.ListOffenders(fleet_pb2.ListOffendersRequest(), timeout=30).offenders
    found = [one for row in rows if row.name == name for one in row.offences if one.reason == reason]
    return found[0] if found else None


def test_claims_10_000_devices(controller: Controller) -> None:
    agent = FakeAgent(controller, "greedy", accelerators=10_000)
    stream = agent.dial()
    until(stream.ended.is_set, "it is refused")
    found = offence(controller, "node/greedy", "INVALID_FIELD")
    assert found is not None
    assert "10000 rows" in found.message
