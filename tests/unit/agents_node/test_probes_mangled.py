"""All vendors' probes on outputs that are cut, garbled, localised or rearranged: none raises, none calls a device healthy that it
could not read, none lets a device vanish."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.node.probes.machine import Memory, Output
from agents.node.probes.reading import Health, Metric, Reading
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine, recorded_names

MACHINES = recorded_names()
CUTS = 24
"""Cuts of one output in the test that cuts everywhere: spread evenly, first and last line among them."""


def probe_of(vendor: str) -> ModuleType:
    return importlib.import_module(f"agents.node.probes.{vendor}")


@cache
def whole(vendor: str, name: str) -> tuple[RecordedMachine, Reading]:
    machine = recorded_machine(vendor, name)
    return machine, probe_of(vendor).read(machine.again(), {})


def outputs(machine: RecordedMachine) -> Iterator[tuple[tuple[str, ...], Output]]:
    for command, out in machine.commands.items():
        if isinstance(out, Output) and out.stdout:
            yield command, out


def judge(before: Reading, after: Reading, *, cut: bool) -> None:
    """What holds of every reading of a mangled machine."""
    assert after.vendor == before.vendor
    now = {device.pci_address: device for device in after.devices}
    for device in before.devices:
        found = now.get(device.pci_address)
        assert found is not None or after.unread, f"{device.pci_address} is gone without a word"
        if found is None or found.health is not Health.HEALTHY:
            continue
        if cut:
            assert device.health is Health.HEALTHY, f"{device.pci_address} was {device.health} and a cut healed it"
            silent = [name for name, metric in device.metrics.items() if lost(metric, found.metrics.get(name))]
            assert not silent or after.unread, f"{device.pci_address} lost {silent} without a word"
    for device in after.devices:
        assert all(metric.supported or metric.value is None for metric in device.metrics.values())
    assert len({device.index for device in after.devices}) == len(after.devices), "two devices at one position"


def lost(before: Metric, after: Metric | None) -> bool:
    return before.value is not None and (after is None or after.value is None)


@pytest.mark.parametrize(("vendor", "name"), MACHINES)
def test_cut_after_any_line(vendor: str, name: str) -> None:
    machine, before = whole(vendor, name)
    for command, out in outputs(machine):
        lines = out.stdout.splitlines(keepends=True)
        for end in sorted({round(step * (len(lines) - 1) / CUTS) for step in range(CUTS + 1)}):
            after = probe_of(vendor).read(machine.printing(command, "".join(lines[:end])), {})
            judge(before, after, cut=True)


@pytest.mark.parametrize(("vendor", "name"), MACHINES)
@pytest.mark.parametrize("text", ["", "\n", "garbage \x00\ufffd\n", "{", "[]", "null", "<a/>", '{"a": 1}', "-1", "N/A"])
def test_nothing_of_use(vendor: str, name: str, text: str) -> None:
    """Every output of the vendor replaced: nobody is healthy, and somebody says why."""
    machine, before = whole(vendor, name)
    for command, out in outputs(machine):
        machine = machine.printing(command, text, code=out.code)
    after = probe_of(vendor).read(machine, {})
    judge(before, after, cut=True)
    if any(True for _ in outputs(whole(vendor, name)[0])) and before.devices:
        assert all(device.health is not Health.HEALTHY for device in after.devices)
        assert after.unread


def later(machine: RecordedMachine) -> RecordedMachine:
    """The same machine after the time for which answers are kept."""
    return replace(machine, clock_ns=machine.clock_ns + 600_000_000_000)


@pytest.mark.parametrize(("vendor", "name"), MACHINES)
def test_every_tool_hangs_or_is_missing(vendor: str, name: str) -> None:
    machine, before = whole(vendor, name)
    for tool in {command[0] for command in machine.commands}:
        memory: Memory = {}
        probe_of(vendor).read(machine.again(), memory)
        for broken in (later(machine.hanging(tool)), later(machine.without_tool(tool))):
            for after in (probe_of(vendor).read(broken.again(), {}), probe_of(vendor).read(broken.again(), memory)):
                judge(before, after, cut=True)
                assert after.unread or not before.devices, f"{tool} says nothing, and nobody says so"


def _replaced(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text))
    return text[:place] + rng.choice("\x00-~é9 :,|<>{}\"'\n") + text[place + 1 :]


def _dropped(lines: list[str], i: int) -> list[str]:
    return lines[:i] + lines[i + 1 :]


def _repeated(lines: list[str], i: int) -> list[str]:
    return lines[: i + 1] + lines[i:]


def _swapped(lines: list[str], i: int) -> list[str]:
    return [*lines[:i], *reversed(lines[i : i + 2]), *lines[i + 2 :]]


def _columns(lines: list[str], i: int) -> list[str]:
    return [*lines[:i], " ".join(lines[i].split()[::-1]) + "\n", *lines[i + 1 :]]


def _fields(lines: list[str], i: int) -> list[str]:
    return [*lines[:i], "New Field : 7 furlongs\n", *lines[i:]]


def _by_line(change: Callable[[list[str], int], list[str]]) -> Callable[[str, random.Random], str]:
    def mangled(text: str, rng: random.Random) -> str:
        lines = text.splitlines(keepends=True)
        return "".join(change(lines, rng.randrange(len(lines))))

    return mangled


MANGLERS: dict[str, Callable[[str, random.Random], str]] = {
    "a character is another": _replaced,
    "a line is missing": _by_line(_dropped),
    "a line is there twice": _by_line(_repeated),
    "lines are swapped": _by_line(_swapped),
    "columns are swapped": _by_line(_columns),
    "there is a new field": _by_line(_fields),
    "another locale": lambda text, _: text.replace(".", ",").replace("Yes", "Ja").replace("Enabled", "已启用"),
    "it ends early": lambda text, rng: text[: rng.randrange(len(text))],
}


@given(
    place=st.sampled_from(MACHINES),
    manglers=st.lists(st.sampled_from(sorted(MANGLERS)), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_mangled_anyhow(place: tuple[str, str], manglers: list[str], seed: int) -> None:
    machine, before = whole(*place)
    rng = random.Random(seed)
    every = list(outputs(machine))
    if not every:
        return
    command, out = rng.choice(every)
    text = out.stdout
    for mangler in manglers:
        text = MANGLERS[mangler](text, rng) if text else text
    after = probe_of(place[0]).read(machine.printing(command, text, code=out.code), {})
    judge(before, after, cut=False)
