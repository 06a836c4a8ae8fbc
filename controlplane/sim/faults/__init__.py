"""Faults by kind: declarative, composable, counted. Each module adds its kinds to `CATALOGUE`."""

from controlplane.sim.faults import agents, controllers, health, machines, network, operators, ranks, storage
from controlplane.sim.faults.catalogue import CATALOGUE, Aim, Kind
from controlplane.sim.faults.plan import FaultPlan, check_plan

__all__ = [
    "CATALOGUE",
    "Aim",
    "FaultPlan",
    "Kind",
    "agents",
    "check_plan",
    "controllers",
    "health",
    "machines",
    "network",
    "operators",
    "ranks",
    "storage",
]
