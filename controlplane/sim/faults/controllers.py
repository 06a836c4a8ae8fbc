"""What happens to the controller itself: killed between two steps of a turn, late, without a disk, without the leadership."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.core.units import seconds
from controlplane.sim.faults.catalogue import Aim, NothingThere, Strike, Undo, kind
from controlplane.sim.journal import CrashPoint
from controlplane.sim.world.controller import Controller

if TYPE_CHECKING:
    from controlplane.sim.world.site import World


def _leader(world: World) -> Controller:
    leader = world.control.leader
    if leader is None or not leader.alive:
        raise NothingThere("nobody leads")
    return leader


@kind("controller_kill", Aim.SITE, 2.0)
def controller_kill(world: World, strike: Strike) -> Undo | None:
    """The controller is killed between two turns; another one takes over."""
    _leader(world)
    world.control.kill()
    return world.control.back


def _crash(world: World, point: CrashPoint) -> Undo:
    leader = _leader(world)
    if leader.journal.crash is not None:
        raise NothingThere("a crash is planned already")
    leader.journal.crash = point

    def give_up() -> None:
        leader.journal.crash = None

    return give_up


@kind("crash_before_append", Aim.SITE, 600.0)
def crash_before_append(world: World, strike: Strike) -> Undo | None:
    """The controller is killed in its next turn after it has decided and before anything is stored."""
    return _crash(world, CrashPoint.BEFORE_APPEND)


@kind("crash_after_append", Aim.SITE, 600.0)
def crash_after_append(world: World, strike: Strike) -> Undo | None:
    """The controller is killed in its next turn when everything is stored and nothing is published."""
    return _crash(world, CrashPoint.AFTER_APPEND)


@kind("crash_before_effects", Aim.SITE, 600.0)
def crash_before_effects(world: World, strike: Strike) -> Undo | None:
    """The controller is killed in its next turn with effects when its state is published and no effect has left."""
    return _crash(world, CrashPoint.BEFORE_EFFECTS)


@kind("controller_stall", Aim.SITE, stall_s=(5.0, 0.1, 600.0))
def controller_stall(world: World, strike: Strike) -> Undo | None:
    """The brain does nothing for a while; everything that is said meanwhile waits."""
    _leader(world).stall(strike.parameters["stall_s"])
    return None


@kind("clock_jump", Aim.SITE, forward_s=(0.0, 0.0, 1e8), backward_s=(0.0, 0.0, 1e8))
def clock_jump(world: World, strike: Strike) -> Undo | None:
    """The wall clock of the controller's machine jumps, and its process starts anew: durable times must not go back."""
    _leader(world)
    jump_s = strike.parameters["forward_s"] - strike.parameters["backward_s"] or strike.random.choice((-3_600.0, 60.0))
    world.wall_offset_ns += seconds(jump_s)
    world.control.kill()
    world.control.back()
    return None


@kind("clock_drift", Aim.SITE, 3_600.0, fast=(0.0, 0.0, 0.1), slow=(0.0, 0.0, 0.1))
def clock_drift(world: World, strike: Strike) -> Undo | None:
    """The controller's clock runs a little fast or slow; 500 ppm when neither is given."""
    leader = _leader(world)
    leader.set_drift(strike.parameters["fast"] - strike.parameters["slow"] or 0.0005)
    return lambda: leader.set_drift(0.0)


@kind("slow_fsync", Aim.SITE, 60.0, fsync_s=(0.5, 0.001, 30.0))
def slow_fsync(world: World, strike: Strike) -> Undo | None:
    """Every append takes long."""
    storage = world.journal.storage
    storage.fsync_s = strike.parameters["fsync_s"]

    def end() -> None:
        storage.fsync_s = 0.0

    return end


@kind("failing_fsync", Aim.SITE, times=(3, 1, 1_000))
def failing_fsync(world: World, strike: Strike) -> Undo | None:
    """The next writes of the journal fail; nothing of them is kept."""
    _leader(world).journal.fail_next(int(strike.parameters["times"]), "EIO on request")
    return None


@kind("uncertain_commit", Aim.SITE, kept=(1, 0, 1))
def uncertain_commit(world: World, strike: Strike) -> Undo | None:
    """The connection ends during the next commit; `kept`: it is durable all the same."""
    _leader(world).journal.cut_next_commit(kept=bool(strike.parameters["kept"]))
    return None


@kind("disk_full", Aim.SITE, 60.0)
def disk_full(world: World, strike: Strike) -> Undo | None:
    """The journal takes nothing until there is space again."""
    storage = world.journal.storage
    if storage.full:
        raise NothingThere("the disk is full already")
    storage.full = True

    def end() -> None:
        storage.full = False

    return end


@kind("lost_leadership", Aim.SITE)
def lost_leadership(world: World, strike: Strike) -> Undo | None:
    """Another controller takes the leadership while the former one lives on, and its sessions with it, and does not know."""
    if world.journal.storage.full:
        raise NothingThere("nobody can take the leadership on a full disk")
    _leader(world)
    world.control.replace()
    return None
