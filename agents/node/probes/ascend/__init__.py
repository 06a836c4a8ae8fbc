"""Huawei Ascend: DCMI by gpustack-runtime's binding or npu-smi, and hccn_tool for the RoCE ports."""

from __future__ import annotations

from agents.node.probes.ascend import dcmi, hccn, smi
from agents.node.probes.ascend.device import Npu
from agents.node.probes.inventory import inventory, on_the_bus
from agents.node.probes.machine import Machine, Memory, Unreadable
from agents.node.probes.reading import Reading, Severity
from agents.node.probes.text import positions

VENDOR = "ascend"
PCI_VENDORS = frozenset({"19e5"})
PROVEN = "https://github.com/Ascend/mind-cluster/blob/master/docs/en/faultdiag/user_guide/03_collecting_logs.md"


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of Ascend chips now."""
    bus = on_the_bus(machine, PCI_VENDORS)
    library = _library(machine, memory)
    if library is None and not bus and not machine.has_tool(smi.TOOL):
        return Reading(VENDOR)
    listed = dcmi.listing(library) if library is not None else smi.listing(machine, memory)
    order = positions([npu.serial for npu in listed.npus], memory)
    for npu in listed.npus:
        number = npu.physical if npu.physical is not None else order[npu.serial]
        hccn.read_port(machine, npu, number)
        _judge(npu, memory)
    devices = [npu.findings.device(order[npu.serial], npu.serial, npu.address, npu.model) for npu in listed.npus]
    found = inventory(devices, bus, memory, complete=listed.complete)
    return Reading(
        VENDOR,
        found.devices,
        (*(fault for npu in listed.npus for fault in npu.findings.faults_of(order[npu.serial])), *found.faults),
        (
            *listed.unread,
            *(entry for npu in listed.npus for entry in npu.findings.unread(order[npu.serial])),
            *found.unread,
        ),
        {**listed.versions, **memory.get("versions", {})},
    )


def _library(machine: Machine, memory: Memory) -> dcmi.Dcmi | None:
    """DCMI, opened once; None when binding or library is not there, and npu-smi is asked instead."""
    if "library" not in memory:
        module = machine.module(dcmi.MODULE)
        try:
            memory["library"] = None if module is None else dcmi.Dcmi(module)
        except Unreadable:
            memory["library"] = None
    library = memory["library"]
    assert library is None or isinstance(library, dcmi.Dcmi)
    return library


def _judge(npu: Npu, memory: Memory) -> None:
    """What follows from what was there before: a count of uncorrectable errors that has grown."""
    before: dict[str, float] = memory.setdefault("errors", {})
    errors = npu.findings.value("ecc_uncorrected_total")
    text = f"{errors} uncorrectable memory errors"
    npu.findings.grown("ECC-UNCORRECTED", Severity.MAJOR, errors, before.get(npu.serial), text)
    if errors is not None:
        before[npu.serial] = errors
