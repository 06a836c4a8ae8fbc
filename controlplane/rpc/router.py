"""From the brain to the streams: effects to the session of their target, commits to whoever must know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from controlplane.core import records as r
from controlplane.core.draft import Refusal
from controlplane.core.effects import Effect
from controlplane.core.vocabulary import NodeLiveness
from controlplane.rpc.cell_service import CellSession
from controlplane.rpc.history import History
from controlplane.rpc.sessions import Registry, Session
from controlplane.rpc.site import Site


class Router:
    """Hands durable effects to sessions. Without a session they stay outstanding, and the next hello takes them along."""

    def __init__(self, site: Site, agents: Registry, cells: Registry, relays: Registry, history: History) -> None:
        self._site = site
        self._history = history
        self._agents = agents
        self._cells = cells
        self._relays = relays

    def submit(self, effects: Sequence[Effect]) -> None:
        """Take effects over from the brain's thread."""
        self._site.loop.call_soon_threadsafe(self._dispatch, tuple(effects))

    def committed(self, records: Sequence[r.Record]) -> None:
        """A turn is durable and published; called in the brain's thread."""
        self._site.loop.call_soon_threadsafe(self._after, tuple(records))

    def sessions(self) -> dict[str, int]:
        """Open sessions by kind of agent; those of nodes behind relays are among the nodes'."""
        registries = {"node": self._agents, "cell": self._cells, "relay": self._relays}
        return {kind: len(registry.current) for kind, registry in registries.items()}

    def end_all(self, refusal: Refusal) -> None:
        """End every session."""
        for registry in (self._agents, self._cells, self._relays):
            for session in tuple(registry.current.values()):
                session.end(refusal)

    def _dispatch(self, effects: tuple[Effect, ...]) -> None:
        self._site.spread.add(step for effect in effects for step in self._sending(effect))

    def _sending(self, effect: Effect) -> Iterator[Callable[[], None]]:
        """One step for each open session that an effect is for, as long as it is outstanding."""
        for session in self._addressed(effect):
            if effect.id not in self._site.state.effects:
                return  # superseded while it was being told
            yield partial(session.send_effects, (effect,))

    def _addressed(self, effect: Effect) -> Iterator[Session]:
        """The open sessions that an effect is for."""
        kind, _, name = effect.target.partition(":")
        names: Iterable[str] = (name,)
        if effect.group:
            state = self._site.state
            job = state.jobs.get(effect.job)
            names = [state.fleet.name(number) for number in job.nodes()] if job else ()
        registry = self._cells if kind == "cell" else self._agents
        return (registry.current[name] for name in names if name in registry.current)

    def _after(self, records: tuple[r.Record, ...]) -> None:
        self._history.observe(records)
        for record in records:
            if isinstance(record, r.LivenessChanged) and record.liveness is NodeLiveness.DEAD:
                self._site.spread.add(self._burying(record))
            elif isinstance(record, r.IdentityRevoked):
                text = f"{record.kind}/{record.name} was revoked: {record.reason}"
                refusal = Refusal("unauthenticated", "REVOKED", text)
                self._site.calls.end(f"{record.kind}/{record.name}", refusal)
            elif isinstance(record, r.NodeRegistered | r.NodesRegistered):
                new = record.nodes if isinstance(record, r.NodesRegistered) else (record,)
                for session in self._cells.current.values():
                    if isinstance(session, CellSession):
                        for registered in new:
                            session.node_registered(registered.node)
        self._site.commits.notify()

    def _burying(self, record: r.LivenessChanged) -> Iterable[Callable[[], None]]:
        """A step for each session that a dead node has now; one that it opens later is not meant."""
        return [
            partial(
                session.end,
                Refusal("stale", "DECLARED_DEAD", f"{node} was declared DEAD ({record.reason}): say hello again"),
            )
            for node in record.nodes
            if (session := self._agents.current.get(node)) is not None
        ]
