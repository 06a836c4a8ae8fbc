"""Phase times of a job's ranks in columns: sums as ranks tell them, in looks of at least one step of each, and a window of those.

A look ends when every rank that tells its times has told a later step, so that slow steps are compared step by step; where
ranks tell at different paces it ends by the fastest one. Of 50,000 ranks a window takes about 35 MB.
"""

from __future__ import annotations

import threading

import numpy as np

from controlplane.core.health import stragglers
from controlplane.core.health.stragglers import LOOKS, MEASURED, Standing, StragglerPolicy
from controlplane.core.spec import Parallel

STEPS, TOTAL, WAITING, DATA, COLLECTION, CHECKPOINT, LOAD = range(7)
"""Columns of what ranks tell: steps, microseconds, and the load of the fullest expert. No steps: nothing is told."""
TOLD = 7
LARGEST = float(1 << 52)
"""Numbers are cut to this: a double holds them exactly."""
PATIENCE = 4
"""So often one rank tells of new steps before a look ends without those that do not."""
TOGETHER = 8
"""So many looks are compared at once: of small jobs one takes as long as eight. Those of large jobs are compared one by one, so
that no turn is long."""
LARGE = 4_096
"""Ranks of a large job."""
MAX_WAITING = 2 * TOGETHER
"""When nobody compares them, the oldest looks are forgotten."""
PARTS = ("compute", "waiting", "data", "garbage collection", "checkpoint")
"""Of a step, in the order of `JobPhases.parts`."""


class JobPhases:
    """Of one generation of a job. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._judging = threading.Lock()
        self._base = np.full((0, TOLD), np.nan)
        self._newest = np.full((0, TOLD), np.nan)
        self._rows = np.zeros(0, dtype=np.uint8)
        self._seen = np.zeros(0, dtype=np.bool_)
        self._tellers = 0
        self._told: list[tuple[np.ndarray, np.ndarray]] = []
        self._told_rows = 0
        self._waiting: list[np.ndarray] = []
        self._window = np.zeros((LOOKS, 0, len(MEASURED)), dtype=np.float32)
        self._looks = 0
        self._standing: Standing | None = None
        self.parts: tuple[float, ...] = ()
        """Mean microseconds a step of each of `PARTS`, over the ranks of the newest look; empty: none yet."""

    def tell(self, ranks: np.ndarray, told: np.ndarray) -> None:
        """Ranks tell their sums, (rows, 7). They are taken in together, once there are as many as ranks that tell any."""
        with self._lock:
            self._told.append((ranks, told))
            self._told_rows += len(ranks)
            if self._told_rows >= self._tellers:
                rows, self._told, self._told_rows = self._told, [], 0
                self._take(np.concatenate([one[0] for one in rows]), np.concatenate([one[1] for one in rows]))

    def _take(self, ranks: np.ndarray, told: np.ndarray) -> None:
        """Of a rank that comes several times the last row counts. A sum that is smaller than before begins anew."""
        valid = (told[:, STEPS] > 0) & np.isfinite(told).all(axis=1)
        if not valid.any():
            return
        ranks, told = ranks[valid], np.clip(told[valid], 0.0, LARGEST)
        self._make_room(int(ranks.max()) + 1)
        before = self._newest[ranks]
        with np.errstate(invalid="ignore"):
            moved = told[:, STEPS] > before[:, STEPS]
            anew = ~(told[:, :LOAD] >= before[:, :LOAD]).all(axis=1)
        self._newest[ranks] = told
        self._base[ranks[anew]] = told[anew]
        self._rows[ranks[anew]] = 0
        self._rows[ranks[moved & ~anew]] += 1
        self._seen[ranks] = ~anew  # who always begins anew holds nobody up
        advanced = self._rows > 0
        if self._rows.max() >= PATIENCE or bool((advanced | ~self._seen).all()):
            self._end_look(advanced)
        self._tellers = int(np.count_nonzero(self._seen))

    def _make_room(self, size: int) -> None:
        more = size - len(self._seen)
        if more > 0:
            self._base = np.pad(self._base, ((0, more), (0, 0)), constant_values=np.nan)
            self._newest = np.pad(self._newest, ((0, more), (0, 0)), constant_values=np.nan)
            self._rows = np.pad(self._rows, (0, more))
            self._seen = np.pad(self._seen, (0, more))

    def _end_look(self, advanced: np.ndarray) -> None:
        """Per step: compute, data, collection, checkpoint, and their sum; the load comes last."""
        here = np.flatnonzero(advanced)
        if not len(here):
            return
        told = self._newest[here]
        spent = told[:, TOTAL:LOAD] - self._base[here, TOTAL:LOAD]
        spent /= (told[:, STEPS] - self._base[here, STEPS])[:, None]
        total, waiting, others = spent[:, 0], spent[:, 1], spent[:, 2:]
        compute = np.maximum(total - waiting - others.sum(axis=1), 0.0)
        look = np.full((len(self._seen), 6), np.nan, dtype=np.float32)
        look[here] = np.column_stack([compute, others, compute + others.sum(axis=1), told[:, LOAD]])
        self.parts = tuple(np.column_stack([compute, waiting, others]).mean(axis=0).tolist())
        self._waiting = [*self._waiting[1 - MAX_WAITING :], look]
        self._base[here] = told
        self._rows[:] = 0
        self._seen = advanced.copy()

    def judge(self, ranks: int, parallel: Parallel, policy: StragglerPolicy) -> Standing | None:
        """What the window says; the same as before until there are looks enough to compare. None: too little is known."""
        if len(self._waiting) < (1 if ranks >= LARGE else TOGETHER):
            return self._standing
        with self._lock:
            waiting, self._waiting = self._waiting, []
        with self._judging:
            if self._window.shape[1] != ranks:
                self._window = np.full((LOOKS, ranks, len(MEASURED)), np.nan, dtype=np.float32)
            looks = np.full((len(waiting), ranks, 6), np.nan, dtype=np.float32)
            for at, look in enumerate(waiting):
                looks[at, : len(look)] = look[:ranks]
            places = (self._looks + np.arange(len(looks))) % LOOKS
            self._window[places] = stragglers.compare(looks[:, :, :5], stragglers.groups_of(ranks, parallel))
            self._looks += len(looks)
            load = np.nan_to_num(looks[-1, :, 5])
            self._standing = stragglers.standing(self._window[: self._looks], load, policy)
        return self._standing
