"""What people do to a running site, at the wrong moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.core import events as ev
from controlplane.sim.faults.catalogue import Aim, NothingThere, Strike, Undo, kind
from controlplane.sim.world.peace import OPERATORS

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

OWNERS = OPERATORS
"""Who has reasons; each takes back only its own."""
OWNER = OWNERS[0]
AUTOMATIC = ("health", "rules")
"""Owners of reasons that the controller gives, and that an operator may take away."""


def _order(world: World, command: ev.Command) -> None:
    if world.control.leader is None:
        raise NothingThere("nobody leads")
    world.control.leader.tell(command, world.count_refusal)


def _take_back(world: World, command: ev.Command) -> None:
    """What an operator takes back; without a controller `sim.world.peace` does it in the end."""
    if world.control.leader is not None:
        world.control.leader.tell(command, world.count_refusal)


@kind("cordon", Aim.NODE, 1_800.0)
def cordon(world: World, strike: Strike) -> Undo | None:
    """An operator cordons a node, and takes it back later."""
    owner = strike.random.choice(OWNERS)
    _order(world, ev.CordonNode("", strike.target, owner, "look"))
    return lambda: _take_back(world, ev.UncordonNode("", strike.target, owner))


@kind("drain", Aim.NODE, 1_800.0)
def drain(world: World, strike: Strike) -> Undo | None:
    """An operator drains a node, and takes it back later."""
    owner = strike.random.choice(OWNERS)
    _order(world, ev.DrainNode("", strike.target, owner, "firmware"))
    return lambda: _take_back(world, ev.UncordonNode("", strike.target, owner))


@kind("release", Aim.SITE)
def release(world: World, strike: Strike) -> Undo | None:
    """An operator takes a node back into service that the controller has taken out, be it right or wrong."""
    fleet = world.control.leader.state.fleet if world.control.leader else None
    held = [(facts.name, cordon.owner) for facts in fleet.facts for cordon in facts.cordons] if fleet else []
    ours = [(node, owner) for node, owner in held if owner in AUTOMATIC]
    if not ours:
        raise NothingThere("no node is taken out")
    node, owner = strike.random.choice(ours)
    _order(world, ev.UncordonNode("", node, owner))
    return None


@kind("cancel", Aim.JOB)
def cancel(world: World, strike: Strike) -> Undo | None:
    """An operator cancels a job."""
    _order(world, ev.CancelJob("", world.name_of(strike.target), "no longer needed"))
    return None


@kind("restart", Aim.JOB)
def restart(world: World, strike: Strike) -> Undo | None:
    """An operator restarts a job."""
    _order(world, ev.RestartJob("", world.name_of(strike.target), "new data"))
    return None


@kind("pin", Aim.CHECKPOINT, 3_600.0)
def pin(world: World, strike: Strike) -> Undo | None:
    """An operator pins a checkpoint, and lets it go later."""
    job = world.name_of(strike.target.split("/")[0])
    _order(world, ev.PinCheckpoint("", job, strike.target, OWNER, "for the paper"))
    return lambda: _take_back(world, ev.UnpinCheckpoint("", job, strike.target, OWNER))


@kind("verify", Aim.CHECKPOINT)
def verify(world: World, strike: Strike) -> Undo | None:
    """An operator has a checkpoint read back."""
    _order(world, ev.VerifyCheckpoint("", world.name_of(strike.target.split("/")[0]), strike.target))
    return None
