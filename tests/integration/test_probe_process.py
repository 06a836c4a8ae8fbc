"""Probes in real processes: what hangs is killed with all that it started, what crashes or lies is named."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest
from phalanx.v1 import agent_pb2
from phalanx.v1 import types_pb2 as pb

from agents.node.devices import Devices, DeviceSettings
from agents.node.probes.supervised import CRASHED, HUNG, SILENT, Pace, SupervisedProbe
from tests.fixtures.node_agent_harness import alive, until

PACE = Pace(interval_s=0.05, deadline_s=60.0, first_wait_s=0.05, last_wait_s=0.2, steady_s=60.0)
HASTY = replace(PACE, deadline_s=6.0)  # a busy machine starts a process within it
LIMIT_S = 60.0
PRELUDE = """
import os, struct, subprocess, sys, time
from phalanx.v1 import agent_pb2
descriptor, notes = int(sys.argv[1]), sys.argv[2]
def tell(vendor="ascend", serial="S0"):
    reading = agent_pb2.ProbeReading(vendor=vendor)
    reading.accelerators.add(index=0, serial=serial, state=1)
    body = reading.SerializeToString()
    os.write(descriptor, struct.pack(">I", len(body)) + body)
def life():
    with open(notes, "a") as file:
        file.write(f"{os.getpid()}\\n")
    with open(notes) as file:
        return len(file.readlines())
