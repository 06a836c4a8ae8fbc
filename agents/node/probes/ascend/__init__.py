"""Huawei Ascend: DCMI by gpustack-runtime's binding or npu-smi, and hccn_tool for the RoCE ports."""

from __future__ import annotations

from agents.node.probes.ascend import dcmi, hccn, smi
from agents.node.probes.ascend.device import Npu
from agents.node.probes.asking import Answers
from agents.node.probes.boards import assembled, opened
from agents.node.probes.inventory import on_the_bus
from agents.node.probes.machine import Machine, Memory
from agents.node.probes.reading import Reading
from agents.node.probes.text import kept_order

VENDOR = "ascend"
PCI_VENDORS = frozenset({"19e5"})
PROVEN = "https://github.com/Ascend/mind-cluster/blob/master/docs/en/faultdiag/user_guide/03_collecting_logs.md"

_BUDGET_S = 6.0  # of the 15 s after which the process counts as hung


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of Ascend chips now. Positions are those of npu-smi's list, which CANN numbers by; the bus has
    another order."""
    bus = on_the_bus(machine, PCI_VENDORS)
    library = opened(machine, memory, dcmi.MODULE, dcmi.Dcmi)
    if library is None and not bus and not machine.has_tool(smi.TOOL):
        return Reading(VENDOR)
    answers = Answers(machine, memory, _BUDGET_S)
    listed = dcmi.listing(library) if library is not None else smi.listing(machine)
    order = kept_order([board.address for board in listed.boards], memory)
    chips = [npu for npu in listed.boards if isinstance(npu, Npu)]
    numbers = {npu.physical if npu.physical is not None else order[npu.address]: npu for npu in chips}
    details = smi.questions(chips, memory) if library is None else []
    answers.ask([*hccn.questions(machine, numbers), *details])
    if library is None:
        smi.fill(chips, answers, memory)
    hccn.fill(machine, answers, numbers)
    listed.versions |= memory.get("versions", {})
    return assembled(VENDOR, listed, bus, memory, order)
