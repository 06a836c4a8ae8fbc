"""Shadow mode of a fault rule: what it would have done is written down and not done, and held against what operators said later.

A rule whose table says `mode = "shadow"` is evaluated like any other and then only observed. Within a day an operator has
cordoned or drained the node, or has not: that share is the rule's measured precision. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from controlplane.core.units import ms
from controlplane.core.vocabulary import HandlingLevel

DAY_NS = ms(86_400_000)
"""How long an operator's word counts after the rule's, and how long the same part is not counted again."""
MAX_HITS = 256
"""Hits remembered per rule."""
MAX_RULES = 256
OWN_CORDONS = frozenset({"health", "fencing"})
"""Owners of cordons that are the controller's own words."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A shadow rule would have acted. `said_ns`: when an operator cordoned the node, Unix ns; 0: not within a day."""

    node: str
    entity: str
    level: HandlingLevel
    at_ns: int
    said_ns: int = 0


@dataclass(frozen=True, slots=True)
class ShadowBook:
    """Hits by `<vendor>/<code>`, oldest first. Values are never changed in place."""

    hits: dict[str, tuple[Hit, ...]] = field(default_factory=dict)


NO_SHADOWS = ShadowBook()


@dataclass(frozen=True, slots=True)
class Measured:
    """What a shadow rule has shown. `open_`: hits younger than a day without a word."""

    vendor: str
    code: str
    confirmed: int
    refuted: int
    open_: int

    @property
    def precision(self) -> float | None:
        """Share of the judged hits that operators confirmed; None: none is judged yet."""
        judged = self.confirmed + self.refuted
        return self.confirmed / judged if judged else None


def is_new(book: ShadowBook, vendor: str, code: str, hit: Hit) -> bool:
    """Whether a hit counts: the same part under the same rule counts once a day."""
    known = book.hits.get(f"{vendor}/{code}", ())
    return not any((old.node, old.entity) == (hit.node, hit.entity) and hit.at_ns - old.at_ns < DAY_NS for old in known)


def with_hit(book: ShadowBook, vendor: str, code: str, hit: Hit) -> ShadowBook:
    """The book with one more hit; the rule that was hit longest ago goes when there are too many."""
    key = f"{vendor}/{code}"
    others = {name: known for name, known in book.hits.items() if name != key}
    while len(others) >= MAX_RULES:
        others.pop(next(iter(others)))
    return ShadowBook({**others, key: (*book.hits.get(key, ()), hit)[-MAX_HITS:]})


def with_cordon(book: ShadowBook, node: str, owner: str, at_ns: int) -> ShadowBook:
    """An owner's word against a node confirms what shadow rules said of it within the day before."""
    if owner in OWN_CORDONS or not book.hits:
        return book

    def heard(hit: Hit) -> Hit:
        near = hit.node == node and not hit.said_ns and at_ns - hit.at_ns < DAY_NS
        return replace(hit, said_ns=at_ns) if near else hit

    return ShadowBook({key: tuple(map(heard, hits)) for key, hits in book.hits.items()})


def measured(book: ShadowBook, now_ns: int) -> tuple[Measured, ...]:
    """Every shadow rule that would have acted, by vendor and code."""
    found = []
    for key, hits in sorted(book.hits.items()):
        vendor, _, code = key.partition("/")
        confirmed = sum(hit.said_ns > 0 for hit in hits)
        still_open = sum(not hit.said_ns and now_ns - hit.at_ns < DAY_NS for hit in hits)
        found.append(Measured(vendor, code, confirmed, len(hits) - confirmed - still_open, still_open))
    return tuple(found)
