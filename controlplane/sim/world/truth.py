"""What is really the case, for those who judge the controller by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.sim.world.gangs import Gangs
from controlplane.sim.world.nodes import Process, SimNode

if TYPE_CHECKING:
    from controlplane.sim.world.site import World


def shared_devices(world: World) -> list[str]:
    """S1 on the world's truth: accelerators on which two processes that were given a rank live at once, in words."""
    found = []
    for node in world.nodes.values():
        held: dict[int, Process] = {}
        for process in node.processes.values():
            if not process.generation or not process.occupies:
                continue
            for position in process.devices:
                other = held.setdefault(position, process)
                if other is not process:
                    pair = f"{Gangs.describe(other)} and {Gangs.describe(process)}"
                    found.append(f"S1 (truth): {node.name}/{position} runs {pair}")
    return found


def running(world: World, job: str) -> list[tuple[SimNode, Process]]:
    """Processes of a job (uid) that live and hold a rank, with their nodes."""
    return [
        (node, process)
        for node in world.nodes.values()
        for process in node.processes.values()
        if process.job == job and process.generation and process.occupies
    ]
