"""`phalanx faults` and `phalanx health` against a real gRPC server: what is asked, what is shown, and the exit code."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from fake_controller import FakeController
from phalanx.v1 import agent_pb2, fleet_pb2

from cli.errors import Exit
from cli.faults import LEVELS
from controlplane.core.vocabulary import HandlingLevel

Phalanx = Callable[..., Any]


def fault(node: str, code: str, level: str = "ISOLATE", **more: Any) -> fleet_pb2.Fault:
    values: dict[str, Any] = {"assertion": "occurred", "labels": {"rack": "r1"}, "age_s": 60.0, **more}
    return fleet_pb2.Fault(node=node, entity="accelerator/0", code=code, vendor="nvidia", level=level, **values)


@pytest.fixture
def broken(controller: FakeController) -> FakeController:
    controller.faults = fleet_pb2.ListFaultsResponse(
        standing=[
            fault("node-2", "XID-79", reason="XID-79 is ISOLATE", unread=True),
            fault("node-10", "XID-79", labels={"rack": "r2"}),
        ],
        standing_total=2,
        recent=[
            fault("node-3", "XID-31", "RESTART_PROCESS", revision=7, assertion="once", detection_s=0.02),
            fault("node-2", "XID-48", revision=5, assertion="recovered"),
        ],
    )
    return controller


def test_levels_are_those_of_the_core() -> None:
    assert tuple(level.name for level in HandlingLevel) == LEVELS


def test_faults_that_stand_come_before_those_of_the_past(phalanx: Phalanx, broken: FakeController) -> None:
    outcome = phalanx("faults", "--since", "2h")
    lines = outcome.out.splitlines()
    assert outcome.code == Exit.OK
    assert lines[0].split() == ["AGE", "STATE", "NODE", "ENTITY", "CODE", "LEVEL", "WHY"]
    assert "stands, unread" in lines[1]
    assert [line.split("node-")[1].split()[0] for line in lines[1:]] == ["2", "10", "3", "2"]
    assert "once" in lines[3]
    assert "ended" in lines[4]
    (request,) = broken.requests
    assert request == fleet_pb2.ListFaultsRequest(since_s=7200.0, limit=200)


def test_faults_are_selected_by_label_field_and_range(phalanx: Phalanx, broken: FakeController) -> None:
    outcome = phalanx("faults", "node-[1-3]", "-l", "rack=r1", "--field", "state=stands", "-o", "json")
    assert [row["node"] for row in json.loads(outcome.out)] == ["node-2"]
    assert list(broken.requests[0].nodes) == ["node-1", "node-2", "node-3"]


@pytest.mark.parametrize(
    ("by", "first"),
    [
        ("code", ["XID-79", "2", "2", "2", "ISOLATE"]),
        ("node", ["node-2", "2", "1", "1", "ISOLATE"]),
        ("rack", ["r1", "3", "1", "2", "ISOLATE"]),
    ],
)
def test_faults_are_counted(phalanx: Phalanx, broken: FakeController, by: str, first: list[str]) -> None:
    outcome = phalanx("faults", "--by", by)
    assert outcome.out.splitlines()[1].split()[:5] == first


def test_no_faults_is_said(phalanx: Phalanx, controller: FakeController) -> None:
    outcome = phalanx("faults")
    assert (outcome.code, outcome.out, outcome.err) == (Exit.OK, "", "no faults yet\n")
    assert json.loads(phalanx("faults", "-o", "json").out) == []


def test_more_faults_than_are_sent_are_told(phalanx: Phalanx, broken: FakeController) -> None:
    broken.faults.standing_total = 7_000
    assert "7,000 faults stand, the hardest 2 are here" in phalanx("faults").err


def test_rules_say_what_when_and_from_where(phalanx: Phalanx, controller: FakeController) -> None:
    controller.rules = fleet_pb2.ListFaultRulesResponse(
        rules=[
            fleet_pb2.FaultRule(
                vendor="nvidia", code="XID-31", level="RESTART_PROCESS", text="page fault", debounce_s=20, count=3,
                window_s=3600, release_s=600, raised_level="ISOLATE", origin="a site, 2026-11-01", shadow=True,
                confirmed=3, refuted=1, open=2,
            )
        ],
        relations=[fleet_pb2.FaultRelation(vendor="ascend", codes=["A", "B"], window_s=10, level="ISOLATE", text="both")],
    )  # fmt: skip
    outcome = phalanx("faults", "--rules", "--vendor", "nvidia", "-o", "wide")
    assert (
        "after 20 s; 3 in 3600 s: ISOLATE for 600 s; shadow: only observed, 75% of 4 confirmed, 2 open" in outcome.out
    )
    assert "a site, 2026-11-01" in outcome.out
    assert "A + B" in outcome.out
    assert controller.requests[0].vendor == "nvidia"
    assert phalanx("faults", "--rules", "-o", "name").out == "nvidia/XID-31\n"


def test_options_of_rules_without_it_are_a_usage_error(phalanx: Phalanx, controller: FakeController) -> None:
    outcome = phalanx("faults", "--code", "XID-79")
    assert outcome.code == Exit.USAGE
    assert "--field code=" in outcome.err


def healthy() -> fleet_pb2.GetHealthResponse:
    return fleet_pb2.GetHealthResponse(
        detector=fleet_pb2.DetectorHealth(
            journal_state="ok", appends=1200, append_mean_s=0.002, append_p99_s=0.01, inbox=3, inbox_limit=20_000
        ),
        budget=fleet_pb2.BudgetHealth(
            share=0.05, window_s=300, scopes=[fleet_pb2.BudgetScope(kind="site", limit=64, spent=3)]
        ),
    )


def test_a_healthy_controller_shows_its_budget_and_no_blind_spot(phalanx: Phalanx, controller: FakeController) -> None:
    controller.health = healthy()
    outcome = phalanx("health")
    assert outcome.code == Exit.OK
    assert "1,200 times, mean 2 ms, 99 of 100 within 10 ms" in outcome.out
    assert "3 of 20,000 events wait" in outcome.out
    assert ["site", "64", "3", "61"] in [line.split() for line in outcome.out.splitlines()]
    assert "none: every node is heard" in outcome.out


def test_a_degraded_controller_says_why_and_exits_with_7(phalanx: Phalanx, controller: FakeController) -> None:
    controller.health = healthy()
    controller.health.detector.degraded = True
    controller.health.detector.reasons.append("an append to the journal took 3.1 s")
    outcome = phalanx("health")
    assert outcome.code == Exit.DEGRADED
    assert "nobody is declared dead by silence; an append to the journal took 3.1 s" in outcome.out
    assert "an append to the journal took 3.1 s" in outcome.err
    assert json.loads(phalanx("health", "-o", "json").out)["detector"]["degraded"] is True


def test_a_controller_that_sees_late_says_so_and_that_it_trusts_silence(
    phalanx: Phalanx, controller: FakeController
) -> None:
    controller.health = healthy()
    controller.health.detector.reasons.append("18 % of the beats come more than 0.4 s late")
    controller.health.detector.degraded_s = 12.0
    outcome = phalanx("health")
    assert outcome.code == Exit.DEGRADED
    assert (
        "degraded for 12.0 s: it sees late; silence is trusted; 18 % of the beats come more than 0.4 s late"
        in outcome.out
    )
    assert "declared dead" not in outcome.out
    assert "18 % of the beats" in outcome.err
    controller.site.journal_state = "ok"
    controller.site.detector_reasons.append("18 % of the beats come more than 0.4 s late")
    outcome = phalanx("get", "site")
    assert outcome.code == Exit.OK, "nothing is wrong with what it decides"
    assert "sees late, silence is trusted; 18 % of the beats" in outcome.out


def test_blind_spots_are_named(phalanx: Phalanx, controller: FakeController) -> None:
    controller.health = healthy()
    controller.health.blind.CopyFrom(
        fleet_pb2.BlindSpots(
            nodes=[fleet_pb2.UnseenNode(name="node-7", why="UNKNOWN", silent_s=95.0)],
            nodes_total=31,
            sources=[fleet_pb2.UnreadSource(node="node-9", name="kernel log", reason="not allowed", node_only=True)],
            sources_total=1,
            probes=[fleet_pb2.UnprovenProbe(vendor="hygon", nodes=2, accelerators=16)],
        )
    )
    outcome = phalanx("health")
    words = [line.split() for line in outcome.out.splitlines()]
    assert ["node-7", "UNKNOWN", "95.0", "s"] in words
    assert ["hygon", "2", "16"] in words
    assert any(line[:3] == ["node-9", "node", "only"] for line in words)
    assert "11 more: `phalanx nodes --field liveness!=ALIVE`" in outcome.err


def test_canaries_are_shown_where_the_site_has_them(phalanx: Phalanx, controller: FakeController) -> None:
    controller.health = healthy()
    assert "canaries" not in phalanx("health").out
    controller.health.canaries.CopyFrom(
        fleet_pb2.CanaryHealth(every_s=60, deadline_s=30, released=41, caught=39, missed=1, awaited=1, missed_node="node-5",
                               missed_age_s=600)
    )  # fmt: skip
    controller.health.detection.add(kind="canary", count=39, p50_s=0.5, p99_s=1.0)
    out = phalanx("health").out
    assert "39 of 41" in out
    assert "1, the newest on node-5 10 m 00 s ago" in out
    assert ["canary", "39", "500", "ms", "1.00", "s"] in [line.split() for line in out.splitlines()]


def test_peers_that_misbehave_are_named(phalanx: Phalanx, controller: FakeController) -> None:
    controller.health = healthy()
    offence = fleet_pb2.Offence(reason="FLOOD", count=12_000, first_age_s=90, last_age_s=2, message="slow down")
    controller.offenders = fleet_pb2.ListOffendersResponse(
        offenders=[
            fleet_pb2.Offender(name="node/node-7", proven=True, peer="10.0.0.7", offences=[offence]),
            fleet_pb2.Offender(name="node/node-8", peer="10.0.0.66", offences=[offence]),
        ]
    )
    outcome = phalanx("health")
    first, second = [line for line in outcome.out.splitlines() if "FLOOD" in line]
    assert first.split()[:4] == ["node/node-7", "10.0.0.7", "FLOOD", "12,000"]
    assert second.startswith("node/node-8 (says so)")
    assert len(json.loads(phalanx("health", "-o", "json").out)["offenders"]) == 2


def test_saves_that_do_not_come_about_say_what_since_when_and_what_to_do(
    phalanx: Phalanx, controller: FakeController
) -> None:
    controller.health = healthy()
    assert "saves that" not in phalanx("health").out
    controller.health.failing_saves.add(
        job="moe", word=agent_pb2.SAVE_WORD_FAILED, step=400, rank=3, node="node-2", age_s=600, told_age_s=12,
        reason="No space left on device", folder="/s/moe-1", saved_step=380, saved_age_s=700,
    )  # fmt: skip
    controller.health.failing_saves.add(
        job="dense", word=agent_pb2.SAVE_WORD_SLOW, step=8, age_s=90, told_age_s=30, reason="still being written",
        folder="/s/dense-2", saved_age_s=math.nan,
    )  # fmt: skip
    controller.health.failing_saves_total = 31
    outcome = phalanx("health")
    assert outcome.code == Exit.OK, "7 is for a controller that is not well"
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert (
        "moe step 400 failed 10 m 00 s ago 12.0 s ago 3 node-2 step 380, 11 m 40 s ago No space left on device" in lines
    )
    assert "dense step 8 waits 90.0 s ago 30.0 s ago 0 - none still being written" in lines
    assert "moe make room below /s/moe-1, or repair its mount and permissions" in lines
    assert "dense find out why writes below /s/dense-2 hang or take longer than the job's save interval" in lines
    assert "11 more" in outcome.err
    (first, _) = json.loads(phalanx("health", "-o", "json").out)["failing_saves"]
    assert (first["word"], first["folder"]) == ("FAILED", "/s/moe-1")
