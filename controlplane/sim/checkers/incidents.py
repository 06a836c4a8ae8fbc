"""What the journal says of losses and verdicts: the running incident of every job, and what incidents counted before."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from controlplane.core import records as r
from controlplane.core.evidence import Offence
from controlplane.core.jobs import NONE, LostRank
from controlplane.core.vocabulary import Phase, Rung
from controlplane.sim.checkers.book import Book


@dataclass(slots=True)
class IncidentLine:
    """A running incident. `lost`: by rank; `rung`: the newest verdict's, "" while there is none; `why`: constant name of what
    happened when no rank was lost; `released`: an operator has let the job go on; `counted`: what the newest verdict counts."""

    lost: dict[int, LostRank] = field(default_factory=dict)
    rung: str = ""
    why: str = ""
    released: bool = False
    counted: Offence | None = None

    @property
    def root(self) -> LostRank | None:
        """The earliest loss that follows from no other; what failed goes before what somebody wanted."""
        entries = list(self.lost.values())
        own = [entry for entry in entries if not entry.consequence]
        failed = [entry for entry in own if not entry.planned]
        return min(failed or own or entries, key=lambda entry: (entry.fault_ns, entry.rank), default=None)

    @property
    def free(self) -> bool:
        """Whether nothing has failed: somebody wanted it, replicas come back, or a rank is placed once more."""
        if not self.lost:
            return self.rung == Rung.GROW
        return all(entry.planned or entry.serial == NONE for entry in self.lost.values())


class Incidents:
    """Folded from the records of `WATCHES`, each before the book has it."""

    WATCHES = (
        r.RanksLost, r.IncidentReblamed, r.RecoveryDecided, r.RungFailed, r.GenerationReached, r.JobUnplaced, r.JobEnded,
    )  # fmt: skip

    def __init__(self) -> None:
        self.running: dict[str, IncidentLine] = {}
        self.offences: list[Offence] = []
        self._settled: set[str] = set()

    def fold(self, record: r.Record, book: Book) -> None:
        """Read one record."""
        match record:
            case r.RanksLost():
                self._lost(record)
            case r.IncidentReblamed(job=uid, ranks=ranks, blame=blame, level=level) if uid in self.running:
                for rank in ranks:
                    entry = self.running[uid].lost.get(rank)
                    if entry is not None:
                        facts = replace(entry.facts, fault_level=level)
                        self.running[uid].lost[rank] = replace(entry, blame=blame, facts=facts)
            case r.RecoveryDecided(job=uid, rung=rung) if uid in self.running:
                self._count(uid, book)
                self.running[uid].rung = rung
                self._settled.add(uid)
            case r.RungFailed(job=uid):
                self._settled.discard(uid)
            case r.GenerationReached(job=uid, phase=Phase.FIRST_STEP) | r.JobUnplaced(job=uid) | r.JobEnded(job=uid):
                self.running.pop(uid, None)
                self._settled.discard(uid)
            case _:
                return

    def _lost(self, record: r.RanksLost) -> None:
        known = self.running.get(record.job)
        if known is None:
            lost = {entry.rank: entry for entry in record.lost}
            self.running[record.job] = IncidentLine(lost, "", record.why, record.released)
            return
        overtaken = record.job in self._settled
        if overtaken and known.rung != Rung.SUSPEND:
            known.lost = {}
        if overtaken:
            known.why = record.why
        for entry in record.lost:
            known.lost.setdefault(entry.rank, entry)
        known.released |= record.released
        self._settled.discard(record.job)

    def _count(self, uid: str, book: Book) -> None:
        """A verdict counts its incident against the root's rank and node, once however often it is decided."""
        incident = self.running[uid]
        root = incident.root
        if root is None or root.planned or incident.free:
            incident.counted = None
            return
        node = self.where(uid, root, book)
        known = Offence(uid, root.rank, node, root.fault_ns, root.blame, root.facts.exit_code)
        incident.counted = known
        if known not in self.offences:
            self.offences.append(known)

    def counted(self, uid: str) -> Offence | None:
        """What the newest verdict on a job's running incident counts; None: nothing has failed."""
        incident = self.running.get(uid)
        return incident.counted if incident is not None else None

    def where(self, uid: str, root: LostRank, book: Book) -> int:
        """Node number of a root when it was lost: as it was counted first, for its rank may have moved since."""
        mine = (
            known for known in self.offences if (known.job, known.rank, known.at_ns) == (uid, root.rank, root.fault_ns)
        )
        first = next(mine, None)
        return first.node if first is not None else place_of(book, uid, root.rank)


def place_of(book: Book, uid: str, rank: int) -> int:
    """Node number of a rank, -1 when it has none."""
    places = book.jobs[uid].places
    return places[rank][0] if rank < len(places) else NONE
