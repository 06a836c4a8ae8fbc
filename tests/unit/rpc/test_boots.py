"""Which refused boots are told of the one that is known: those that cannot wait until it is past."""

from __future__ import annotations

import pytest

from controlplane.core.draft import Refusal
from controlplane.observability.beats import MAX_OFF_NS
from controlplane.rpc.boots import KNOWN_BOOT_KEY, ahead_ns, hello_refused

NOW_NS = 1_790_000_000 * 10**9
OLDER = Refusal("stale", "OLDER_BOOT", "older")


def boot(at_ns: int) -> str:
    return f"{at_ns // 1_000:020d}-0a1b2c3d"


def test_a_boot_from_our_future_is_told() -> None:
    known = boot(NOW_NS + 2 * MAX_OFF_NS)
    assert ahead_ns(known, NOW_NS) == 2 * MAX_OFF_NS
    assert hello_refused(OLDER, known, NOW_NS).metadata == ((KNOWN_BOOT_KEY, known),)


@pytest.mark.parametrize("known", ["", "1", "zzz", boot(NOW_NS), boot(NOW_NS + MAX_OFF_NS), boot(NOW_NS - MAX_OFF_NS)])
def test_who_is_older_than_a_boot_that_can_be_right_is_told_nothing(known: str) -> None:
    assert ahead_ns(known, NOW_NS) == 0
    assert hello_refused(OLDER, known, NOW_NS).metadata == ()


def test_other_refusals_say_nothing_of_boots() -> None:
    refused = hello_refused(Refusal("stale", "NODE_RETIRED", "retired"), boot(NOW_NS + 2 * MAX_OFF_NS), NOW_NS)
    assert refused.metadata == ()
    assert refused.refusal.reason == "NODE_RETIRED"
