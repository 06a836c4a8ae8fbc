"""Numbers inside names that come from outside: whatever is no number of ours is none, and nothing breaks on it."""

from __future__ import annotations

import pytest

from agents.node.probes.quantity import GarbledError, quantity, whole
from controlplane.core.health.book import position_of
from controlplane.core.jobs import split_host_id

STRANGE = ["²", "1²", "①", "", "-1", "+1", " 1", "9" * 5_000, "1e3", "0x1"]


@pytest.mark.parametrize("number", STRANGE)
def test_entities_and_host_ids_with_strange_numbers_are_nobodys(number: str) -> None:
    assert position_of(f"accelerator/{number}") == -1
    assert split_host_id(f"moe-1-{number}") in (None, ("moe-1-", 1)), number


@pytest.mark.parametrize("number", ["²", "1²", "", "-1", "9" * 5_000, "65536"])
def test_whole_numbers_are_digits_within_a_limit(number: str) -> None:
    assert whole(number, 65_535) is None
    assert whole(f"{7}", 65_535) == 7


@pytest.mark.parametrize("text", ["9" * 400, "1000000000000000078291540404596 MiB", "9007199254740994"])
def test_more_than_anything_there_is_is_garbled(text: str) -> None:
    with pytest.raises(GarbledError, match="more than anything"):
        quantity(text)
