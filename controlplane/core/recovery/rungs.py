"""What could end an incident: every rung that it leaves open, with its price or with why it cannot work. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controlplane.core.fleet import FREE, Fleet
from controlplane.core.jobs import NONE, Incident, Job
from controlplane.core.placement.gang import Blocked, Placement, replace_ranks
from controlplane.core.recovery import rules
from controlplane.core.recovery.elastic import in_replicas, replicas, shrink
from controlplane.core.recovery.ladder import SHOWN, Option, loss, ranks_text, spans, warm
from controlplane.core.recovery.phase_times import PhaseTimes
from controlplane.core.recovery.ruling import Ruling, costs_nothing
from controlplane.core.spec import RuleAction
from controlplane.core.vocabulary import NodeLiveness, Rung

MAX_FAILED_GENERATIONS = 2
"""After this many generations in one incident that did not come to run, survivors are given up."""
FAILED = "failed in this incident"


def survivors(job: Job) -> np.ndarray:
    """Mask over ranks whose process is alive and holds the rank."""
    rows = job.host_rows()
    held: np.ndarray = rows != NONE
    held[held] = job.hosts.live()[rows[held]]
    return held


def misplaced(job: Job, fleet: Fleet, ranks: tuple[int, ...]) -> tuple[int, ...]:
    """Those of `ranks` that cannot start where they are: node takes no work, or a device is unusable."""
    at = _placed(job, ranks)
    return tuple(at[~_fit(job, fleet, at)].tolist())


def _fit(job: Job, fleet: Fleet, at: np.ndarray) -> np.ndarray:
    """Mask over the ranks `at`: they can start where they are."""
    mask: np.ndarray = fleet.schedulable()[job.rank_node[at]] & _good_devices(job, fleet, at)
    return mask


def _placed(job: Job, ranks: tuple[int, ...]) -> np.ndarray:
    at = np.array(ranks, dtype=np.int64)
    taking_part: np.ndarray = at[job.present[at]]
    return taking_part


def _good_devices(job: Job, fleet: Fleet, at: np.ndarray) -> np.ndarray:
    """Mask over the ranks `at`: all devices of the rank can run it."""
    mask: np.ndarray = fleet.usable_accelerators()[job.rank_node[at][:, None], job.rank_acc[at]].all(axis=1)
    return mask


def unsure(job: Job, fleet: Fleet, ranks: tuple[int, ...]) -> tuple[int, ...]:
    """Node numbers of `ranks` that cannot start there now only because we do not see enough of the node: no session (an
    agent or this controller was restarted), no raylet, or SUSPECT. They are worth a short wait; the others are not."""
    at = _hidden(job, fleet, ranks, NodeLiveness.ALIVE, NodeLiveness.SUSPECT)
    return tuple(np.unique(job.rank_node[at]).tolist())


def unheard(job: Job, fleet: Fleet, ranks: tuple[int, ...]) -> tuple[int, ...]:
    """Those of `ranks` that cannot start where they are now only because we do not hear the node: SUSPECT or UNKNOWN."""
    return tuple(_hidden(job, fleet, ranks, NodeLiveness.SUSPECT, NodeLiveness.UNKNOWN).tolist())


def _hidden(job: Job, fleet: Fleet, ranks: tuple[int, ...], *believed: NodeLiveness) -> np.ndarray:
    """Those of `ranks` whose nodes take no work now, though all that we know of them is good, and `believed`."""
    hidden = ~fleet.schedulable() & ~fleet.cordoned & fleet.serving() & np.isin(fleet.liveness, believed)
    at = _placed(job, ranks)
    at = at[hidden[job.rank_node[at]]]
    good: np.ndarray = at[_good_devices(job, fleet, at)]
    return good


@dataclass(frozen=True, slots=True)
class Site:
    """A job with an incident, the nodes, what the rules say, and what a rung costs the job now."""

    job: Job
    fleet: Fleet
    ruling: Ruling
    times: PhaseTimes
    redone_s: float

    @property
    def incident(self) -> Incident:
        """The running incident."""
        assert self.job.incident is not None
        return self.job.incident

    def price(self, rung: Rung, *, is_warm: bool = False, gone: int = 0) -> float:
        """Expected loss, accelerator-seconds."""
        return loss(self.job, rung, self.times, is_warm=is_warm, redone_s=self.redone_s, gone=gone)

    def avoid(self, ranks: np.ndarray) -> frozenset[int]:
        """Nodes of `ranks` that take no work, or that a rule wants them to leave, and those that this verdict takes out."""
        left = np.zeros(self.fleet.size, dtype=np.bool_)
        left[self.job.rank_node[ranks]] = True
        left &= ~self.fleet.schedulable()
        left[self.job.rank_node[ranks[self.told(ranks)]]] = True
        return self.ruling.leaving.union(np.flatnonzero(left).tolist())

    def told(self, ranks: np.ndarray) -> np.ndarray:
        """Mask over `ranks`: a rule moves them elsewhere."""
        moved = np.zeros(self.job.spec.ranks, dtype=np.bool_)
        moved[list(self.ruling.moved)] = True
        mask: np.ndarray = moved[ranks]
        return mask

    def barred(self, ranks: np.ndarray) -> np.ndarray:
        """Mask over `ranks`: they may not come back to where they are, even where there is no room elsewhere."""
        return self.told(ranks) & self.ruling.barred

    def late(self, ranks: np.ndarray) -> np.ndarray:
        """Mask over `ranks`: ranks of this incident have not come up on their nodes."""
        spent = np.zeros(self.fleet.size, dtype=np.bool_)
        spent[list(self.incident.spent_nodes)] = True
        mask: np.ndarray = spent[self.job.rank_node[ranks]]
        return mask


def options(site: Site, alive: np.ndarray, lost: tuple[int, ...]) -> tuple[Option, ...]:
    """Every rung that the incident leaves open, what disturbs least first. `alive`: mask over ranks; `lost`: the others that
    take part."""
    ruling, incident = site.ruling, site.incident
    asked = ruling.choice is not None and ruling.action is RuleAction.RESTART_JOB
    if asked and ruling.choice:
        return _all_anew(site, alive, rules.told(ruling.choice), give_up=True)
    if incident.attempts >= MAX_FAILED_GENERATIONS:
        return _all_anew(site, alive, "generations kept failing", give_up=True)
    if not lost:
        keep = _keeping_all(site)
        usable = any(not option.blocked for option in keep)
        return keep if usable else (*keep, *_all_anew(site, alive, "nothing less has worked", give_up=True))
    if not alive.any():
        why = "no rank keeps its process" if costs_nothing(incident) else "no rank survived"
        return _all_anew(site, alive, why, give_up=False)
    return _some_anew(site, alive, lost)


def _keeping_all(site: Site) -> tuple[Option, ...]:
    """Rungs that take no process from a rank."""
    incident = site.incident
    retry, back = (FAILED if rung in incident.spent_rungs else "" for rung in (Rung.RETRY_STEP, Rung.ROLLBACK))
    if not site.job.spec.restart_policy.retry_step:
        retry = "the job does not say that it can do a step again (`restartPolicy.retryStep`)"
    kept = "every rank kept its process"
    again = Option(Rung.RETRY_STEP, f"{kept} and its state", retry, site.price(Rung.RETRY_STEP))
    return (*([again] * incident.intact), Option(Rung.ROLLBACK, kept, back, site.price(Rung.ROLLBACK)))


def _some_anew(site: Site, alive: np.ndarray, lost: tuple[int, ...]) -> tuple[Option, ...]:
    """Rungs that give processes to the lost ranks only."""
    job, spent = site.job, frozenset(site.incident.spent_nodes)
    at = np.array(lost, dtype=np.int64)
    bad, told, late = ~_fit(job, site.fleet, at), site.told(at), site.late(at)
    homeless = at[bad | told | late]
    found = []
    is_warm = warm(job, job.rank_node[at])
    if len(homeless):
        found.append(Option(Rung.RESTART_RANK, "", _why_not_here(at[bad], at[told], at[late])))
    else:
        text = f"hardware good, processes {_wait(is_warm)}"
        price = site.price(Rung.RESTART_RANK, is_warm=is_warm)
        found.append(Option(Rung.RESTART_RANK, text, loss=price, warm=is_warm, ranks=lost))
    if len(homeless) or (not is_warm and job.spare_nodes):
        found.append(_elsewhere(site, Rung.REPLACE_RANK, at, homeless if len(homeless) else at, spent))
    if len(homeless) and job.spec.elastic.min_replicas:
        found.append(_smaller(site, at, homeless, spent))
    if (
        not bad.any() and not site.barred(at).any() and all(option.blocked for option in found)
    ):  # the same places again, and everybody anew
        found += _all_anew(site, alive, "there is no room elsewhere", give_up=True)
    return tuple(found)


def _why_not_here(bad: np.ndarray, told: np.ndarray, late: np.ndarray) -> str:
    """Why ranks do not start again where they are."""
    if len(bad):
        return f"hardware of {ranks_text(bad)} is not usable"
    return f"a rule moves {ranks_text(told)}" if len(told) else f"{ranks_text(late)} did not come up there"


def _all_anew(site: Site, alive: np.ndarray, why: str, *, give_up: bool) -> tuple[Option, ...]:
    """Rungs that give every rank a new process; nodes that failed the job, or that a rule wants it to leave, are left where
    there is room."""
    job, incident = site.job, site.incident
    at = np.flatnonzero(job.present)
    fence = tuple(job.rank_host[alive].tolist()) if give_up else ()
    bad, left = ~_fit(job, site.fleet, at) | site.barred(at), site.late(at) | site.told(at)
    option = _elsewhere(site, Rung.RESTART_JOB, at, at[bad | left], frozenset(incident.spent_nodes))
    if option.blocked and left.any():
        option = _elsewhere(site, Rung.RESTART_JOB, at, at[bad], frozenset())
    found = [replace(option, text=f"{why}; {option.text}" if option.moved else why, fence=fence)]
    if option.blocked and job.spec.elastic.min_replicas:
        found.append(replace(_smaller(site, at, at[bad], frozenset()), fence=fence))
    return tuple(found)


def _elsewhere(site: Site, rung: Rung, ranks: np.ndarray, moved: np.ndarray, spent: frozenset[int]) -> Option:
    """New processes for `ranks`, of which `moved` need another place."""
    job, all_ranks = site.job, tuple(ranks.tolist())
    nodes = job.rank_node[ranks]
    if not len(moved):
        is_warm = warm(job, nodes)
        return Option(rung, "", loss=site.price(rung, is_warm=is_warm), warm=is_warm, ranks=all_ranks)
    going = tuple(moved.tolist())
    places = replace_ranks(site.fleet, job, going, site.avoid(moved) | spent)
    if isinstance(places, Blocked):
        return Option(rung, "", places.reason)
    nodes[np.searchsorted(ranks, moved)] = places.nodes
    is_warm = warm(job, nodes)
    fit = f"{ranks_text(moved)} fit{'s' * (len(moved) == 1)}"
    text = f"{fit} on {_names(site.fleet, places)}, processes {_wait(is_warm)}"
    return Option(rung, text, "", site.price(rung, is_warm=is_warm), is_warm, all_ranks, going, places)


def _smaller(site: Site, lost: np.ndarray, homeless: np.ndarray, spent: frozenset[int]) -> Option:
    """The job without the replicas for which there is no room."""
    job = site.job
    if Rung.SHRINK in site.incident.spent_rungs:
        return Option(Rung.SHRINK, "", FAILED)
    plan = shrink(job, site.fleet, homeless, site.avoid(homeless) | spent)
    if isinstance(plan, Blocked):
        return Option(Rung.SHRINK, "", plan.reason)
    leaves = in_replicas(job.spec, plan.dropped)
    gone = int(np.count_nonzero(leaves & job.present)) * job.spec.accelerators_per_rank
    left = replicas(job) - len(plan.dropped)
    text = f"without replicas {spans(plan.dropped)} {left} of {job.spec.parallel.dp} are left"
    price = site.price(Rung.SHRINK, gone=gone)
    ranks = tuple(lost[~leaves[lost]].tolist())
    return Option(Rung.SHRINK, text, "", price, False, ranks, plan.moved, plan.moves, (), plan.dropped)


def unblocks(job: Job, fleet: Fleet) -> str:
    """What would let a job go on for which there is no room."""
    present = fleet.liveness == NodeLiveness.ALIVE
    others = (fleet.acc_owner != FREE) & (fleet.acc_owner != job.serial)
    degrees, least = job.spec.parallel, job.spec.elastic.min_replicas
    ways = [
        ("a node comes back", not present.all()),
        ("a node is uncordoned", bool((present & fleet.cordoned).any())),
        (
            "a device is repaired",
            bool(((fleet.acc_state != 0) & ~fleet.usable_accelerators() & present[:, None]).any()),
        ),
        ("another job ends", bool(others.any())),
        ("the job may run with fewer replicas (`elastic.minReplicas`)", not least and degrees.dp > degrees.ep),
    ]
    open_ways = [way for way, there_is in ways if there_is] or ["the site has more accelerators"]
    return f"it goes on when {' or '.join(open_ways)}"


def _wait(is_warm: bool) -> str:
    return "are parked" if is_warm else "have to start"


def _names(fleet: Fleet, places: Placement) -> str:
    nodes = sorted(set(places.nodes))
    text = ", ".join(fleet.name(node) for node in nodes[:SHOWN])
    return text + (f" and {len(nodes) - SHOWN} more nodes" if len(nodes) > SHOWN else "")
