"""One controller for all tests that shoot at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.generator import SEED, Generator, show
from tests.fuzz.target import Target


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    target = Target(tmp_path_factory.mktemp("fuzz"))
    try:
        yield target
    finally:
        target.close()


@pytest.fixture
def generator(target: Target) -> Generator:
    show(f"PHALANX_FUZZ_SEED={SEED}")
    return Generator(SEED, target.words)
