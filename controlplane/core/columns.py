"""Copy-on-write columns: numpy arrays are never changed in place, so that a published state stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

IntColumn = npt.NDArray[np.int32]
LongColumn = npt.NDArray[np.int64]
ByteColumn = npt.NDArray[np.uint8]
BoolColumn = npt.NDArray[np.bool_]


def put(column: npt.NDArray[Any], rows: Any, values: Any) -> npt.NDArray[Any]:
    """A copy of `column` with `rows` set to `values`."""
    result = column.copy()
    result[rows] = values
    return result


def filled(size: int, value: int, dtype: Any = np.int32) -> npt.NDArray[Any]:
    """A column of `size` equal values."""
    return np.full(size, value, dtype=dtype)
