"""What a cell agent says of its Ray cluster and of actors."""

from __future__ import annotations

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Answer, Draft, Refusal
from controlplane.core.effects import EffectKind
from controlplane.core.identity import covers
from controlplane.core.jobs import NONE, split_host_id
from controlplane.core.vocabulary import RankState


def cell_hello(draft: Draft, event: ev.CellHello) -> None:
    """A cell agent connects; its list is the whole membership of the nodes that it speaks for."""
    known = draft.state.cells.get(event.cell)
    if known and event.boot_id < known.boot_id:
        draft.reply = Refusal("stale", "OLDER_BOOT", f"cell agent boot {event.boot_id} is older than {known.boot_id}")
        return
    draft.reply = Answer()
    draft.write(r.CellSessionChanged(event.cell, True, event.boot_id, event.incarnation, event.store_address))
    members = {name for name, alive in event.nodes if alive}
    every = event.speaks_for is None
    spoken_for = [name for name in draft.fleet.index if every or covers(event.speaks_for or (), name)]
    _membership(draft, event.cell, tuple((name, name in members) for name in spoken_for))
    for job in draft.state.active_jobs():
        draft.settle(job.uid)


def _membership(draft: Draft, cell: str, nodes: tuple[tuple[str, bool], ...]) -> None:
    fleet = draft.fleet
    joined = tuple(n for n, alive in nodes if n in fleet.index and alive and not fleet.cell_member[fleet.index[n]])
    left = tuple(n for n, alive in nodes if n in fleet.index and not alive and fleet.cell_member[fleet.index[n]])
    if joined or left:
        draft.write(r.CellMembershipChanged(cell, joined, left))


def cell_report(draft: Draft, event: ev.CellReport) -> None:
    """Raylets come and go; dead actors matter only where no process had registered yet."""
    known = draft.state.cells.get(event.cell)
    if known is None or known.boot_id != event.boot_id:
        draft.reply = Refusal("stale", "OLDER_BOOT", f"report of an earlier boot of cell agent {event.cell}: dropped")
        return
    draft.reply = Answer()
    _membership(draft, event.cell, event.nodes)
    if event.store_known and event.store_address != known.store_address:
        draft.write(
            r.CellSessionChanged(event.cell, known.open, known.boot_id, known.incarnation, event.store_address, "store")
        )
    for name, _reason in event.dead_actors:
        fence_unstarted(draft, name)
    for job in draft.state.active_jobs():
        draft.settle(job.uid)


def fence_unstarted(draft: Draft, name: str) -> None:
    """A host that never told of itself will not come: have its node agent make sure, which ends it in the record."""
    parts = split_host_id(name)
    job = draft.state.jobs.get(parts[0]) if parts else None
    if job is None or parts is None or job.terminal:
        return
    at = job.hosts.row(parts[1])
    if at == NONE or job.hosts.state[at] != RankState.STARTING or job.hosts.pid[at]:
        return
    node = draft.fleet.name(int(job.hosts.node[at]))
    draft.effect(EffectKind.FENCE_HOSTS, f"node:{node}", job=job.uid, items=(name,))


def cell_session_lost(draft: Draft, event: ev.CellSessionLost) -> None:
    """Ranks run on; nothing can be started until it is back."""
    known = draft.state.cells.get(event.cell)
    if known and known.open and known.boot_id == event.boot_id:
        draft.write(
            r.CellSessionChanged(
                event.cell, False, known.boot_id, known.incarnation, known.store_address, event.reason
            )
        )  # fmt: skip
