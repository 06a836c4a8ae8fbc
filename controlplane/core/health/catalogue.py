"""The fault catalogue: what each vendor code asks for, and the rules on top of single codes. Pure data, and the lookup in it.

Tables are files (`controlplane/catalogues.py` reads them); a site overrides single codes. A code that no table holds is not
harmless: only what its vendor calls minor or a hint is observed, everything else is isolated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from controlplane.core.vocabulary import HandlingLevel, Severity


@dataclass(frozen=True, slots=True)
class Frequency:
    """The same code `count` times on one entity within `window_ms` is worth `level`, for `release_ms`."""

    count: int
    window_ms: int
    release_ms: int
    level: HandlingLevel = HandlingLevel.ISOLATE


@dataclass(frozen=True, slots=True)
class FaultRule:
    """What one code of one vendor asks for. `debounce_ms`: it must stand this long first. `origin`: where this was taken from,
    for people; of an operator's override its file. `shadow`: what it asks for is written down and not done (`health.shadow`)."""

    vendor: str
    code: str
    level: HandlingLevel
    text: str = ""
    debounce_ms: int = 0
    frequency: Frequency | None = None
    origin: str = ""
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """Two codes on one entity within `window_ms` of each other are worth `level`."""

    vendor: str
    codes: tuple[str, str]
    window_ms: int
    level: HandlingLevel
    text: str = ""

    def other(self, code: str) -> str:
        """The second code of the pair, "" when `code` is none of them."""
        first, second = self.codes
        return second if code == first else first if code == second else ""


@dataclass(frozen=True, slots=True)
class SoftwareGuard:
    """The same code on so many devices of one job (at least `devices` and a `share` of them, `most` are always enough) within
    `window_ms`, on more than one node, is the job's own fault."""

    devices: int = 3
    share: float = 0.1
    most: int = 64
    window_ms: int = 2_000


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Rules by (vendor, code), relations, and the guard."""

    rules: dict[tuple[str, str], FaultRule] = field(default_factory=dict)
    relations: tuple[Relation, ...] = ()
    guard: SoftwareGuard = field(default_factory=SoftwareGuard)

    def rule(self, vendor: str, code: str, severity: str) -> FaultRule:
        """The rule of a code; of one that is in no table, what its severity says."""
        known = self.rules.get((vendor, code))
        if known is not None:
            return known
        mild = severity in (Severity.MINOR, Severity.HINT)
        level = HandlingLevel.OBSERVE if mild else HandlingLevel.ISOLATE
        how = f"its vendor calls it {severity}" if severity else "its vendor does not say how bad it is"
        return FaultRule(vendor, code, level, f"no table knows it, and {how}")

    def related(self, vendor: str, code: str) -> tuple[Relation, ...]:
        """Relations that a code takes part in."""
        return tuple(item for item in self.relations if item.vendor == vendor and code in item.codes)
