"""Records about tests in pairs into state."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from controlplane.core import records as r
from controlplane.core.health.cell import ValidationCell
from controlplane.core.state import State

Validation = r.PairsAwaited | r.ValidationStarted | r.PairsStarted | r.PairAnswered | r.ValidationEnded
"""Records that change the validation cell, and who waits for it."""


def validation(state: State, record: Validation, at_ns: int) -> None:
    """What the validation cell knows."""
    book = state.own_health()
    cell = book.cell
    match record:
        case r.PairsAwaited():
            book.stays[record.node] = replace(book.stays[record.node], paired_ns=at_ns)
        case r.ValidationStarted():
            book.cell = ValidationCell(record.waiting, record.lent)
        case r.PairsStarted():
            if cell is not None:
                book.cell = replace(cell, waves=(*cell.waves, record.pairs), boots=record.boots)
        case r.PairAnswered():
            if cell is not None:
                book.cell = replace(cell, answers=(*cell.answers, record.answer))
        case r.ValidationEnded():
            book.cell = None
            book.paired |= dict.fromkeys((*record.cleared, *record.convicted, *record.suspects), at_ns)
        case _:
            assert_never(record)
