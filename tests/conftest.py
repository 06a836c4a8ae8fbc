"""Options and servers of the whole suite."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
"""Of a worker's many threads some are gRPC's; after a fork it would start them anew and complain on the stderr of whatever tool a
test runs. Where Phalanx itself forks, nobody has a channel."""

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
"""How long an example takes says something about the machine only."""

pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.racing", "tests.fixtures.workers"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate-golden", action="store_true", help="write golden stories and digests anew")


@pytest.fixture
def regenerate_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--regenerate-golden"))
