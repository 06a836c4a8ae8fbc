"""Which accelerator of the node a check has meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from phalanx.v1 import agent_pb2

from agents.node.checks.finding import NODE, Finding
from agents.node.probes.simulated import VENDOR as SIMULATED


class Places:
    """Rows of the node's accelerators against a backend's way of naming them.

    Where it gives no address it counts in the order of the bus; that holds only while it sees as many as the probes. A finding
    on a device that cannot be told is one of the node: nobody else is blamed for it, and it is not lost.
    """

    def __init__(self, rows: Iterable[agent_pb2.AcceleratorStatus]) -> None:
        self._rows: Sequence[agent_pb2.AcceleratorStatus] = [row for row in rows if row.vendor != SIMULATED]

    def __len__(self) -> int:
        return len(self._rows)

    def words(self, positions: Iterable[int]) -> tuple[str, ...]:
        """Entities for a check of only these positions."""
        wanted = {*positions}
        order = self._order()
        return tuple(
            word
            for number, row in enumerate(order)
            if row.index in wanted
            for word in (f"pci/{row.pci_address}", f"accelerator/{number}")
        )

    def placed(self, finding: Finding) -> Finding:
        """The finding with the position on the node."""
        kind, _, name = finding.entity.partition("/")
        if kind == NODE:
            return finding
        for number, row in enumerate(self._order()):
            if (kind == "pci" and row.pci_address == name) or (kind == "accelerator" and str(number) == name):
                return replace(finding, entity=f"accelerator/{row.index}")
        return replace(finding, entity=NODE, message=f"{finding.entity}, which no probe lists: {finding.message}")

    def _order(self) -> list[agent_pb2.AcceleratorStatus]:
        return sorted(self._rows, key=lambda row: row.pci_address)
