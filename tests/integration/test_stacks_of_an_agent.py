"""Where ranks stand, asked of a real node agent about real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from phalanx.v1 import agent_pb2

from agents.node.processes import read_stat
from agents.node.stacks import StackDesk
from tests.fixtures.node_agent_harness import JOB, Site, apply_generation, until, with_site


@with_site
async def test_stacks_are_told_of_the_ranks_of_one_generation_and_a_stopped_one_is_named(site: Site) -> None:
    agent, session = await site.started()
    hosts = [await site.host(session, f"j-{number}") for number in (1, 2)]
    session.effect("e1", apply_generation=apply_generation(1, {rank: host.host_id for rank, host in enumerate(hosts)}))
    for host in hosts:
        await host.assignment(1)
    pid = hosts[1].process.pid
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: (stat := read_stat(pid)) is not None and stat.state == "T", "it is stopped")
    order = agent_pb2.GatherStacks(job_uid=JOB, generation=1)
    session.effect("e2", quiet=True, gather_stacks=order)
    result = await until(lambda: session.result("e2"), "where they stand, though nobody asked for an outcome")
    assert result.ok
    rows = {row.rank: row for row in result.stacks.ranks}
    assert {rank: (row.stopped, row.moved, row.inside) for rank, row in rows.items()} == {
        0: (False, False, False),
        1: (True, False, False),
    }
    for row in rows.values():
        assert "node_agent_stub_host.py:" in result.stacks.places[row.place - 1], row.trouble
    assert agent.logged("stacks.gathered")
    session.effect("e3", gather_stacks=agent_pb2.GatherStacks(job_uid=JOB, generation=2))
    session.effect("e4", gather_stacks=agent_pb2.GatherStacks(job_uid="other", generation=1))
    for name in ("e3", "e4"):
        answer = await until(lambda name=name: session.result(name), name)
        assert answer.HasField("stacks")
        assert not answer.stacks.ranks, "nothing of that generation lives here"
    os.kill(pid, signal.SIGCONT)


async def dumped(program: Path, limit_s: float) -> str:
    dump = await StackDesk.dump(str(program), os.getpid(), limit_s)
    assert not dump.place
    return dump.trouble


def test_a_stack_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    def program(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    refused = program("refused", "echo 'Error: Permission Denied' >&2; exit 1")
    assert asyncio.run(dumped(refused, 10)) == "Error: Permission Denied"
    assert asyncio.run(dumped(program("sleeps", "exec sleep 60"), 0.2)) == "py-spy gave no answer within 0.2 s"
    assert asyncio.run(dumped(program("babbles", "echo no"), 10)) == "py-spy's answer is no JSON"
    assert "not installed" in asyncio.run(dumped(Path(), 10))
    assert "cannot be started" in asyncio.run(dumped(tmp_path / "gone", 10))
