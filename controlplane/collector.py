"""Python's cycle collector in a process with millions of lasting objects: it walks them as seldom as it can.

With its defaults it looks at everything that is new after 700 objects, and at the whole state again and again while sessions open:
a tenth of a reconnect storm, and pauses in which no beat is read. What is dropped without a cycle never waits for it.
"""

from __future__ import annotations

import gc

YOUNG = 20_000
"""Objects more than before until the new ones are looked at: a millisecond of work."""
MIDDLE, OLD = 20, 20
"""Looks at the new ones before the survivors of former looks are looked at again, and those before all that is left."""


def walk_seldom() -> None:
    """From the beginning on: replay makes objects by the hundred thousand, and hardly a cycle among them."""
    gc.set_threshold(YOUNG, MIDDLE, OLD)


def leave_out_the_state() -> None:
    """What exists now (modules, the replayed state) is never walked again; it is still freed when nobody holds it."""
    gc.freeze()
