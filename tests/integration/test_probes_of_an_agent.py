"""A vendor's tool on the path of a real agent, in the probe's own process: what the controller hears, and what `check` prints."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from phalanx.v1 import types_pb2

from agents.node.check import check
from tests.fixtures.node_agent_harness import FakeSession, Site, until, with_site
from tests.fixtures.recorded_machine import ROOT

PUBLISHED = ROOT / "enflame" / "s60x8" / "q.txt"
LIMIT_S = 90.0
HEALTHY, FAILED, UNKNOWN = (
    types_pb2.ACCELERATOR_STATE_HEALTHY,
    types_pb2.ACCELERATOR_STATE_FAILED,
    types_pb2.ACCELERATOR_STATE_UNKNOWN,
)


class Tool:
    """`efsmi`, which prints what lies in a file."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "q.txt"
        shutil.copy(PUBLISHED, self.output)
        script = folder / "efsmi"
        script.write_text(f"#!/bin/sh\nexec cat {self.output}\n")
        script.chmod(0o755)

    def prints(self, text: str) -> None:
        fresh = self.output.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.output)


@pytest.fixture
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    folder = tmp_path_factory.mktemp("tools")
    with mock.patch.dict(os.environ, PATH=f"{folder}{os.pathsep}{os.environ['PATH']}"):
        yield Tool(folder)


def states(session: FakeSession) -> list[int]:
    rows = {row.index: row.state for report in session.reports for row in report.accelerators}
    return [rows[position] for position in sorted(rows)]


def standing(session: FakeSession) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for row in session.faults():
        key = (row.entity, row.code)
        (found.add if row.assertion == types_pb2.FAULT_ASSERTION_OCCURRED else found.discard)(key)
    return found


def unreadable(session: FakeSession) -> list[str]:
    told = [report.unreadable for report in session.reports if report.HasField("unreadable")]
    return [source.name for source in told[-1].sources]


def test_a_node_is_introduced_with_its_accelerators_and_tells_what_becomes_of_them(tmp_path: Path, tool: Tool) -> None:
    @with_site
    async def story(site: Site) -> None:
        published = tool.output.read_text()
        # The harness simulates two accelerators beside those of the tool: positions 0 and 1.
        agent, session = await site.started("--probe", "enflame")
        await until(lambda: states(session) == [HEALTHY] * 10, "all accelerators", LIMIT_S)
        await until(lambda: unreadable(session) == [], "nothing is unreadable", LIMIT_S)
        rows = {row.index: row for report in session.reports for row in report.accelerators}
        assert (rows[2].vendor, rows[2].serial, rows[2].pci_address) == ("enflame", "A0A1650510670", "0000:17:00.0")

        tool.prints(published.replace("Health                  : True", "Health                  : False", 1))
        await until(lambda: standing(session) == {("accelerator/2", "VENDOR-UNHEALTHY")}, "the fault", LIMIT_S)
        await until(lambda: states(session)[2] == FAILED, "the device has failed", LIMIT_S)

        tool.prints("Segmentation fault\n")
        await until(lambda: states(session)[2:] == [UNKNOWN] * 8, "what cannot be read is unknown", LIMIT_S)
        assert states(session)[:2] == [HEALTHY] * 2
        assert ("accelerator/2", "VENDOR-UNHEALTHY") in standing(session), "nobody saw it end"
        assert any(name.startswith("enflame") for name in unreadable(session))

        tool.prints(published)
        await until(lambda: states(session) == [HEALTHY] * 10 and not standing(session), "all is well again", LIMIT_S)
        telemetry, value = site.directory / "telemetry.prom", 'power_watts{node="n1",vendor="enflame"'
        await until(lambda: telemetry.exists() and value in telemetry.read_text(), "telemetry is written", LIMIT_S)

        # A device that goes while the agent is away is known to be lost.
        await agent.kill()
        tool.prints(published.split("DEV ID 7")[0])
        site.controller.sessions.clear()
        _, later = await site.started("--probe", "enflame")
        *_, last = later.hello.snapshot.accelerators
        assert (last.index, last.state) in {(9, UNKNOWN), (9, FAILED)}, "nobody calls it healthy by what was before"
        await until(lambda: states(later) == [HEALTHY] * 9 + [FAILED], "the last one is gone", LIMIT_S)
        assert standing(later) == {("accelerator/9", "DEVICE-LOST")}
        await until(
            lambda: any(report.full for report in later.reports[1:]), "the whole truth, once everything was read"
        )

    story(tmp_path)


def checked(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    return check(arguments, out), out.getvalue()


def test_check_prints_what_it_sees_and_cannot_see(tool: Tool) -> None:
    code, text = checked("--probe", "enflame", "-o", "json")
    assert code == 0
    (probe,) = json.loads(text)["probes"]
    assert probe["proven"] is True
    assert [device["state"] for device in probe["devices"]] == ["HEALTHY"] * 8
    assert probe["devices"][0]["values"]["power_watts"] == 96.0
    tool.prints(
        tool.output.read_text().replace("Cur Power               : 96 W", "Cur Power               : soon\x1b[2J", 1)
    )
    code, text = checked("--probe", "enflame", "--probe", "cambricon")
    assert code == 3, "there is no Cambricon here"
    assert "cannot see: efsmi -q (accelerator 0): power_watts: 'soon" in text
    assert "\x1b" not in text
    assert "unproven: cambricon" in text
    assert checked("--probe", "enflame")[0] == 7
    with pytest.raises(SystemExit) as wrong:
        checked("--probe", "pear")
    assert wrong.value.code == 2
