"""The RoCE port of a chip, by hccn_tool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agents.node.probes.ascend.device import Npu
from agents.node.probes.asking import Answers, Command, Question
from agents.node.probes.machine import Machine, Unreadable
from agents.node.probes.reading import Severity
from agents.node.probes.text import fields

TOOL = "hccn_tool"
PATH = "/usr/local/Ascend/driver/tools/hccn_tool"
_AGAIN_S = 4.0  # a port that is down counts after 20 s
_LINKS = {"up": True, "down": False}


def questions(machine: Machine, numbers: Iterable[int]) -> list[Question]:
    """What hccn_tool is to be asked for, by its numbers of the chips."""
    tool = _tool(machine)
    return [] if tool is None else [Question(_link(tool, number), _AGAIN_S) for number in numbers]


def fill(machine: Machine, answers: Answers, chips: Mapping[int, Npu]) -> None:
    """Whether the ports' links are up, as far as hccn_tool has answered; chips by its numbers."""
    tool = _tool(machine)
    for number, npu in chips.items():
        if tool is None:
            npu.findings.garbled.append(f"link_up: {TOOL} is not installed")
            continue
        try:
            text = answers.text(_link(tool, number))
        except Unreadable as error:
            npu.findings.doubt(str(error))
            continue
        if text is not None:
            _fill(npu, fields(text))


def _tool(machine: Machine) -> str | None:
    return next((name for name in (TOOL, PATH) if machine.has_tool(name)), None)


def _link(tool: str, number: int) -> Command:
    return (tool, "-i", str(number), "-link", "-g")


def _fill(npu: Npu, told: Mapping[str, str]) -> None:
    if not told.get("link status"):
        npu.findings.doubt(f"{TOOL} names no link status")
        return
    up = npu.findings.state("link status", told["link status"], _LINKS)
    npu.findings.put("link_up", None if up is None else float(up))
    npu.findings.put("link_total", None if up is None else 1.0)
    if up is False:
        npu.findings.fault("81078603", Severity.MINOR, "the network port is down")
