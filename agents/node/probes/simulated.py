"""Simulated accelerators, for sites without hardware and for tests of faults. They are read in the agent's own process."""

from __future__ import annotations

from dataclasses import dataclass

from agents.node.probes.reading import Device, Fault, Health, Reading

VENDOR = "simulated"
MODEL = "simulated-1"


@dataclass(frozen=True, slots=True)
class _Injected:
    code: str
    message: str
    raised_ns: int


class SimulatedProbe:
    """`count` accelerators whose serials follow from the node's name, so that a restart finds the same devices."""

    VENDOR = VENDOR

    def __init__(self, node: str, count: int) -> None:
        self._node = node
        self._faults: dict[int, _Injected] = {}
        self.count = count

    def inject(self, index: int, code: str, message: str, now_ns: int) -> None:
        """Give an accelerator a fault, raised now (Unix ns); an empty code clears it. The same code again changes nothing.

        Raises:
            IndexError: there is no such accelerator; it names what exists.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"node {self._node} has {self.count} simulated accelerators, none with index {index}")
        known = self._faults.get(index)
        if not code:
            self._faults.pop(index, None)
        elif known is None or known.code != code:
            self._faults[index] = _Injected(code, message, now_ns)

    def read(self) -> Reading:
        """Everything that can be seen now."""
        faults = (
            Fault(f"accelerator/{index}", fault.code, raised_ns=fault.raised_ns, message=fault.message)
            for index, fault in sorted(self._faults.items())
        )
        return Reading(VENDOR, tuple(self._device(index) for index in range(self.count)), tuple(faults))

    def _device(self, index: int) -> Device:
        return Device(
            index=index,
            serial=f"sim-{self._node}-{index}",
            pci_address=f"0000:{index:02x}:00.0",
            model=MODEL,
            health=Health.FAILED if index in self._faults else Health.HEALTHY,
        )
