"""Out of memory: whether that is what a workload's exception says, and the exit code that tells the controller."""

from __future__ import annotations

from agents.rank.errors import EXIT_OUT_OF_MEMORY, EXIT_UNEVEN_ROUTING

UNEVEN = 4.0
"""The fullest expert on a rank has so many means: memory that is then missing is the routing's doing."""

CHAIN = 8
"""Causes of an exception that are looked at."""
SIGNS = ("can't allocate memory", "out of memory", "not enough memory", "failed to allocate")
"""What the errors of torch's allocators say: of the host, of CUDA and ROCm, of NPUs."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or what it was raised from, says that memory is missing. Imports no torch."""
    seen: BaseException | None = error
    for _ in range(CHAIN):
        if seen is None:
            return False
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        if isinstance(seen, RuntimeError) and any(sign in str(seen).lower() for sign in SIGNS):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False


def verdict(load: float) -> tuple[int, str]:
    """Exit code and last words of a rank that ran out of memory. `load`: see `RankContext.note_load`."""
    if load >= UNEVEN:
        text = f"its fullest expert had {load:.1f} times the mean: the routing is to blame, and no node"
        return EXIT_UNEVEN_ROUTING, f"out of memory while {text} (exit code {EXIT_UNEVEN_ROUTING})"
    return EXIT_OUT_OF_MEMORY, f"out of memory in the workload (exit code {EXIT_OUT_OF_MEMORY})"
