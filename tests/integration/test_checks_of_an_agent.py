"""A real node agent is told to check its machine: what it answers, and what it tells before that."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from phalanx.v1 import agent_pb2, types_pb2

from agents.node.checks.memory import FIGURE
from tests.fixtures.node_agent_harness import Site, apply_generation, until, with_site


@with_site
async def test_a_sound_machine_passes_and_one_that_is_slower_than_it_was_says_so_first(site: Site) -> None:
    kept = site.directory / "checks.json"
    site.directory.mkdir(parents=True, exist_ok=True)
    body = {
        "best": {f"node: {FIGURE}": 1e15},
        "standing": [],
        "checked_unix_s": 0.0,
        "reboot_asked_in": "",
        "preflight_unix_s": 0.0,
    }
    kept.write_text(json.dumps(body))
    _, session = await site.started()
    session.effect("c1", run_checks=agent_pb2.RunChecks(level="ISOLATE", entities=["node"]))
    result = await until(lambda: session.result("c1"), "the answer")
    assert result.ok, result.message
    (fault,) = [row for row in session.faults() if row.vendor == "checks"]
    assert (fault.entity, fault.code) == ("node", "CHECK-MEMORY-SLOW")
    assert fault.assertion == types_pb2.FAULT_ASSERTION_OCCURRED
    assert "CHECK-MEMORY-SLOW" in result.message
    assert json.loads(kept.read_text())["checked_unix_s"] > 0


@with_site
async def test_what_cannot_be_done_is_said(site: Site) -> None:
    _, session = await site.started()
    session.effect("c1", run_checks=agent_pb2.RunChecks(level="RESET_NOW", entities=["accelerator/1"]))
    session.effect("c2", run_checks=agent_pb2.RunChecks(level="REBOOT_NODE", entities=["node"]))
    first = await until(lambda: session.result("c1"), "the reset")
    assert (first.ok, first.message) == (False, "accelerator/1: no way is known to reset a device of simulated")
    second = await until(lambda: session.result("c2"), "the reboot")
    assert not second.ok
    assert "booted anew" in second.message


@with_site
async def test_ranks_do_not_start_where_arithmetic_is_known_to_be_wrong(site: Site) -> None:
    site.directory.mkdir(parents=True, exist_ok=True)
    wrong = {"entity": "accelerator/1", "code": "CHECK-ARITHMETIC", "message": "a product came out wrong"}
    body = {"best": {}, "standing": [wrong], "checked_unix_s": 0.0, "reboot_asked_in": "", "preflight_unix_s": 0.0}
    (site.directory / "checks.json").write_text(json.dumps(body))
    _, session = await site.started("--preflight-age-s", "60")
    host = await site.host(session, "j-1")
    session.effect("g1", apply_generation=apply_generation(1, {0: "j-1"}))
    result = await until(lambda: session.result("g1"), "the answer")
    assert (result.ok, result.message) == (
        False,
        "the check before the start: accelerator/1: a product came out wrong",
    )
    assert not host.instructions("assignment")
    assert [(row.entity, row.code) for row in session.faults()] == [("accelerator/1", "CHECK-ARITHMETIC")]


@with_site
async def test_ranks_start_after_a_check_that_finds_nothing(site: Site) -> None:
    agent, session = await site.started("--preflight-age-s", "60")
    host = await site.host(session, "j-1")
    order = apply_generation(1, {0: "j-1"})
    order.join_timeout_ms = 240_000
    session.effect("g1", apply_generation=order)
    await until(lambda: host.instructions("assignment"), "the assignment")
    await until(lambda: agent.logged("check.ended"), "the line of the check")
    assert [entry["check"] for entry in agent.logged("check.ended")] == ["arithmetic"]


@with_site
async def test_an_idle_node_is_checked_lightly_and_a_rank_is_not_disturbed(site: Site) -> None:
    agent, session = await site.started("--idle-check-interval-s", "0.1")
    await until(lambda: agent.logged("check.ended"), "a light check")
    await site.host(session, "j-1")
    since = datetime.now(UTC)
    session.effect("c1", run_checks=agent_pb2.RunChecks(level="ISOLATE", entities=["node"]))
    result = await until(lambda: session.result("c1"), "the answer")
    assert (result.ok, "processes of ranks live here" in result.message) == (False, True)
    later = [entry for entry in agent.logged("check.ended") if datetime.fromisoformat(entry["timestamp"]) > since]
    assert len(later) <= 1, "what had begun was ended, nothing else began"
