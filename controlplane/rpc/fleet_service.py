"""FleetService: the site, its nodes, cordons, faults, and how well all of it is seen."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from phalanx.v1 import fleet_pb2, fleet_pb2_grpc

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Policy
from controlplane.core.units import seconds
from controlplane.core.vocabulary import NodeService
from controlplane.engine.ports import JournalEntry, JournalUnavailable
from controlplane.observability.offenders import Offender
from controlplane.observability.quantiles import distributions
from controlplane.rpc import fault_views, health_views, straggler_views, upkeep_views
from controlplane.rpc.ages import age_s
from controlplane.rpc.caller import own_name
from controlplane.rpc.codec import check_request
from controlplane.rpc.errors import RequestRefused, refuse
from controlplane.rpc.node_columns import NodeListing
from controlplane.rpc.node_health_views import HEALTH_HISTORY, SHOWN_HISTORY, history
from controlplane.rpc.site import Site
from controlplane.rpc.views import ledger_s, node_message

DEFAULT_RECENT = 200
MAX_RECENT = 5_000
LONGEST_S = 366 * 86_400.0


class FleetService(fleet_pb2_grpc.FleetServiceServicer):
    """See proto/phalanx/v1/fleet.proto."""

    def __init__(self, site: Site, policy: Policy) -> None:
        """`policy`: by which the machine decides."""
        self._site = site
        self._policy = policy
        self._listing = NodeListing()

    async def GetSite(self, request: fleet_pb2.GetSiteRequest, context: Any) -> fleet_pb2.GetSiteResponse:
        """The site and its controller."""
        site = self._site
        now_ns = site.now_ns()
        state = site.state.ledger_at(now_ns)
        return fleet_pb2.GetSiteResponse(
            revision=state.revision,
            epoch=state.epoch,
            version=site.version,
            nodes=int(np.count_nonzero(state.fleet.service != NodeService.RETIRED)),
            accelerators=state.fleet.total_accelerators(),
            ledger_s=ledger_s(state.ledger.site),
            wall_s=age_s(state.ledger.begun_ns or now_ns, now_ns),
            detector_degraded=site.brain.degraded(),
            loop_lag_s=site.brain.lag_s(),
            journal_state=site.brain.blocked or "ok",
            orphan_grace_ms=site.settings.orphan_grace_ms,
            refused=site.metrics.refused(),
            detector_reasons=(*state.health.degraded, *site.brain.strain().reasons),
        )

    async def ListNodes(self, request: fleet_pb2.ListNodesRequest, context: Any) -> fleet_pb2.ListNodesResponse:
        """All nodes, in order of first registration."""
        site = self._site
        state, now_ns = site.state, site.now_ns()
        beats = site.progress.last_beat_ns(state.fleet.size)
        if request.columns:
            columns = self._listing.columns(state, beats, now_ns)
            return fleet_pb2.ListNodesResponse(revision=state.revision, columns=columns)
        nodes = [node_message(state, number, beats[number], now_ns) for number in range(state.fleet.size)]
        return fleet_pb2.ListNodesResponse(revision=state.revision, nodes=nodes)

    async def GetNode(self, request: fleet_pb2.GetNodeRequest, context: Any) -> fleet_pb2.GetNodeResponse:
        """One node."""
        site = self._site
        state = site.state
        number = state.fleet.number(request.name)
        if number is None:
            refuse("not_found", "NO_SUCH_NODE", f"no node is named {request.name}: `phalanx get nodes` lists them")
        beat_ns = site.progress.last_beat_ns(state.fleet.size)[number]
        node = node_message(state, number, beat_ns, site.now_ns())
        with contextlib.suppress(
            RequestRefused
        ):  # a journal that is away says nothing of the past: the present is told anyway
            node.history.extend(history(await self._newest(HEALTH_HISTORY, SHOWN_HISTORY, request.name), site.now_ns()))
        return fleet_pb2.GetNodeResponse(revision=state.revision, node=node)

    async def CordonNode(self, request: fleet_pb2.CordonNodeRequest, context: Any) -> fleet_pb2.CordonNodeResponse:
        """Add an owned reason for which the node takes no new work."""
        check_request(request.request_id, ("name", request.name), ("reason", request.reason))
        owner = request.owner or own_name()
        await self._site.command(ev.CordonNode(request.request_id, request.name, owner, request.reason))
        return fleet_pb2.CordonNodeResponse(revision=self._site.state.revision)

    async def DrainNode(self, request: fleet_pb2.DrainNodeRequest, context: Any) -> fleet_pb2.DrainNodeResponse:
        """Cordon a node and have its ranks move elsewhere; GetNode tells when nothing is left there."""
        check_request(request.request_id, ("name", request.name), ("reason", request.reason))
        owner = request.owner or own_name()
        answer = await self._site.command(ev.DrainNode(request.request_id, request.name, owner, request.reason))
        return fleet_pb2.DrainNodeResponse(revision=self._site.state.revision, jobs=answer.fields["jobs"].split())

    async def UncordonNode(
        self, request: fleet_pb2.UncordonNodeRequest, context: Any
    ) -> fleet_pb2.UncordonNodeResponse:
        """Remove one owner's reason."""
        check_request(request.request_id, ("name", request.name))
        await self._site.command(ev.UncordonNode(request.request_id, request.name, request.owner or own_name()))
        return fleet_pb2.UncordonNodeResponse(revision=self._site.state.revision)

    async def RetireNode(self, request: fleet_pb2.RetireNodeRequest, context: Any) -> fleet_pb2.RetireNodeResponse:
        """Take an empty node out for good."""
        check_request(request.request_id, ("name", request.name), ("reason", request.reason))
        await self._site.command(ev.RetireNode(request.request_id, request.name, request.reason))
        return fleet_pb2.RetireNodeResponse(revision=self._site.state.revision)

    async def InjectAcceleratorFault(
        self, request: fleet_pb2.InjectAcceleratorFaultRequest, context: Any
    ) -> fleet_pb2.InjectAcceleratorFaultResponse:
        """Make a simulated accelerator report a fault; an empty code clears it."""
        check_request(request.request_id, ("node", request.node))
        event = ev.InjectFault(
            request.request_id, request.node, request.accelerator, request.code[:100], request.message[:1_000]
        )
        await self._site.command(event)
        return fleet_pb2.InjectAcceleratorFaultResponse(revision=self._site.state.revision)

    async def ListOffenders(
        self, request: fleet_pb2.ListOffendersRequest, context: Any
    ) -> fleet_pb2.ListOffendersResponse:
        """Peers that sent what no well-behaved peer sends."""
        offenders, now_ns = self._site.metrics.offenders, time.time_ns()
        rows = [_offender(row, now_ns) for row in offenders.rows()]
        return fleet_pb2.ListOffendersResponse(offenders=rows, forgotten=offenders.forgotten)

    async def ListFaults(self, request: fleet_pb2.ListFaultsRequest, context: Any) -> fleet_pb2.ListFaultsResponse:
        """What stands, and the newest that the journal tells of."""
        site, wanted = self._site, frozenset(request.nodes)
        state = site.state
        unknown = sorted(name for name in wanted if state.fleet.number(name) is None)
        if unknown:
            refuse("not_found", "NO_SUCH_NODE", f"no node is named {unknown[0]}: `phalanx get nodes` lists them")
        now_ns = site.now_ns()
        shown, total = fault_views.standing(state, wanted, now_ns, request.standing_limit)
        answer = fleet_pb2.ListFaultsResponse(revision=state.revision, standing=shown, standing_total=total)
        if request.since_s > 0:
            limit = min(request.limit or DEFAULT_RECENT, MAX_RECENT)
            begun_ns = now_ns - seconds(min(request.since_s, LONGEST_S))
            only = next(iter(wanted)) if len(wanted) == 1 else ""
            entries = await self._newest((r.FaultsReported,), MAX_RECENT if len(wanted) > 1 else limit, only)
            late = [entry for entry in entries if entry.at_ns >= begun_ns]
            answer.recent.extend(fault_views.recent(state, late, wanted, limit, now_ns))
        return answer

    async def ListFaultRules(
        self, request: fleet_pb2.ListFaultRulesRequest, context: Any
    ) -> fleet_pb2.ListFaultRulesResponse:
        """The fault tables in force."""
        site = self._site
        rules, relations = fault_views.rules(
            site.state, self._policy.catalogue, request.vendor, request.code, site.now_ns()
        )
        return fleet_pb2.ListFaultRulesResponse(revision=site.state.revision, rules=rules, relations=relations)

    async def GetHealth(self, request: fleet_pb2.GetHealthRequest, context: Any) -> fleet_pb2.GetHealthResponse:
        """The detector, the action budget, and what is not seen."""
        site = self._site
        refused = await self._newest((r.ActRefused,), health_views.MAX_REFUSED)
        state, now_ns = site.state, site.now_ns()
        appends = distributions(site.metrics.append_seconds.collect())[""]
        failing = upkeep_views.failing_saves(state, site.root, now_ns)
        return fleet_pb2.GetHealthResponse(
            revision=state.revision,
            detector=health_views.detector(
                state, site.brain, appends, inbox_limit=site.settings.inbox_limit, now_ns=now_ns
            ),
            budget=health_views.budget(state, self._policy.actions, refused, now_ns),
            blind=health_views.blind_spots(state, site.progress.last_beat_ns(state.fleet.size), now_ns),
            refused=site.metrics.refused(),
            canaries=health_views.canaries(state, self._policy.canaries, now_ns),
            slow_ranks=straggler_views.slow_ranks(state, now_ns),
            detection=health_views.detection(distributions(site.metrics.detection.collect(), "failure")),
            failing_saves=failing[: health_views.MAX_LISTED],
            failing_saves_total=len(failing),
        )

    async def _newest(self, kinds: Sequence[type[r.Record]], limit: int, node: str = "") -> list[JournalEntry]:
        """The newest records of these kinds, oldest first."""
        types = tuple(kind.__name__ for kind in kinds)
        try:
            return await asyncio.to_thread(self._site.journal.newest, limit, node=node, types=types)
        except JournalUnavailable as error:
            refuse("unavailable", "JOURNAL_UNAVAILABLE", str(error))


def _offender(row: Offender, now_ns: int) -> fleet_pb2.Offender:
    newest = sorted(row.offences.values(), key=lambda offence: -offence.last_ns)
    offences = [
        fleet_pb2.Offence(
            reason=one.reason, count=one.count, first_age_s=age_s(one.first_ns, now_ns),
            last_age_s=age_s(one.last_ns, now_ns), message=one.message,
        )
        for one in newest
    ]  # fmt: skip
    return fleet_pb2.Offender(name=row.name, proven=row.proven, peer=row.peer, offences=offences)
