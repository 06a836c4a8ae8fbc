"""What happens to hardware: devices, machines, and everything that shares a rack, a switch, a feed or a super-pod."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from controlplane.core import events as ev
from controlplane.core.vocabulary import Assertion
from controlplane.sim.faults.catalogue import Aim, NothingThere, Strike, Undo, kind, together
from controlplane.sim.world.nodes import SimNode

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

FELL_OFF_THE_BUS = "XID-79"
LINK_DOWN = "SIM-PORT-DOWN"


def _up(world: World, target: str) -> SimNode:
    node = world.nodes.get(target)
    if node is None or not node.up:
        raise NothingThere(target)
    return node


def _in_domain(world: World, aim: Aim, target: str) -> list[SimNode]:
    found = [node for node in world.nodes.values() if node.up and (aim.value, target) in node.labels]
    if not found:
        raise NothingThere(target)
    return found


def _repair(world: World, name: str) -> None:
    if not world.nodes[name].up:
        world.repair(name)


def _destroy_all(world: World, nodes: Iterable[SimNode]) -> Undo:
    undoes: list[Undo] = []
    for node in nodes:
        world.destroy(node.name)
        undoes.append(partial(_repair, world, node.name))
    return together(undoes)


@kind("device", Aim.DEVICE, None)
def device(world: World, strike: Strike) -> Undo | None:
    """An accelerator fails with a fault code (`code`, XID-79 by default) until it is repaired."""
    name, _, index = strike.target.rpartition("/")
    node = _up(world, name)
    position = int(index)
    if position in node.faults:
        raise NothingThere(strike.target)
    world.set_fault(name, position, strike.code or FELL_OFF_THE_BUS)
    world.gangs.device_failed(node, position)
    return lambda: world.set_fault(name, position, "") if position in node.faults else None


@kind("link_flap", Aim.NODE, times=(4, 1, 100), period_s=(5.0, 0.1, 600.0), port=(0, 0, 63))
def link_flap(world: World, strike: Strike) -> Undo | None:
    """A network port of a machine goes down and comes back several times; SIM-PORT-DOWN unless `code` says otherwise."""
    node = _up(world, strike.target)
    entity = f"port/{int(strike.parameters['port'])}"
    if entity in node.events:
        raise NothingThere(strike.target)

    def flap(left: int) -> None:
        if not node.up:
            return
        occurs = left % 2 == 1  # the last time it comes back, whoever has repaired it meanwhile
        if occurs != (entity in node.events):
            _raise(world, node, entity, strike.code or LINK_DOWN, occurs=occurs)
        if left:
            world.kernel.after(strike.parameters["period_s"] / 2, lambda: flap(left - 1))

    flap(2 * int(strike.parameters["times"]) - 1)
    return None


@kind("link_down", Aim.NODE, 300.0, port=(0, 0, 63))
def link_down(world: World, strike: Strike) -> Undo | None:
    """A network port of a machine stays down for a while; SIM-PORT-DOWN unless `code` says otherwise."""
    node = _up(world, strike.target)
    entity, code = f"port/{int(strike.parameters['port'])}", strike.code or LINK_DOWN
    if entity in node.events:
        raise NothingThere(strike.target)
    _raise(world, node, entity, code, occurs=True)
    return lambda: _raise(world, node, entity, code, occurs=False) if entity in node.events else None


def _raise(world: World, node: SimNode, entity: str, code: str, *, occurs: bool) -> None:
    assertion = Assertion.OCCURRED if occurs else Assertion.RECOVERED
    world.agents.raise_fault(node, ev.FaultRow(entity, code, "simulated", assertion=assertion))


@kind("health_source", Aim.NODE, 600.0)
def health_source(world: World, strike: Strike) -> Undo | None:
    """What tells the health of a machine's devices cannot be read for a while: they are neither well nor ill."""
    node = _up(world, strike.target)
    if node.unreadable:
        raise NothingThere(strike.target)

    def tell(rows: tuple[ev.SourceRow, ...]) -> None:
        node.unreadable = rows
        world.agents.report_devices(node)

    tell((ev.SourceRow("probe", "it times out"),))
    return lambda: tell(()) if node.unreadable else None


