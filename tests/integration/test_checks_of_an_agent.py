"""A real node agent is told to check its machine: what it answers, and what it tells before that."""

from __future__ import annotations

import json

from phalanx.v1 import agent_pb2, types_pb2

from agents.node.checks.memory import FIGURE
from tests.fixtures.node_agent_harness import Site, until, with_site


@with_site
async def test_a_sound_machine_passes_and_one_that_is_slower_than_it_was_says_so_first(site: Site) -> None:
    kept = site.directory / "checks.json"
    site.directory.mkdir(parents=True, exist_ok=True)
    body = {"best": {f"node: {FIGURE}": 1e15}, "standing": [], "checked_unix_s": 0.0, "reboot_asked_in": ""}
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
