"""Copy-on-write columns: numpy arrays are never changed in place, so that a published state stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from controlplane.core.vocabulary import Code

IntColumn = npt.NDArray[np.int32]
LongColumn = npt.NDArray[np.int64]
ByteColumn = npt.NDArray[np.uint8]
BoolColumn = npt.NDArray[np.bool_]

# A comparison of a column with a member asks the member's class for `__array_ufunc__`, and an enumeration looks for what it
# does not have in Python: that took five times as long as the comparison. Here it finds that a member has no arithmetic of
# its own. It stands here because the command line reads the vocabulary and must not wait for numpy.
Code.__array_ufunc__ = np.ndarray.__array_ufunc__  # type: ignore[attr-defined]


def put(column: npt.NDArray[Any], rows: Any, values: Any) -> npt.NDArray[Any]:
    """A copy of `column` with `rows` set to `values`."""
    result = column.copy()
    result[rows] = values
    return result


def filled(size: int, value: int, dtype: Any = np.int32) -> npt.NDArray[Any]:
    """A column of `size` equal values."""
    return np.full(size, value, dtype=dtype)
