"""Cells of the coverage tables that seeds do not reach, each with the reason. tests/simulation holds it against what seeds do.

`UNREACHED` are cells of the state tables that no seed can reach, `HARDLY` those that hardly any does. Beside them, every
combination of a fault and a rung that was never seen has a reason: what the fault does to a rank decides which rungs may
answer it.
"""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.core.vocabulary import JOB_STATES, NODE_SERVICE, JobState, NodeService, Rung
from controlplane.sim.faults import CATALOGUE
from controlplane.sim.faults.catalogue import Aim

ENDLESS = "jobs of the swarm train without end; stories and the property test finish them"
NEWCOMERS = "new nodes of the swarm are whole, and nobody drains one in the turn in which it joins"
DECIDED_LATER = "a loss makes a job that runs or starts RECOVERING before anything is decided about it"
TRIALS = "a trial lasts a day, a seed six hours; tests/simulation/test_rare_cells.py ends a short one"
MOMENTS = (
    "an operator, or a defect, must strike in the moment between two states; tests/simulation/test_rare_cells.py does"
)
RETIREMENT = "operators of the swarm give every node back; a story and unit tests retire some"

UNREACHED: Mapping[str, str] = {
    **{
        f"job {before.name} > SUCCEEDED": ENDLESS for before, after in JOB_STATES.items() if JobState.SUCCEEDED in after
    },
    **{
        f"service {before.name} > RETIRED": RETIREMENT
        for before, after in NODE_SERVICE.items()
        if NodeService.RETIRED in after
    },
    "service JOINING > QUARANTINED": NEWCOMERS,
    "service JOINING > DRAINING": NEWCOMERS,
    "job QUEUED > FAILED": "what is in the queue has no ranks that could fail; it is only cancelled",
    "job RUNNING > SUSPENDED": DECIDED_LATER,
    "job RUNNING > FAILED": DECIDED_LATER,
    "job STARTING > FAILED": DECIDED_LATER,
    "checkpoint POISONED > COMMITTED": "operators of the swarm clear no doubt; a story and unit tests do",
}

HARDLY: Mapping[str, str] = {
    "job PLACING > FAILED": MOMENTS,
    "job PLACING > CANCELLED": MOMENTS,
    "job STARTING > CANCELLED": MOMENTS,
    "service QUARANTINED > DRAINING": MOMENTS,
    "service QUARANTINED > IN_SERVICE": MOMENTS,
    "service VALIDATING > IN_SERVICE": MOMENTS,
    "service PROBATION > IN_SERVICE": TRIALS,
}
"""Cells that can be reached, by one seed in hundreds or thousands, or in more time than a seed has."""

MACHINES = frozenset({"node", "node_reboot", "rack", "power", "superpod", "burst", "switch", "zombie", "unlinked"})
"""What takes whole machines away from their jobs."""

DEVICES = frozenset({"device", "device_code", "node_code", "code_once", "job_code", "link_down", "link_flap"})
"""What makes a part of a machine ill; its process cannot go on, or its node is left."""

PROCESSES = frozenset(
    {"process_kill", "process_oom", "process_exit", "process_unseen", "all_ranks", "hang", "silent_corruption"}
)
"""What ends a process, or makes it useless, on hardware that is good."""

GANGS = frozenset({"collective_failure", "jam", "broken_start"})
"""What keeps the ranks of a job from working together."""

FILES = frozenset({"checkpoint_missing", "checkpoint_corrupt"})
"""What a generation finds when it reads its restore point."""

PEOPLE = frozenset({"drain", "restart"})
"""What operators do to a job that works."""

HARMFUL = MACHINES | DEVICES | PROCESSES | GANGS | FILES | PEOPLE

SITE_WIDE = "it strikes the site or its controllers, no rank: a verdict can only follow it in time"
HARMLESS = "it takes nothing from a rank: where a verdict follows, something else had happened to the same node"
AN_END = "it ends the job: there is nothing to recover"
ROOM = "growing back follows from room, whatever had taken it"
INTACT = "a step is tried again only when every rank kept its process and its state"
KEEPS = "all ranks are rolled back only when each kept its process"
NO_HARDWARE = "the hardware is gone: no process starts there again"
READ_ONLY = "a file that cannot be read takes no process away: where a rank goes as well, something else had taken it"
UNSTARTED = "a job whose processes end before they can hold a rank is given up without a verdict of the ladder"
FREE_OF_CHARGE = "an operator's wish is charged to nobody, and no rule is asked"
RARE = "it can happen: where the site is full, a budget is spent, or a rule says so; nothing of the kind was drawn yet"

_RUNGS: Mapping[Rung, tuple[tuple[frozenset[str], str], ...]] = {
    Rung.GROW: ((frozenset(CATALOGUE), ROOM),),
    Rung.RETRY_STEP: ((MACHINES | DEVICES | PROCESSES | FILES | PEOPLE, INTACT),),
    Rung.ROLLBACK: ((MACHINES | DEVICES | PROCESSES | PEOPLE, KEEPS),),
    Rung.RESTART_RANK: ((MACHINES, NO_HARDWARE), (FILES, READ_ONLY)),
    Rung.REPLACE_RANK: ((FILES, READ_ONLY),),
    Rung.SHRINK: ((FILES, READ_ONLY),),
    Rung.FAIL: ((PEOPLE, FREE_OF_CHARGE), (frozenset({"broken_start"}), UNSTARTED)),
}


def why_never(kind: str, rung: Rung) -> str:
    """Why no verdict of a rung was seen that a kind of fault had caused."""
    if kind == "cancel":
        return AN_END
    if kind not in HARMFUL:
        return SITE_WIDE if CATALOGUE[kind].aim is Aim.SITE else HARMLESS
    return next((why for kinds, why in _RUNGS.get(rung, ()) if kind in kinds), RARE)
