"""The durable record of the site's policy; see `records`, which names them all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """From here on the controller decides by these numbers (`core.settings` has their names and units) and by this table of
    fault codes (a fingerprint). Written when a leadership begins with others than the journal knows. `changes`: what is other
    than before, in words; empty the first time."""

    settings: dict[str, float]
    fault_table: str
    changes: tuple[str, ...] = ()
