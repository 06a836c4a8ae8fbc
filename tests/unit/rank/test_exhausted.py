"""Which exceptions mean that memory is missing, and what the process then says."""

from __future__ import annotations

import pytest
import torch

from agents.rank.errors import EXIT_OUT_OF_MEMORY, EXIT_UNEVEN_ROUTING
from agents.rank.exhausted import UNEVEN, out_of_memory, verdict


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ..."),
            True,
        ),
        (caused(ValueError("the step failed"), MemoryError()), True),
        (caused(ValueError("the step failed"), ValueError("no")), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_means_want_of_memory(error: Exception, expected: bool) -> None:
    assert out_of_memory(error) is expected


def test_the_error_of_torch_itself() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)
    assert out_of_memory(raised.value)


def test_a_ring_of_causes_ends() -> None:
    one, other = ValueError("a"), ValueError("b")
    one.__cause__, other.__cause__ = other, one
    assert not out_of_memory(one)


def test_uneven_routing_is_told_from_other_want() -> None:
    assert verdict(0.0)[0] == verdict(UNEVEN - 0.1)[0] == EXIT_OUT_OF_MEMORY
    code, words = verdict(6.5)
    assert code == EXIT_UNEVEN_ROUTING
    assert "6.5 times the mean: the routing is to blame, and no node" in words
