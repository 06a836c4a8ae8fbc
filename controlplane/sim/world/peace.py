"""The end of all faults: everything is repaired and told, so that what is still wrong afterwards is the controller's doing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from controlplane.core import events as ev
from controlplane.core.draft import Answer, Refusal
from controlplane.core.vocabulary import Assertion, JobState
from controlplane.sim.world.nodes import SimNode

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

OPERATORS = ("operator", "ann")
"""Who cordons, drains and pins in simulated sites."""
LIFTED = (*OPERATORS, "rules")
"""Whose cordons operators lift in the end: their own, and those that wait for their word."""


def calm(world: World) -> None:
    """Machines, agents, paths, storage, the cell and the controller work; operators take back what they said."""
    world.journal.heal()
    world.stores.calm()
    world.broken.clear()
    world.jammed.clear()
    if world.control.leader is None:
        world.control.back()
    for name in world.relays.names():
        world.relays.take_over(name)
    for node in world.nodes.values():
        _calm_node(world, node)
    _let_go_on(world)
    if not world.cell.open:
        world.cell.hello()
    world.cell.report_nodes()
    world.gangs.pace_changed()


def _calm_node(world: World, node: SimNode) -> None:
    if not node.up:
        world.repair(node.name)
    node.raylet, node.slow = True, 1.0
    node.link.calm_down()
    node.faults.clear()
    node.recovered.extend(replace(row, assertion=Assertion.RECOVERED) for row in node.events.values())
    node.events.clear()
    node.unreadable, node.incurable, node.knows_checks, node.deaf = (), False, True, False
    node.spoils_pairs = False
    world.agents.links_whole({node.name})
    world.agents.report_devices(node)
    if not node.agent:
        world.return_agent(node.name)
    elif not (node.link.up and node.link.down):
        world.thaw(node.name)
    elif not node.session:
        world.agents.hello(node)
    _take_back(world, node)


def _let_go_on(world: World) -> None:
    """Jobs that a rule has suspended wait for an operator's word, and get it, as soon as somebody can write it down."""
    leader = world.control.leader
    if leader is None:
        world.kernel.after(world.timings.retry_s, lambda: _let_go_on(world))
        return
    for job in leader.state.active_jobs():
        if job.state is JobState.SUSPENDED and "jobRules[" in job.blocker:
            leader.tell(ev.RestartJob("", job.name, "looked at"), world.count_refusal)


def _take_back(world: World, node: SimNode) -> None:
    """The operators' own cordons are lifted, as soon as somebody can write it down."""
    leader = world.control.leader
    number = leader.state.fleet.number(node.name) if leader else None
    if leader is None or number is None:
        world.kernel.after(world.timings.retry_s, lambda: _take_back(world, node))
        return

    def answered(answer: Answer | Refusal | None) -> None:
        if isinstance(answer, Refusal) and answer.code == "unavailable":
            world.kernel.after(world.timings.retry_s, lambda: _take_back(world, node))

    for cordon in leader.state.fleet.facts[number].cordons:
        if cordon.owner in LIFTED:
            leader.tell(ev.UncordonNode("", node.name, cordon.owner), answered)
