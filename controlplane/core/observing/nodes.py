"""Sessions and reports of node agents."""

from __future__ import annotations

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Answer, Draft, Refusal
from controlplane.core.observing.devices import take_bare_failures, told_in_hello, told_in_report
from controlplane.core.observing.faults import act, act_on_new
from controlplane.core.observing.hosts import host_rows
from controlplane.core.observing.storage import checked_row, holds, restore_failed, save_row, takes_part, was_asked
from controlplane.core.vocabulary import NodeLiveness, NodeService

MAX_BROKEN_LINKS = 64
"""Links that one node may call broken: one that has lost more has lost its own."""


def node_hello(draft: Draft, event: ev.NodeHello) -> None:
    """A session opens: the node is ALIVE, its rows are the whole truth."""
    fleet = draft.fleet
    number = fleet.number(event.node)
    if number is not None:
        known = fleet.facts[number]
        if event.boot_id < known.boot_id:
            draft.reply = Refusal(
                "stale",
                "OLDER_BOOT",
                f"agent boot {event.boot_id} of {event.node} is older than {known.boot_id}, which this controller has "
                "already seen: stop the older agent process",
            )
            return
        if fleet.service[number] == NodeService.RETIRED:
            text = (
                f"{event.node} is retired and its name stays used: stop this agent, or give the machine another --node"
            )
            draft.reply = Refusal("stale", "NODE_RETIRED", text)
            return
    intake, rows = told_in_hello(draft, event)
    devices = tuple(row.device for row in rows)
    states = tuple(row.state for row in rows)
    if number is not None:
        known = fleet.facts[number]
        changed = (
            known.boot_id != event.boot_id
            or known.accelerators != devices
            or known.address != event.address
            or known.labels != event.labels
            or tuple(int(s) for s in fleet.acc_state[number][: len(states)]) != states
        )
    else:
        changed = True
    if changed:
        draft.write(
            r.NodeRegistered(event.node, event.boot_id, event.address, event.version, event.labels, devices, states)
        )
    draft.write(r.NodeSessionChanged(event.node, open=True, boot_id=event.boot_id, reason="hello"))
    if number is not None and (fleet.liveness[number] != NodeLiveness.ALIVE or fleet.path_broken[number]):
        draft.write(r.LivenessChanged((event.node,), NodeLiveness.ALIVE, "the agent opened a session", ("session",)))
    draft.reply = Answer()
    if number is None:
        number = fleet.size
        act_on_new(draft, event.node, intake.fresh, devices)
    else:
        act(draft, event.node, number, intake.fresh)
        take_bare_failures(draft, event.node, number, rows, intake)
    draft.gather(event.node, host_rows(draft, event.node, number, event.hosts, full=True), ())
    for job in draft.state.active_jobs():
        draft.settle(job.uid)


def nodes_joined(draft: Draft, event: ev.NodesJoined) -> None:
    """Many new nodes at once: one record, and one look at each job."""
    names = [hello.node for hello in event.hellos]
    known = next((name for name in names if draft.fleet.number(name) is not None), "")
    busy = next((hello.node for hello in event.hellos if hello.hosts or hello.faults or hello.unreadable), "")
    if known or busy or len({*names}) < len(names):
        text = f"node {known or busy} is known, runs processes, or is not well, or one is named twice: say hello one by one"
        draft.reply = Refusal("conflict", "NOT_NEW", text)
        return
    draft.reply = Answer()
    believed = [(hello, *told_in_hello(draft, hello)) for hello in event.hellos]
    rows = tuple(
        r.NodeRegistered(
            hello.node, hello.boot_id, hello.address, hello.version, hello.labels,
            tuple(row.device for row in devices), tuple(row.state for row in devices),
        )
        for hello, _, devices in believed
    )  # fmt: skip
    draft.write(r.NodesRegistered(rows))
    for hello, intake, devices in believed:
        act_on_new(draft, hello.node, intake.fresh, tuple(row.device for row in devices))
    for job in draft.state.active_jobs():
        draft.settle(job.uid)


def node_report(draft: Draft, event: ev.NodeReport) -> None:
    """Rows of a node: processes, devices, shards, restore failures, verified checkpoints."""
    number = draft.fleet.number(event.node)
    if number is None or draft.fleet.facts[number].boot_id != event.boot_id:
        draft.reply = Refusal("stale", "OLDER_BOOT", f"report of an earlier boot of {event.node}: dropped")
        return
    if int(draft.fleet.liveness[number]) == NodeLiveness.DEAD:
        text = f"{event.node} was judged DEAD: only a new session with its whole truth makes it ALIVE again"
        draft.reply = Refusal("stale", "NODE_DEAD", text)
        return
    draft.reply = Answer()
    _links(draft, event)
    told_in_report(draft, event, number)
    living = host_rows(draft, event.node, number, event.hosts, full=event.full)
    draft.gather(event.node, living, event.shards)
    for failure in event.restore_failures:
        if holds(draft, failure.job, failure.rank, number):
            restore_failed(draft, failure)
    for row in event.saves:
        if holds(draft, row.job, row.rank, number):
            save_row(draft, row)
    for checked in event.checked:
        if takes_part(draft, checked.job, number) or was_asked(draft, event.node, checked):
            checked_row(draft, checked)


def _links(draft: Draft, event: ev.NodeReport) -> None:
    """Links that a node calls broken, when it says something new, or says it again of a node that we have heard since."""
    if event.broken_links is None:
        return
    broken = tuple(sorted(event.broken_links))[:MAX_BROKEN_LINKS]
    known = draft.state.health.links.get(event.node)
    if known is None or known.broken != broken:
        if broken or known is not None:
            draft.write(r.LinksReported(event.node, broken))
        return
    numbers = [draft.fleet.index[name] for name in broken if name in draft.fleet.index]
    if (draft.soft.last_beat_ns(draft.fleet.size)[numbers] > known.at_ns).any():
        draft.write(r.LinksReported(event.node, broken))


def node_session_lost(draft: Draft, event: ev.NodeSessionLost) -> None:
    """SUSPECT at once, never more."""
    number = draft.fleet.number(event.node)
    if number is None or draft.fleet.facts[number].boot_id != event.boot_id or not draft.fleet.session[number]:
        return
    draft.write(r.NodeSessionChanged(event.node, open=False, boot_id=event.boot_id, reason=event.reason))
    if draft.fleet.liveness[number] == NodeLiveness.ALIVE:
        draft.write(r.LivenessChanged((event.node,), NodeLiveness.SUSPECT, "the agent's stream ended", (event.reason,)))
