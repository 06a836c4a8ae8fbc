"""The machine: one event in, records and effects out. Reads only; `apply` changes. The parts it calls hold the policy.

Contract of a turn (see `engine.turn`): for every event of a drained batch call `step` on the working state and apply its
records to the working state; the rows and outcomes that are left to be judged together go into one `Gathered`, before anything
else is decided and before a node, or an effect, is heard of a second time; then step the jobs to look at, each once however
many events asked for it, until none is left; append all records in one transaction; publish the working state; only then act
on the effects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from controlplane.core import admission, settle, sweep
from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.audit import LOCAL
from controlplane.core.commands import identity
from controlplane.core.draft import Answer, Draft, Policy, Refusal
from controlplane.core.observing import answers, cells, nodes
from controlplane.core.observing.gathered import gathered
from controlplane.core.observing.numbers import numbers_seen
from controlplane.core.observing.reached import hosts_reached
from controlplane.core.softstate import SoftState
from controlplane.core.state import State


@dataclass(frozen=True, slots=True)
class Decision:
    """What one step returns: records in order, jobs to look at after applying them, the answer to whoever asked, and rows of a
    node and an effect that are judged together with those of others."""

    records: tuple[r.Record, ...]
    follow: tuple[ev.Settle, ...]
    reply: Answer | Refusal | None = None
    gathered: ev.NodeRows | None = None
    finished: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """All decisions of Phalanx. Holds policy, never state."""

    policy: Policy = field(default_factory=Policy)

    def start(self, epoch: int, version: str) -> r.ControllerStarted:
        """The first record of a leadership."""
        return r.ControllerStarted(epoch, version)

    def step(self, state: State, event: ev.Event, now_ns: int, soft: SoftState, draw: float = 0.0) -> Decision:
        """Decide about one event at one time. Pure: the same arguments give the same decision.

        Args:
            state: the truth, with all earlier records applied; not changed.
            event: an observation, a command, a tick or a look at a job.
            now_ns: Unix nanoseconds, never going back.
            soft: beats and steps.
            draw: a random number in [0, 1), the same for a whole turn: waiting times are spread with it.
        """
        draft = Draft(state, now_ns, soft, self.policy, draw)
        self._dispatch(draft, event)
        draft.finish()
        return Decision(tuple(draft.records), tuple(draft.follow), draft.reply, draft.gathered, draft.finished)

    def _dispatch(self, draft: Draft, event: ev.Event) -> None:
        match event:
            case ev.Settle():
                settle.settle(draft, event.job)
            case ev.Tick():
                sweep.tick(draft)
            case ev.NodeHello():
                nodes.node_hello(draft, event)
            case ev.Gathered():
                gathered(draft, event)
            case ev.NodesJoined():
                nodes.nodes_joined(draft, event)
            case ev.NodeReport():
                nodes.node_report(draft, event)
            case ev.HostsReached():
                hosts_reached(draft, event)
            case ev.NodeSessionLost():
                nodes.node_session_lost(draft, event)
            case ev.CellHello():
                cells.cell_hello(draft, event)
            case ev.CellReport():
                cells.cell_report(draft, event)
            case ev.CellSessionLost():
                cells.cell_session_lost(draft, event)
            case ev.EffectDone():
                answers.effect_done(draft, event)
            case ev.CertificateSeen():
                identity.certificate_seen(draft, event)
            case ev.NumbersSeen():
                numbers_seen(draft, event)
            case ev.Ordered():
                admission.command(draft, event.command, event.by)
            case (
                ev.SubmitJob() | ev.CancelJob() | ev.RestartJob() | ev.CordonNode() | ev.DrainNode() | ev.UncordonNode()
                | ev.RetireNode() | ev.InjectFault() | ev.VerifyCheckpoint() | ev.PinCheckpoint() | ev.UnpinCheckpoint()
                | ev.PoisonCheckpoint() | ev.ClearCheckpoints()
                | ev.CreateToken() | ev.Join() | ev.Renew() | ev.IssueOperator() | ev.RevokeIdentity()
                | ev.ReinstateIdentity() | ev.CompactJournal() | ev.KeepCode()
            ):  # fmt: skip
                admission.command(draft, event, LOCAL)
            case _:
                assert_never(event)