number = life()
"""


class Watched:
    """A supervised probe whose process runs a script; `number` there is the number of its life."""

    def __init__(self, folder: Path, script: str, pace: Pace = PACE) -> None:
        self.notes = folder / "lives"
        self.readings: list[agent_pb2.ProbeReading] = []
        self.ends: list[tuple[str, str]] = []
        source = PRELUDE + textwrap.dedent(script)
        self.probe = SupervisedProbe(
            "ascend",
            on_reading=self.readings.append,
            on_trouble=lambda _vendor, code, reason: self.ends.append((code, reason)),
            pace=pace,
            command=lambda descriptor, _since: [sys.executable, "-c", source, str(descriptor), str(self.notes)],
        )

    @property
    def lives(self) -> list[int]:
        return [int(line) for line in self.notes.read_text().split()] if self.notes.exists() else []


def watched(
    tmp_path: Path, script: str, test: Callable[[Watched], Coroutine[object, object, None]], pace: Pace = PACE
) -> Watched:
    found = Watched(tmp_path, script, pace)

    async def inside() -> None:
        running = asyncio.create_task(found.probe.run())
        try:
            await test(found)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(inside())
    for pid in found.lives:
        assert not alive(pid), "no process outlives its supervisor"
    return found


def test_a_probe_that_hangs_is_killed_with_what_it_started_and_started_again(tmp_path: Path) -> None:
    script = """
        if not os.path.exists(notes + ".tool"):
            tool = subprocess.Popen(["sleep", "600"])
            tell()
            open(notes + ".tool", "w").write(str(tool.pid))
            time.sleep(600)
        while True:
            tell(serial="S1")
            time.sleep(0.05)
    """

    async def test(found: Watched) -> None:
        hung = (HUNG, "it has given no reading for 6 s, and was killed")
        await until(lambda: hung in found.ends, "the hang is noticed", LIMIT_S)
        await until(
            lambda: any(row.accelerators[0].serial == "S1" for row in found.readings), "it reads again", LIMIT_S
        )

    watched(tmp_path, script, test, HASTY)
    assert not alive(int((tmp_path / "lives.tool").read_text()))


def test_a_probe_that_never_answers_is_silent(tmp_path: Path) -> None:
    async def test(found: Watched) -> None:
        await until(lambda: found.ends, "the silence is noticed", LIMIT_S)

    found = watched(tmp_path, "time.sleep(600)", test, HASTY)
    assert found.ends[0][0] == SILENT


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("sys.exit('no device files')", "it ended with exit code 1: no device files"),
        ("os.abort()", "it ended by signal 6"),
        ("raise RuntimeError('vendor library broke')", "it ended with exit code 1: RuntimeError: vendor library broke"),
        ("os.write(descriptor, struct.pack('>I', 8) + b'\\xff' * 8); time.sleep(600)", "it wrote what is no reading"),
        ("os.write(descriptor, b'\\xff' * 64); time.sleep(600)", "it announced a reading of 4294967295 bytes"),
        ("os.write(descriptor, b'\\x00\\x00'); sys.exit(0)", "it ended with exit code 0"),
        ("tell(vendor='nvidia'); time.sleep(600)", "it wrote a reading of vendor 'nvidia'"),
        ("os.close(descriptor); time.sleep(600)", "it ended"),
    ],
)
def test_a_probe_that_crashes_or_writes_garbage_is_named(tmp_path: Path, script: str, word: str) -> None:
    async def test(found: Watched) -> None:
        await until(lambda: found.ends, "its end is noticed", LIMIT_S)

    found = watched(tmp_path, script, test)
    assert {code for code, _ in found.ends} == {CRASHED}
    assert word in found.ends[0][1]
    assert not found.readings or "nvidia" in script


def test_what_a_probe_prints_does_not_stop_it(tmp_path: Path) -> None:
    script = """
        while True:
            os.write(2, b"E" * 100_000)
            print("x" * 100_000, flush=True)
            tell()
            time.sleep(0.02)
    """

    async def test(found: Watched) -> None:
        await until(lambda: len(found.readings) >= 5, "readings", LIMIT_S)

    assert not watched(tmp_path, script, test).ends


def test_a_reading_that_cannot_be_taken_is_the_probes_fault(tmp_path: Path) -> None:
    found = Watched(tmp_path, "tell(); time.sleep(600)")

    def refuse(reading: agent_pb2.ProbeReading) -> None:
        raise KeyError(reading.vendor)

    found.probe._on_reading = refuse

    async def inside() -> None:
        running = asyncio.create_task(found.probe.run())
        await until(lambda: found.ends, "it is refused", LIMIT_S)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(inside())
    assert found.ends[0] == (CRASHED, "its reading cannot be taken: KeyError('ascend')")


def test_the_wait_between_lives_grows(tmp_path: Path) -> None:
    waits: list[float] = []

    async def inside() -> None:
        probe = SupervisedProbe(
            "ascend", on_reading=lambda _: None, on_trouble=lambda *_: None,
            pace=Pace(first_wait_s=1.0, last_wait_s=60.0), command=lambda *_: [str(tmp_path / "no-such-command")],
        )  # fmt: skip
        real_sleep = asyncio.sleep

        async def noted(wait_s: float) -> None:
            waits.append(wait_s)
            if len(waits) == 8:
                raise asyncio.CancelledError
            await real_sleep(0)

        probe._sleep = noted
        await asyncio.gather(probe.run(), return_exceptions=True)

    asyncio.run(inside())
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    """Also while a vendor's call hangs: the kernel kills it."""
    code = f"""
import os, subprocess, sys
child = "import os, time; from agents.node.probes.child import end_with; end_with(os.getppid())"
child += "; print(1, flush=True); time.sleep(600)"
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
process.stdout.readline()
open({str(tmp_path / "pid")!r}, "w").write(str(process.pid))
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""

    async def inside() -> None:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, env={**os.environ})
        await process.wait()
        await until(
            lambda: not alive(int((tmp_path / "pid").read_text())), "the child has gone with its parent", LIMIT_S
        )

    asyncio.run(inside())


def test_devices_of_a_silent_probe_are_unknown_and_the_rest_goes_on(tmp_path: Path) -> None:
    """The whole of a node's devices: a simulated accelerator beside a probe that cannot be run."""

    async def inside() -> None:
        devices = Devices(
            DeviceSettings(
                node="n1", vendors=("ascend",), simulated=1, pace=PACE,
                kept_path=tmp_path / "kept.json", telemetry_path=tmp_path / "telemetry.prom",
            )
        )  # fmt: skip
        (probe,) = devices._probes
        probe._command = lambda *_: [sys.executable, "-c", "raise SystemExit('driver not loaded')"]
        running = asyncio.create_task(devices.run())
        await until(lambda: ("node", CRASHED) in devices.board.fault_keys(), "the crash is a fault", LIMIT_S)
        assert devices.board.accelerator(0).state == pb.ACCELERATOR_STATE_HEALTHY
        (source,) = devices.board.unreadable().sources
        assert (source.name, source.node_only) == ("ascend: probe", True)
        assert "driver not loaded" in source.reason
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(inside())


def test_the_kernel_log_is_read_from_where_the_last_agent_stopped(tmp_path: Path) -> None:
    """At most an hour back: what an agent did not see while it was away is not lost, and old faults are not dug up."""

    def since_s(age_s: float | None) -> float:
        telemetry = tmp_path / "telemetry.prom"
        if age_s is not None:
            telemetry.touch()
            os.utime(telemetry, (time.time() - age_s,) * 2)

        async def made() -> float:
            settings = DeviceSettings(
                node="n1", vendors=("host",), simulated=0, kept_path=tmp_path / "kept", telemetry_path=telemetry
            )
            (probe,) = Devices(settings)._probes
            return probe._log_since_ns / 1e9

        return asyncio.run(made())

    assert since_s(None) == 0, "a new node has no past"
    assert time.time() - since_s(60) == pytest.approx(65, abs=60)
    assert time.time() - since_s(86_400) == pytest.approx(3_600, abs=60)
