"""What happens to checkpoints: missing, torn, damaged, slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.sim.faults.catalogue import Aim, NothingThere, Strike, Undo, kind

if TYPE_CHECKING:
    from controlplane.sim.world.site import World


def _kept(world: World, target: str) -> str:
    if not world.stores.shards.get(target):
        raise NothingThere(target)
    return target


@kind("checkpoint_missing", Aim.CHECKPOINT)
def checkpoint_missing(world: World, strike: Strike) -> Undo | None:
    """The files of a checkpoint are gone, and nobody has told the controller."""
    world.stores.lose(_kept(world, strike.target))
    return None


@kind("checkpoint_corrupt", Aim.CHECKPOINT, shards=(1, 1, 10_000))
def checkpoint_corrupt(world: World, strike: Strike) -> Undo | None:
    """Some shards of a checkpoint no longer are what their digests say."""
    ranks = sorted(world.stores.shards[_kept(world, strike.target)])
    count = min(len(ranks), int(strike.parameters["shards"]))
    world.stores.damage(strike.target, strike.random.sample(ranks, count))
    return None


@kind("checkpoint_torn", Aim.SITE, saves=(1, 1, 100))
def checkpoint_torn(world: World, strike: Strike) -> Undo | None:
    """The next saves are torn: shards are said to be stored and are not whole."""
    world.stores.torn_next += int(strike.parameters["saves"])
    return None


@kind("checkpoint_slow", Aim.SITE, 1_800.0, factor=(20.0, 1.1, 10_000.0))
def checkpoint_slow(world: World, strike: Strike) -> Undo | None:
    """The shared storage is slow: saves and restores take `factor` times as long."""
    world.stores.slow = strike.parameters["factor"]

    def end() -> None:
        world.stores.slow = 1.0

    return end
