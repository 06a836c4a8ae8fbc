"""The RoCE port of a chip, by hccn_tool."""

from __future__ import annotations

from agents.node.probes.ascend.device import Npu
from agents.node.probes.machine import Machine, Unreadable
from agents.node.probes.reading import Severity
from agents.node.probes.text import fields, printed

TOOL = "hccn_tool"
PATH = "/usr/local/Ascend/driver/tools/hccn_tool"
_LINKS = {"up": True, "down": False}


def read_port(machine: Machine, npu: Npu, number: int) -> None:
    """Whether the port's link is up."""
    tool = next((name for name in (TOOL, PATH) if machine.has_tool(name)), None)
    if tool is None:
        npu.findings.garbled.append(f"link_up: {TOOL} is not installed")
        return
    try:
        told = fields(printed(machine, (tool, "-i", str(number), "-link", "-g")))
    except Unreadable as error:
        npu.findings.doubt(str(error))
        return
    if not told.get("link status"):
        npu.findings.doubt(f"{TOOL} names no link status")
        return
    up = npu.findings.state("link status", told["link status"], _LINKS)
    npu.findings.put("link_up", None if up is None else float(up))
    npu.findings.put("link_total", None if up is None else 1.0)
    if up is False:
        npu.findings.fault("81078603", Severity.MINOR, "the network port is down")
