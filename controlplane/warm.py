"""What Python loads at its first use, loaded before somebody waits for it.

numpy loads `numpy.ma` when `unique` is called for the first time: that is the first verdict on a silent node, or the first hello of
one with processes, and takes some 50 ms. It is not part of a start either, which somebody waits for as well.
"""

from __future__ import annotations

from importlib import import_module

LATE = ("numpy.ma",)


def load_late() -> None:
    """Load them, in whichever thread; who needs one meanwhile waits for the rest of it."""
    for name in LATE:
        import_module(name)
