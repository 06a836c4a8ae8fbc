"""What the node agents of a gang's site say: hellos, exits, devices, links."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.core import events as ev
from controlplane.core.fleet import Accelerator
from controlplane.core.jobs import NONE, Exit
from controlplane.core.vocabulary import AcceleratorState, RankState
from controlplane.sim.gang_shape import Shape

SIGKILL, SIGABRT = 9, 6


class GangAgents:
    """Node `k` of the controller is `n0000k`; its boot grows with every repair."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._boots = [1] * shape.size

    def name(self, node: int) -> str:
        """Name of a node number."""
        return f"n{node:05d}"

    def number(self, name: str) -> int:
        """Node number of a name."""
        return int(name[1:])

    def boot(self, node: int) -> None:
        """The node starts anew."""
        self._boots[node] += 1

    def _boot_id(self, node: int) -> str:
        return f"{self._boots[node]:06d}"

    def _accelerators(self, node: int, fault: str = "") -> tuple[ev.AcceleratorRow, ...]:
        state = AcceleratorState.FAILED if fault else AcceleratorState.HEALTHY
        name = self.name(node)
        return tuple(
            ev.AcceleratorRow(i, state, Accelerator(f"{name}-{i}", vendor="simulated", fault_code=fault))
            for i in range(self._shape.accelerators)
        )

    def hello(self, node: int) -> ev.NodeHello:
        """A session opens; no process runs there."""
        labels = (("rack", f"r{node // self._shape.rack_nodes:03d}"),)
        return ev.NodeHello(self.name(node), self._boot_id(node), labels, "", "sim", (), self._accelerators(node))

    def broken(self, node: int, why: str) -> ev.NodeReport:
        """All devices of a node have failed."""
        rows = self._accelerators(node, f"simulated: {why}")
        return ev.NodeReport(self.name(node), self._boot_id(node), accelerators=rows)

    def links(self, node: int, broken: tuple[str, ...]) -> ev.NodeReport:
        """Nodes to which this one's links are broken."""
        return ev.NodeReport(self.name(node), self._boot_id(node), broken_links=broken)

    def exits(self, uid: str, node: int, now_ns: int, serials: Sequence[int], sender: str = "") -> ev.NodeReport:
        """Processes of a job have ended: by themselves, or killed by `sender`."""
        exit_ = Exit(observed=True, signal=SIGKILL if sender else SIGABRT, sender=sender, group_empty=True)
        rows = tuple(
            ev.HostRow(uid, serial, RankState.EXITED, NONE, 0, since_ns=now_ns, exit=exit_) for serial in serials
        )
        return ev.NodeReport(self.name(node), self._boot_id(node), hosts=rows)
