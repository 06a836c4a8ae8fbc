"""One site per test session, and one undisturbed reference per workload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.site import RunningSite


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    folder: Path = tmp_path_factory.mktemp("site")
    running = RunningSite(folder, nodes=5)
    yield running
    running.down()


@pytest.fixture(scope="session")
def reference(site: RunningSite) -> str:
    """Weights of an undisturbed run of the product's own trainer."""
    return site.undisturbed()
