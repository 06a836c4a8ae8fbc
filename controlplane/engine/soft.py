"""Soft state in columns, as production keeps it: written by the edge, read by the machine. Never journalled."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import numpy as np

from controlplane.core.health.distrust import LagLog, Vitals
from controlplane.core.health.standstill import Stacks
from controlplane.core.health.stragglers import Standing, StragglerPolicy
from controlplane.core.recovery.restore_point import Copies
from controlplane.core.softstate import StepTimes
from controlplane.core.spec import Parallel
from controlplane.core.units import seconds
from controlplane.engine.held import HeldStates
from controlplane.engine.phases import JobPhases
from controlplane.engine.standstill import StackAnswers, StepPace

STALL_TOLERANCE_NS = 400_000_000
"""A tick later than this is our own lag: every deadline moves by it, and silence convicts nobody for a while."""

NEVER_NS = 2**62
"""A moment after all others, Unix ns."""

TOGETHER_NS = 25_000_000
"""Leases that end so shortly after the first of them ended together: a rack whose agents beat one after the other loses its
power once, and is judged once. As much later a node is doubted at most, and only where another one falls silent with it."""

READ_LATELY_NS = 250_000_000
"""Beats that were read within this time say how long beats wait now."""

WITNESSES = 3
"""Of fewer nodes nobody can say whether we read late or they are far away."""

BEFORE_NS = 3_000_000_000
"""Who was not heard for so long before a lag of ours need not be heard after it."""

MOST = 0.8
"""Share of the nodes that have to be heard anew until what waited has been read."""

UNSAID = -1
"""In place of how long a beat waited: its node did not say when it was sent, or its clock cannot be right."""

SMOOTHED = 16
"""Beats over which `SoftColumns.waits_ns` is smoothed: one node that lies about its clock moves it little."""

SLOW_APPEND_NS = 250_000_000
"""Appends below this are not worth remembering."""


@dataclass(slots=True)
class Progress:
    """Newest step of a job and what came with it. Times in Unix ns."""

    step: int = 0
    at_ns: int = 0
    loss: float = float("nan")
    step_time_s: float = 0.0
    by_rank: dict[int, int] = field(default_factory=dict)
    by_node_ns: dict[int, int] = field(default_factory=dict)
    pace: StepPace = field(default_factory=StepPace)
    phases: JobPhases = field(default_factory=JobPhases)
    parts: tuple[float, ...] = ()
    """In a view, in place of `phases`: see `JobPhases.parts`."""


@dataclass(frozen=True, slots=True)
class StepColumns:
    """Finished steps of ranks of one generation, columns of equal length. `at_ns`: Unix ns; NaN in `losses` and `gradient_norms`:
    not reported, infinite: no finite number. `times`: (rows, 7), see `engine.phases`; None: no row has any."""

    ranks: np.ndarray
    nodes: np.ndarray
    steps: np.ndarray
    at_ns: np.ndarray
    losses: np.ndarray
    step_times_s: np.ndarray
    times: np.ndarray | None = None
    gradient_norms: np.ndarray | None = None

    def taken(self, mask: np.ndarray) -> StepColumns:
        """The rows of a mask."""
        return StepColumns(
            self.ranks[mask], self.nodes[mask], self.steps[mask], self.at_ns[mask], self.losses[mask],
            self.step_times_s[mask], None if self.times is None else self.times[mask],
            None if self.gradient_norms is None else self.gradient_norms[mask],
        )  # fmt: skip


class SoftColumns:
    """Beats and progress. Safe to write from the edge's threads while the brain reads."""

    def __init__(self, started_ns: int) -> None:
        self._lock = threading.Lock()
        self._beats = np.zeros(64, dtype=np.int64)
        self._waited = np.full(64, UNSAID, dtype=np.int64)
        self._behind_ns = 0
        self._waits_ns = 0
        self._trusted_ns = started_ns
        self._lags = LagLog()
        self._vitals = Vitals()
        self._progress: dict[str, Progress] = {}
        self.held = HeldStates()
        self._stacks = StackAnswers()
        self.stalls = 0

    def beat(self, node: int, now_ns: int, waited_ns: int = UNSAID) -> None:
        """A node's lease is renewed. `waited_ns`: how long after it was sent the beat was read, beyond what its way takes at
        best."""
        with self._lock:
            self._make_room(node)
            self._beats[node] = now_ns
            self._waited[node] = waited_ns
            self._note_wait(waited_ns)

    def beats(self, nodes: np.ndarray, at_ns: np.ndarray, waited_ns: int = UNSAID) -> None:
        """Leases of many nodes are renewed, each as of its own moment: one that is known to be later stays. `waited_ns`: see
        `beat`."""
        if not len(nodes):
            return
        with self._lock:
            self._make_room(int(nodes.max()))
            self._beats[nodes] = np.maximum(self._beats[nodes], at_ns)
            self._waited[nodes] = waited_ns
            self._note_wait(waited_ns)

    @property
    def waits_ns(self) -> int:
        """How long the beats that were read last had waited, ns: a smoothed value, for whoever can leave them room."""
        return self._waits_ns

    def _note_wait(self, waited_ns: int) -> None:
        if waited_ns != UNSAID:
            self._waits_ns += (waited_ns - self._waits_ns) // SMOOTHED

    def _make_room(self, node: int) -> None:
        if node >= len(self._beats):
            more = (0, max(node + 1, 2 * len(self._beats)) - len(self._beats))
            self._beats = np.pad(self._beats, more)
            self._waited = np.pad(self._waited, more, constant_values=UNSAID)

    def steps(self, job_uid: str, rows: StepColumns) -> None:
        """Many ranks of one generation finished steps."""
        if not len(rows.ranks):
            return
        with self._lock:
            known = self._progress.setdefault(job_uid, Progress())
            told = [*zip(rows.ranks.tolist(), rows.steps.tolist(), strict=True)]
            moved = np.array([known.by_rank.get(rank) != step for rank, step in told])
            known.by_node_ns.update(zip(rows.nodes[moved].tolist(), rows.at_ns[moved].tolist(), strict=True))
            known.at_ns = max(known.at_ns, int(rows.at_ns[moved].max(initial=0)))
            newest = int(rows.steps.max())
            known.step = max(known.step, newest) if known.by_rank else newest
            known.by_rank.update(told)
            losses = rows.losses[~np.isnan(rows.losses)]
            if len(losses):
                known.loss = float(losses[-1])
            known.step_time_s = float(rows.step_times_s[-1])
            if moved.any():
                known.pace.told(known.step, int(rows.at_ns[moved].max()))
        if rows.times is not None:
            known.phases.tell(rows.ranks, rows.times)

    def rewind(self, job_uid: str, step: int) -> None:
        """A generation starts again from `step`."""
        with self._lock:
            known = self._progress.get(job_uid)
            if known:
                known.by_rank = {}
                known.step = step
                known.phases = JobPhases()
                known.pace.begun_anew()

    def forget(self, job_uid: str) -> None:
        """The job has ended."""
        with self._lock:
            self._progress.pop(job_uid, None)

    def view(self, job_uid: str) -> Progress:
        """A copy of a job's progress, for people."""
        with self._lock:
            known = self._progress.get(job_uid, Progress())
            return Progress(
                known.step, known.at_ns, known.loss, known.step_time_s, dict(known.by_rank), dict(known.by_node_ns),
                parts=known.phases.parts,
            )  # fmt: skip

    def stalled(self, late_ns: int, now_ns: int) -> bool:
        """Tell that the brain woke `late_ns` later than planned; True when that was long enough to distrust silence."""
        if late_ns < STALL_TOLERANCE_NS:
            return False
        with self._lock:
            self._lags.note(late_ns, now_ns)
            self._vitals = replace(self._vitals, lag_ns=late_ns, lag_at_ns=now_ns)
        self.stalls += 1
        return True

    def behind(self, now_ns: int) -> int:
        """How long beats wait now until they are read: what half of the nodes whose beats were read lately waited at least, in
        ns. When that is long we are behind, though no loop is late: silence is distrusted, and deadlines move by as much as
        we fell behind further since the last look.

        One node says one thing, so that fewer than half of them cannot make us doubt ourselves. What was sent before the end of
        a lag that we have told of waited for that, and is excused already.
        """
        with self._lock:
            lately = (self._beats > now_ns - READ_LATELY_NS) & (self._waited != UNSAID)
            waited = self._waited[lately & (self._beats - self._waited > self._vitals.lag_at_ns)]
            middle_ns = int(np.median(waited)) if len(waited) >= WITNESSES else 0
            behind_ns = middle_ns if middle_ns >= STALL_TOLERANCE_NS else 0
            if behind_ns:
                self._vitals = replace(self._vitals, unread_ns=behind_ns, unread_at_ns=now_ns)
                self._lags.note(behind_ns - self._behind_ns, now_ns)
            self._behind_ns = behind_ns
            self._look_whether_caught_up(now_ns)
        return behind_ns

    def _look_whether_caught_up(self, now_ns: int) -> None:
        """After a lag or a slow append: most nodes that were heard shortly before it, or since, have told something newer."""
        vitals = self._vitals
        over_ns = max(vitals.lag_at_ns, vitals.append_at_ns)
        if vitals.caught_up_ns > over_ns or not over_ns:
            return
        living = self._beats > over_ns - max(vitals.lag_ns, vitals.append_ns) - BEFORE_NS
        prompt = (self._waited != UNSAID) & (self._waited < STALL_TOLERANCE_NS)
        newer = living & prompt & (self._beats - self._waited > over_ns)
        if np.count_nonzero(newer) >= max(WITNESSES, MOST * np.count_nonzero(living)):
            self._vitals = replace(vitals, caught_up_ns=now_ns)

    def appended(self, took_ns: int, now_ns: int) -> None:
        """Tell how long an append to the journal took; only slow ones are kept."""
        if took_ns >= SLOW_APPEND_NS:
            with self._lock:
                self._vitals = replace(self._vitals, append_ns=took_ns, append_at_ns=now_ns)

    def waiting(self, events: int, limit: int) -> None:
        """Tell how many events wait, of how many that may."""
        with self._lock:
            self._vitals = replace(self._vitals, inbox=events, inbox_limit=limit)

    def last_beat_ns(self, size: int) -> np.ndarray:
        """See `core.softstate.SoftState`."""
        with self._lock:
            beats = self._beats
            if size > len(beats):
                beats = np.pad(beats, (0, size - len(beats)))
            return beats[:size].copy()

    def newest(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The newest beats of the first `size` nodes: when each was read, Unix ns (0: never), and how long it had waited, ns."""
        with self._lock:
            self._make_room(size - 1)
            return self._beats[:size].copy(), self._waited[:size].copy()

    def lease_ends_ns(self, size: int, lease_ns: int, after_ns: int) -> tuple[int, int]:
        """When the next leases of the first `size` nodes run out, of those that do after a moment: the first one, and the last
        of those that end together with it, Unix ns; NEVER_NS: none does.

        Beats that come later only make it later: whoever looks at these moments is never too late.
        """
        with self._lock:
            heard = np.maximum(self._beats[:size], self._trusted_ns)
            ends = heard + lease_ns + self._lags.excused_ns(heard)
        first = int(ends[ends > after_ns].min(initial=NEVER_NS))
        return first, int(ends.max(where=ends <= first + TOGETHER_NS, initial=first))

    def trusted_since_ns(self) -> int:
        """See `core.softstate.SoftState`."""
        return self._trusted_ns

    def excused_ns(self, since_ns: np.ndarray) -> np.ndarray:
        """See `core.softstate.SoftState`."""
        with self._lock:
            return self._lags.excused_ns(since_ns)

    def vitals(self) -> Vitals:
        """See `core.softstate.SoftState`."""
        with self._lock:
            return self._vitals

    def progress(self, job_uid: str) -> tuple[int, int]:
        """See `core.softstate.SoftState`."""
        with self._lock:
            known = self._progress.get(job_uid)
            return (known.step, known.at_ns) if known else (0, 0)

    def step_time_ns(self, job_uid: str) -> int:
        """See `core.softstate.SoftState`."""
        with self._lock:
            known = self._progress.get(job_uid)
            return seconds(known.step_time_s) if known else 0

    def slow_ranks(self, job_uid: str, ranks: int, parallel: Parallel, policy: StragglerPolicy) -> Standing | None:
        """See `core.softstate.SoftState`."""
        with self._lock:
            known = self._progress.get(job_uid)
        return None if known is None else known.phases.judge(ranks, parallel, policy)

    def step_times(self, job_uid: str) -> StepTimes:
        """See `core.softstate.SoftState`."""
        with self._lock:
            known = self._progress.get(job_uid)
            return known.pace.times() if known else StepTimes()

    def stand(self, effect_id: str, node: str, stacks: Stacks) -> None:
        """A node says where its ranks stand."""
        with self._lock:
            self._stacks.add(effect_id, node, stacks)

    def stacks(self, effect_id: str) -> Stacks:
        """See `core.softstate.SoftState`."""
        with self._lock:
            return self._stacks.of(effect_id)

    def copies(self, job_uid: str) -> Copies:
        """See `core.softstate.SoftState`."""

        def steps() -> dict[int, int]:
            with self._lock:
                known = self._progress.get(job_uid)
                return dict(known.by_rank) if known else {}

        return self.held.copies(job_uid, steps, self._heard_ns)

    def _heard_ns(self, node: int) -> int:
        return int(self._beats[node]) if node < len(self._beats) else 0

    def node_progress_ns(self, job_uid: str, node: int) -> int:
        """See `core.softstate.SoftState`."""
        with self._lock:
            known = self._progress.get(job_uid)
            return known.by_node_ns.get(node, 0) if known else 0
