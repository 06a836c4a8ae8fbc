"""One site per test session, and one undisturbed reference per workload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.site import TRAINER, RunningSite

POLICY = """[ladder]
grow_interval_ms = "2s"
"""
"""Ten minutes between changes of a job's size would be a long test."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    folder: Path = tmp_path_factory.mktemp("site")
    policy = folder.parent / "site.toml"
    policy.write_text(POLICY)
    running = RunningSite(folder, 5, "--policy", str(policy))
    yield running
    running.down()


@pytest.fixture(scope="session")
def reference(site: RunningSite) -> str:
    """Weights of an undisturbed run of the product's own trainer."""
    return site.undisturbed()


@pytest.fixture(scope="session")
def lone_experts(site: RunningSite) -> str:
    """The same where each rank has experts of its own, and nothing is saved to storage."""
    site.submit("alone", TRAINER, ep=4, spares=False, every=0)
    return str(site.finished("alone").result["weights_sha256"])
