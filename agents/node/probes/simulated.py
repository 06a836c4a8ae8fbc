"""Simulated accelerators, for sites without hardware and for tests of faults."""

from __future__ import annotations

from phalanx.v1 import agent_pb2, types_pb2

VENDOR = "simulated"
MODEL = "simulated-1"


class SimulatedProbe:
    """`count` accelerators whose serials follow from the node's name, so that a restart finds the same devices."""

    def __init__(self, node: str, count: int) -> None:
        self._node = node
        self._faults: dict[int, tuple[str, str]] = {}
        self.count = count

    @property
    def identity(self) -> str:
        """Constant name of the probe, for logs."""
        return VENDOR

    def inject(self, index: int, code: str, message: str) -> None:
        """Give an accelerator a fault; an empty code clears it. Raises IndexError naming what exists."""
        if not 0 <= index < self.count:
            raise IndexError(f"node {self._node} has {self.count} simulated accelerators, none with index {index}")
        if code:
            self._faults[index] = (code, message)
        else:
            self._faults.pop(index, None)

    def read(self) -> list[agent_pb2.AcceleratorStatus]:
        """State of every accelerator now."""
        return [self._status(index) for index in range(self.count)]

    def _status(self, index: int) -> agent_pb2.AcceleratorStatus:
        code, message = self._faults.get(index, ("", ""))
        return agent_pb2.AcceleratorStatus(
            index=index,
            serial=f"sim-{self._node}-{index}",
            pci_address=f"0000:{index:02x}:00.0",
            vendor=VENDOR,
            model=MODEL,
            state=types_pb2.ACCELERATOR_STATE_FAILED if code else types_pb2.ACCELERATOR_STATE_HEALTHY,
            fault_code=code,
            fault_message=message,
        )