@kind("node", Aim.NODE, None, half_open=(0, 0, 1))
def node(world: World, strike: Strike) -> Undo | None:
    """A machine loses power; it comes back empty. `half_open`: nobody resets its connections."""
    _up(world, strike.target)
    world.destroy(strike.target, half_open=bool(strike.parameters["half_open"]))
    return partial(_repair, world, strike.target)


@kind("node_reboot", Aim.NODE, 300.0)
def node_reboot(world: World, strike: Strike) -> Undo | None:
    """A machine starts anew by itself."""
    _up(world, strike.target)
    world.destroy(strike.target)
    return partial(_repair, world, strike.target)


@kind("raylet", Aim.NODE, 60.0)
def raylet(world: World, strike: Strike) -> Undo | None:
    """The raylet of a machine dies; agent and ranks go on."""
    found = _up(world, strike.target)
    if not found.raylet:
        raise NothingThere(strike.target)
    world.set_raylet(found.name, up=False)
    return lambda: world.set_raylet(found.name, up=True) if found.up else None


@kind("rack", Aim.RACK, 7_200.0)
def rack(world: World, strike: Strike) -> Undo | None:
    """Everything in a rack loses power."""
    return _destroy_all(world, _in_domain(world, Aim.RACK, strike.target))


@kind("power", Aim.POWER, 3_600.0)
def power(world: World, strike: Strike) -> Undo | None:
    """A power feed fails: all machines on it are gone at once."""
    return _destroy_all(world, _in_domain(world, Aim.POWER, strike.target))


@kind("superpod", Aim.SUPERPOD, 3_600.0)
def superpod(world: World, strike: Strike) -> Undo | None:
    """A super-pod goes down as a whole."""
    return _destroy_all(world, _in_domain(world, Aim.SUPERPOD, strike.target))


@kind("switch", Aim.SWITCH, 600.0)
def switch(world: World, strike: Strike) -> Undo | None:
    """A switch fails: nothing gets to or from the machines behind it, which run on; collectives across it break."""
    behind = _in_domain(world, Aim.SWITCH, strike.target)
    world.isolate(behind)
    return lambda: world.reconnect(behind)


@kind("burst", Aim.RACK, None, nodes=(4, 2, 14), within_s=(300.0, 1.0, 3_600.0))
def burst(world: World, strike: Strike) -> Undo | None:
    """Several machines of one rack fail within minutes, as in the public fault trace (46 bursts of 2 to 14 in 348 days)."""
    there = _in_domain(world, Aim.RACK, strike.target)
    chosen = strike.random.sample(there, min(len(there), int(strike.parameters["nodes"])))
    undoes: list[Undo] = []

    def lose(name: str) -> None:
        if world.nodes[name].up:
            world.destroy(name)
            undoes.append(partial(_repair, world, name))

    for found in chosen:
        world.kernel.after(strike.random.random() * strike.parameters["within_s"], partial(lose, found.name))
    return together(undoes)  # of those that have failed by then


@kind("spares_shortage", Aim.SITE, 3_600.0, share=(1.0, 0.1, 1.0))
def spares_shortage(world: World, strike: Strike) -> Undo | None:
    """Machines that run no rank are taken away: `share` of them lose power."""
    free = [found for found in world.nodes.values() if found.up and not any(p.rank >= 0 for p in found.live())]
    if not free:
        raise NothingThere("no free machine")
    count = max(1, round(len(free) * strike.parameters["share"]))
    return _destroy_all(world, strike.random.sample(free, count))


@kind("spares_surplus", Aim.SITE, count=(4, 1, 64))
def spares_surplus(world: World, strike: Strike) -> Undo | None:
    """New machines join the site, in the last rack."""
    last = next(reversed(world.nodes.values()))
    world.join([last.sibling(len(world.nodes) + at) for at in range(int(strike.parameters["count"]))])
    return None
