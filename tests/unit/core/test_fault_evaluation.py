"""What a fault asks for, rule by rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.catalogues import built_in
from controlplane.core.health.book import FaultNote
from controlplane.core.health.catalogue import SoftwareGuard
from controlplane.core.health.faults import Handling, History, Sighting, device_state, evaluate, is_the_jobs_own
from controlplane.core.units import NS_PER_S
from controlplane.core.vocabulary import AcceleratorState, Assertion, HandlingLevel

CATALOGUE = built_in()
NOW = 10_000 * NS_PER_S
S = NS_PER_S


def fault(code: str, severity: str = "", *, ago_s: float = 0.0, once: bool = False) -> FaultNote:
    assertion = Assertion.ONCE if once else Assertion.OCCURRED
    return FaultNote(
        "accelerator/0", code, HandlingLevel.IGNORE, vendor="simulated", severity=severity, assertion=assertion,
        raised_ns=NOW - round(ago_s * S),
    )  # fmt: skip


def judged(note: FaultNote, **earlier_s: list[float]) -> Handling:
    """`earlier_s`: how long ago codes occurred before, with `_` for `-` in their names."""
    times = {code.replace("_", "-"): tuple(NOW - round(ago * S) for ago in agos) for code, agos in earlier_s.items()}
    return evaluate(CATALOGUE, History(lambda code: times.get(code, ())), note, NOW)


@pytest.mark.parametrize(
    ("code", "level"),
    [
        ("SIM-NOTE", "IGNORE"), ("SIM-WARM", "OBSERVE"), ("SIM-SLOW", "DEGRADED"), ("SIM-COLLECTIVE", "RETRY_STEP"),
        ("SIM-APP", "RESTART_PROCESS"), ("SIM-PAGES", "RESET_WHEN_IDLE"), ("SIM-HUNG", "RESET_NOW"),
        ("SIM-LEAK", "CORDON"), ("SIM-MEMORY", "ISOLATE"), ("SIM-DRIVER", "REBOOT_NODE"), ("SIM-DEAD", "RETURN_TO_VENDOR"),
    ],
)  # fmt: skip
def test_every_level_has_a_code_that_asks_for_it(code: str, level: str) -> None:
    assert judged(fault(code)).level is HandlingLevel[level]


def test_the_codes_of_the_simulated_table_cover_every_level() -> None:
    assert {rule.level for rule in CATALOGUE.rules.values()} == set(HandlingLevel)


@pytest.mark.parametrize(
    ("severity", "level"),
    [
        ("minor", HandlingLevel.OBSERVE),
        ("hint", HandlingLevel.OBSERVE),
        ("major", HandlingLevel.ISOLATE),
        ("critical", HandlingLevel.ISOLATE),
        ("", HandlingLevel.ISOLATE),
        ("harmless", HandlingLevel.ISOLATE),
    ],
)
def test_a_code_that_is_in_no_table(severity: str, level: HandlingLevel) -> None:
    found = judged(fault("NOBODY-KNOWS-IT", severity))
    assert found.level is level
    assert "no table knows it" in found.reason


def test_a_code_of_another_vendor_is_not_known() -> None:
    assert judged(replace(fault("SIM-WARM"), vendor="acme")).level is HandlingLevel.ISOLATE


def test_a_port_must_stay_down_for_20_seconds() -> None:
    fresh = judged(fault("SIM-PORT-DOWN"))
    assert (fresh.level, fresh.until_ns, fresh.held) == (HandlingLevel.OBSERVE, NOW + 20 * S, False)
    assert judged(fault("SIM-PORT-DOWN", ago_s=19.9)).level is HandlingLevel.OBSERVE
    assert judged(fault("SIM-PORT-DOWN", ago_s=20.0)) == Handling(
        HandlingLevel.ISOLATE, "SIM-PORT-DOWN is ISOLATE (Phalanx, for trials, 2026-11-22): a network port is down"
    )


@pytest.mark.parametrize(
    ("earlier", "level"),
    [
        ([], HandlingLevel.OBSERVE),
        ([100.0], HandlingLevel.OBSERVE),
        ([100.0, 200.0], HandlingLevel.ISOLATE),
        ([100.0, 599.0], HandlingLevel.ISOLATE),
        ([100.0, 601.0], HandlingLevel.OBSERVE),
        ([601.0, 602.0, 603.0], HandlingLevel.OBSERVE),
    ],
)
def test_the_same_code_three_times_in_ten_minutes(earlier: list[float], level: HandlingLevel) -> None:
    found = judged(fault("SIM-ECC", once=True), SIM_ECC=earlier)
    assert found.level is level
    assert found.held is (level is HandlingLevel.ISOLATE)
    assert found.until_ns == (NOW + 3_600 * S if found.held else 0), "released an hour later"


def test_an_escalation_is_released() -> None:
    assert judged(fault("SIM-ECC", ago_s=3_599), SIM_ECC=[3_600.0, 3_601.0]).level is HandlingLevel.ISOLATE
    assert judged(fault("SIM-ECC", ago_s=3_600), SIM_ECC=[3_601.0, 3_602.0]).level is HandlingLevel.OBSERVE


@pytest.mark.parametrize(("ago_s", "together"), [(0.0, True), (60.0, True), (60.1, False)])
def test_two_codes_in_a_window(ago_s: float, *, together: bool) -> None:
    expected = HandlingLevel.RESET_WHEN_IDLE if together else HandlingLevel.OBSERVE
    assert judged(fault("SIM-WARM"), SIM_ECC=[ago_s]).level is expected
    assert judged(fault("SIM-ECC", once=True), SIM_WARM=[ago_s]).level is expected, "in either order"


GUARD = SoftwareGuard(devices=3, share=0.1, window_ms=2_000)


def seen(node: int, rack: int = 0, ago_s: float = 0.0) -> Sighting:
    return Sighting(node, rack, NOW - round(ago_s * S))


@pytest.mark.parametrize(
    ("sightings", "devices", "racks", "own"),
    [
        ([seen(0), seen(1), seen(2)], 16, 1, True),
        ([seen(0), seen(1)], 16, 1, False),
        ([seen(0), seen(0), seen(0)], 16, 1, False),
        ([seen(0), seen(0), seen(1)], 16, 1, True),
        ([seen(0), seen(1), seen(2, ago_s=2.1)], 16, 1, False),
        ([seen(0), seen(1), seen(2)], 31, 1, False),
        ([seen(0), seen(1), seen(2)], 16, 2, False),
        ([seen(0), seen(1), seen(2, rack=1)], 16, 2, True),
        ([seen(node, node % 9) for node in range(64)], 50_000, 9, True),
        ([seen(node, node % 9) for node in range(63)], 50_000, 9, False),
    ],
)
def test_the_software_guard(sightings: list[Sighting], devices: int, racks: int, *, own: bool) -> None:
    """Many devices, more than one node, and more than one rack where the job has several."""
    assert bool(is_the_jobs_own(GUARD, sightings, devices, racks, NOW)) is own


STATE = AcceleratorState


@pytest.mark.parametrize(
    ("reported", "levels", "readable", "believed"),
    [
        (STATE.HEALTHY, [], True, STATE.HEALTHY),
        (STATE.DEGRADED, [], True, STATE.DEGRADED),
        (STATE.FAILED, [], True, STATE.FAILED),
        (STATE.FAILED, ["OBSERVE"], True, STATE.HEALTHY),
        (STATE.FAILED, ["DEGRADED"], True, STATE.DEGRADED),
        (STATE.HEALTHY, ["OBSERVE", "ISOLATE"], True, STATE.FAILED),
        (STATE.HEALTHY, ["RESET_WHEN_IDLE"], True, STATE.SUSPECT),
        (STATE.HEALTHY, ["RESET_NOW", "OBSERVE"], True, STATE.RESETTING),
        (STATE.UNKNOWN, ["OBSERVE"], True, STATE.UNKNOWN),
        (STATE.HEALTHY, [], False, STATE.UNKNOWN),
        (STATE.DEGRADED, ["DEGRADED"], False, STATE.UNKNOWN),
        (STATE.FAILED, [], False, STATE.FAILED),
        (STATE.HEALTHY, ["ISOLATE"], False, STATE.FAILED),
    ],
)
def test_what_is_believed_of_a_device(
    reported: AcceleratorState, levels: list[str], believed: AcceleratorState, *, readable: bool
) -> None:
    """The code's handling decides how bad a FAILED is; what nobody can read is never healthy."""
    notes = [replace(fault("x"), level=HandlingLevel[level]) for level in levels]
    assert device_state(reported, notes, readable=readable) is believed
