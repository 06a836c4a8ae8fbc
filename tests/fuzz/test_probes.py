"""Every probe's parsers on hostile outputs, the frames of its process, and readings that say anything.

A probe reads whatever tools, files and kernel print: it never raises, its reading always fits a frame, and whatever a frame
says, the agent's report of it is one that a controller takes. A report that it refuses would end the session, and the next one too.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from phalanx.v1 import agent_pb2, types_pb2

from agents.node.board import MAX_ACCELERATORS, Changes, DeviceBoard
from agents.node.outbox import ReportOutbox
from agents.node.probes.machine import KernelLine, Memory, Output
from agents.node.probes.supervised import CRASHED, End, SupervisedProbe
from agents.node.probes.wire import LENGTH, MAX_FRAME_BYTES, frame_of, message_of
from agents.node.telemetry import Telemetry
from controlplane.core.state import State
from controlplane.rpc import observations
from tests.fixtures.recorded_machine import RecordedMachine
from tests.fuzz.generator import SECONDS, SEED, TIMED, Generator, show
from tests.unit.agents_node.test_probes_mangled import MACHINES, MANGLERS, probe_of, whole

NOW_NS = 10**18
LEAST = 40
"""Rounds of each test and vendor; timed runs make more."""
NUMBERS = (
    "9" * 5_000, "-" + "9" * 400, "1e999", "nan", "inf", "-0", "0x7fffffffffffffffff", "4294967296", "18446744073709551616", "٣",
    "²", "Ⅷ", "1_000", "1.2.3", "--1",
)  # fmt: skip
TOKENS = (
    "[" * 3_000, '{"a":' * 3_000, "<a>" * 3_000, "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "\x00", "\ud7ff", "\u202e", "\ufeff",
    "|" * 500, "+" + "-" * 500 + "+", "\t" * 500, " : " * 200, "é" * 3_000, "\x1b[2J", "%s%n", "\r", "\u2028", "a" * 100_000,
)  # fmt: skip


def _number(text: str, rng: random.Random) -> str:
    """One number of the text is another one."""
    places = [place for place, letter in enumerate(text) if letter.isdigit()]
    if not places:
        return text
    at = rng.choice(places)
    end = at
    while end < len(text) and text[end].isdigit():
        end += 1
    return text[:at] + rng.choice(NUMBERS) + text[end:]


def _every_number(text: str, rng: random.Random) -> str:
    number = rng.choice(NUMBERS)
    words = text.split(" ")
    return " ".join(number if word.strip().isdigit() else word for word in words)


def _token(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(TOKENS) + text[at:]


def _repeated(text: str, rng: random.Random) -> str:
    return (text * rng.choice((2, 20)))[:200_000]


HOSTILE: tuple[Callable[[str, random.Random], str], ...] = (
    _number, _number, _every_number, _token, _token, _repeated, *MANGLERS.values(),
)  # fmt: skip


def hostile(text: str, rng: random.Random) -> str:
    for _ in range(rng.randrange(1, 5)):
        text = rng.choice(HOSTILE)(text, rng) if text else rng.choice(TOKENS)
    return text


def hostile_machine(machine: RecordedMachine, rng: random.Random) -> RecordedMachine:
    """Some of what it says is something else: outputs, files, lines of the kernel."""
    share = rng.choice((0.1, 0.5, 1.0))
    commands = dict(machine.commands)
    for command, out in commands.items():
        if isinstance(out, Output) and rng.random() < share:
            commands[command] = Output(rng.choice((out.code, out.code, 1, -9)), hostile(out.stdout, rng), out.stderr)
    files = {path: hostile(text, rng) if rng.random() < share else text for path, text in machine.files.items()}
    kernel = machine.kernel
    if not isinstance(kernel, str):
        kernel = tuple(
            KernelLine(line.sequence, line.at_ns, hostile(line.text, rng) if rng.random() < share else line.text)
            for line in kernel
        )
    return replace(machine.again(), commands=commands, files=files, kernel=kernel)


@pytest.mark.parametrize("vendor", sorted({vendor for vendor, _ in MACHINES}))
def test_probes_read_anything(vendor: str) -> None:
    """Twice with one memory, as a process does: what the first reading left there is hostile too."""
    show(f"PHALANX_FUZZ_SEED={SEED}")
    rng = random.Random(f"{SEED} {vendor}")
    names = [name for known, name in MACHINES if known == vendor]
    vendors = sorted({known for known, _ in MACHINES})
    end, rounds = time.monotonic() + SECONDS / len(vendors), 0
    while rounds < LEAST or (TIMED and time.monotonic() < end):
        rounds += 1
        state = rng.getstate()
        machine, before = whole(vendor, rng.choice(names))
        memory: Memory = {}
        board = DeviceBoard((vendor,))
        outbox = ReportOutbox(View(board))
        try:
            for _ in range(2):
                after = probe_of(vendor).read(hostile_machine(machine, rng), memory)
                shown = {device.pci_address for device in after.devices}
                assert after.unread or {device.pci_address for device in before.devices} <= shown, (
                    "one is gone without a word"
                )
                message = message_of(after, machine.now_ns())
                assert agent_pb2.ProbeReading.FromString(frame_of(message)[LENGTH.size :]) == message
                told(outbox, board.take(message, 1.0))
                assert len([*board.positions()]) <= MAX_ACCELERATORS
                taken_by_a_controller(outbox, 1.0)
        except BaseException:
            show(f"round {rounds} of {vendor}, random state {hash(state):x}")
            raise


class View:
    """A node without processes, as its outbox sees it."""

    def __init__(self, board: DeviceBoard) -> None:
        self.positions, self.accelerator_row = board.positions, board.accelerator
        self.fault_keys, self.fault_row, self.unreadable = board.fault_keys, board.fault, board.unreadable

    def host_ids(self) -> tuple[str, ...]:
        return ()

    def broken_links(self) -> agent_pb2.BrokenLinks | None:
        return None

    def host_row(self, host_id: str, now: float) -> agent_pb2.HostStatus | None:
        raise NotImplementedError(host_id, now)


def told(outbox: ReportOutbox, changes: Changes) -> None:
    """As `Devices` does it."""
    for position in changes.accelerators:
        outbox.touch_accelerator(position)
    for key in changes.faults:
        outbox.touch_fault(key)
    for event in changes.events:
        outbox.add_finding(event)
    if changes.sources:
        outbox.touch_sources()


def taken_by_a_controller(outbox: ReportOutbox, now_s: float) -> None:
    """The hello that an agent would say, and all reports that wait, are refused by nobody."""
    hello = agent_pb2.AgentHello(node="n", boot_id="1", address="a", snapshot=outbox.hello_snapshot(now_s))
    observations.node_hello(hello, NOW_NS, State())
    while (report := outbox.next_report(now_s)) is not None:
        observations.node_report("n", "1", report, NOW_NS, State())
        outbox.acknowledge(report.sequence, now_s)


@pytest.mark.parametrize("vendors", [("ascend",), ("host", "nvidia", "amd")])
def test_an_agents_reports_of_any_reading_are_taken(tmp_path: Path, vendors: tuple[str, ...]) -> None:
    """A probe's process may write anything that is a reading: the agent makes of it what a controller takes."""
    show(f"PHALANX_FUZZ_SEED={SEED}")
    generator = Generator(SEED, {"": ("accelerator/0", "node", "port/1"), "code": ("80E01801", "XID-79", "A" * 64)})
    rng = generator.rng
    board, telemetry = DeviceBoard(vendors), Telemetry("n", tmp_path / "t.prom")
    outbox = ReportOutbox(View(board))
    end, rounds = time.monotonic() + SECONDS / 4, 0
    while rounds < LEAST or (TIMED and time.monotonic() < end):
        rounds += 1
        found = generator.message(agent_pb2.ProbeReading.DESCRIPTOR)
        assert isinstance(found, agent_pb2.ProbeReading)
        found.vendor = rng.choice(vendors)
        if rng.random() < 0.2:
            found.faults.extend(many_faults(rng))
        if rng.random() < 0.2:
            rows = range(rng.choice((65, 300)))
            found.unreadable.extend(
                agent_pb2.UnreadableSource(name=f"s{number}", reason="r" * 2_000) for number in rows
            )
        told(outbox, board.take(found, float(rounds)))
        telemetry.take(found, 1.0)
        assert telemetry.text().isprintable() or telemetry.text().endswith("\n")
        taken_by_a_controller(outbox, float(rounds))


