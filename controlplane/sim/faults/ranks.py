"""What happens to processes of a job: they die, hang, slow down, or compute wrong results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.core.jobs import Exit
from controlplane.sim.faults.catalogue import Aim, NothingThere, Strike, Undo, kind
from controlplane.sim.world.nodes import Process

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

PERSISTENT_DISAGREEMENT = 17
TRANSIENT_DISAGREEMENT = 16
LAST_WORDS = ("RuntimeError: injected", "FloatingPointError: loss is nan", "OSError: device or resource busy", "")
"""What a process that ends with an error has said last."""


def _process(world: World, target: str) -> Process:
    """The process that works for `job/rank` now."""
    job, _, rank = target.rpartition("/")
    gang = world.gangs.find(job)
    process = gang.members.get(int(rank)) if gang and rank.isdecimal() else None
    if process is None or not process.works or not world.nodes[process.node].up:
        raise NothingThere(target)
    return process


@kind("process_kill", Aim.RANK, lingers=(0, 0, 1))
def process_kill(world: World, strike: Strike) -> Undo | None:
    """The process of a rank is killed; `lingers`: what it has started lives on for a moment."""
    exit_ = Exit(observed=True, signal=9, group_empty=not strike.parameters["lingers"])
    world.agents.exit(_process(world, strike.target), exit_)
    return None


@kind("process_oom", Aim.RANK)
def process_oom(world: World, strike: Strike) -> Undo | None:
    """The kernel kills the process of a rank because memory is short."""
    exit_ = Exit(observed=True, signal=9, sender="oom", group_empty=True)
    world.agents.exit(_process(world, strike.target), exit_)
    return None


@kind("process_exit", Aim.RANK, code=(1, 0, 255))
def process_exit(world: World, strike: Strike) -> Undo | None:
    """The user's code ends with an error."""
    code = int(strike.parameters["code"])
    exit_ = Exit(observed=True, code=code, message=strike.random.choice(LAST_WORDS), group_empty=True)
    world.agents.exit(_process(world, strike.target), exit_)
    return None


@kind("process_unseen", Aim.RANK)
def process_unseen(world: World, strike: Strike) -> Undo | None:
    """A process is gone and nobody saw how it ended."""
    world.agents.exit(_process(world, strike.target), Exit(observed=False, group_empty=True))
    return None


@kind("collective_failure", Aim.JOB)
def collective_failure(world: World, strike: Strike) -> Undo | None:
    """A collective of a job fails on the way: every rank keeps process and state, and waits for the others."""
    gang = world.gangs.find(strike.target)
    if gang is None or not gang.moving:
        raise NothingThere(strike.target)
    world.gangs.flap(gang.job)
    return None


@kind("all_ranks", Aim.JOB)
def all_ranks(world: World, strike: Strike) -> Undo | None:
    """Every process of a job is killed at the same instant."""
    gang = world.gangs.find(strike.target)
    working = [p for p in gang.members.values() if p.works] if gang else []
    if not working:
        raise NothingThere(strike.target)
    exit_ = Exit(observed=True, signal=9, group_empty=True)
    world.agents.exit_all(working, exit_)
    return None


@kind("parked_kill", Aim.NODE)
def parked_kill(world: World, strike: Strike) -> Undo | None:
    """A parked process, that holds no rank, is killed."""
    idle = [p for p in world.nodes[strike.target].live() if p.rank < 0]
    if not idle:
        raise NothingThere(strike.target)
    world.agents.exit(strike.random.choice(idle), Exit(observed=True, signal=9, group_empty=True))
    return None


@kind("broken_start", Aim.JOB, 120.0)
def broken_start(world: World, strike: Strike) -> Undo | None:
    """Processes of a job die as they start, for a while: a full disk, a broken package."""
    name = world.name_of(strike.target)
    world.broken[name] = "OSError: no space left on device"
    return lambda: world.broken.pop(name, None)


@kind("jam", Aim.JOB, 60.0)
def jam(world: World, strike: Strike) -> Undo | None:
    """The ranks of a job cannot find each other for a while: no generation comes together."""
    name = world.name_of(strike.target)
    world.jammed.add(name)
    return lambda: world.jammed.discard(name)


@kind("hang", Aim.RANK)
def hang(world: World, strike: Strike) -> Undo | None:
    """A rank does nothing any more and gives no signal of it; the others wait for it."""
    world.hang_process(_process(world, strike.target))
    return None


@kind("fail_slow", Aim.NODE, 1_800.0, factor=(3.0, 1.1, 100.0))
def fail_slow(world: World, strike: Strike) -> Undo | None:
    """A machine computes slower, and everybody waits for it."""
    node = world.nodes[strike.target]
    if not node.up or node.slow > 1.0:
        raise NothingThere(strike.target)

    def pace(factor: float) -> None:
        node.slow = factor
        world.gangs.pace_changed()

    pace(strike.parameters["factor"])
    return lambda: pace(1.0)


@kind("silent_corruption", Aim.RANK, notice_s=(300.0, 0.0, 86_400.0), transient=(0, 0, 1))
def silent_corruption(world: World, strike: Strike) -> Undo | None:
    """A rank computes wrong results; what it saves is wrong under right digests, until its job's own check notices."""
    process = _process(world, strike.target)
    if process in world.unsound:
        raise NothingThere(strike.target)
    world.unsound.add(process)
    code = TRANSIENT_DISAGREEMENT if strike.parameters["transient"] else PERSISTENT_DISAGREEMENT

    def noticed() -> None:
        if process.works:
            world.agents.exit(process, Exit(observed=True, code=code, message="results disagree", group_empty=True))

    world.kernel.after(strike.parameters["notice_s"], noticed)
    return None