def many_faults(rng: random.Random) -> list[agent_pb2.FaultStatus]:
    """More than any report may hold."""
    assertion = rng.choice((types_pb2.FAULT_ASSERTION_OCCURRED, types_pb2.FAULT_ASSERTION_ONCE))
    first = rng.randrange(10_000)
    return [
        agent_pb2.FaultStatus(entity="node", code=f"C{first + number}", assertion=assertion, message="m" * 3_000)
        for number in range(400)
    ]


class Pipe:
    """The parent's end of a probe's pipe, with what a process wrote into it."""

    def __init__(self, data: bytes) -> None:
        self.readings: list[agent_pb2.ProbeReading] = []
        self.probe = SupervisedProbe("ascend", on_reading=self.readings.append, on_trouble=lambda *_: None)
        self.data = data

    async def end(self) -> End:
        """How the process's life ends for its parent."""
        receiving, sending = os.pipe()
        writing = asyncio.create_task(asyncio.to_thread(_write, sending, self.data))
        try:
            return await self.probe._listen(receiving)
        finally:
            await writing


def _write(descriptor: int, data: bytes) -> None:
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except BrokenPipeError:  # the parent has heard enough
        return


def test_frames_of_anything_end_a_probes_process_and_no_agent() -> None:
    """Random bytes, wrong lengths, half a frame, other vendors: one end with a name, and only whole readings before it."""
    show(f"PHALANX_FUZZ_SEED={SEED}")
    generator = Generator(SEED, {"": ("ascend", "nvidia"), "vendor": ("ascend", "ascend", "nvidia")})
    rng = generator.rng

    async def lives() -> None:
        end, rounds = time.monotonic() + SECONDS / 4, 0
        while rounds < LEAST or (TIMED and time.monotonic() < end):
            rounds += 1
            good = [generator.message(agent_pb2.ProbeReading.DESCRIPTOR) for _ in range(rng.randrange(4))]
            data = b"".join(LENGTH.pack(len(raw := message.SerializeToString())) + raw for message in good)
            match rng.randrange(4):
                case 0:
                    data = generator.damaged(data)
                case 1:
                    data += LENGTH.pack(rng.choice((MAX_FRAME_BYTES + 1, 2**32 - 1))) + b"x" * 100
                case 2:
                    data += LENGTH.pack(1_000) + rng.randbytes(rng.choice((0, 999, 1_000)))
            pipe = Pipe(data)
            found = await asyncio.wait_for(pipe.end(), 60)
            assert found.code == CRASHED, "it ended, and never hung its parent"
            assert all(reading.vendor == "ascend" for reading in pipe.readings)

    asyncio.run(lives())
