"""The two representations under comparison, behind one interface: numpy columns and frozen dataclasses."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Index = int | slice | Array | list[int]


class Store(Protocol):
    """What exists thousands of times. Names are `<entity>_<field>`; what a read returns is not to be written."""

    copy_ns: int

    def at(self, name: str, i: int) -> int: ...
    def gather(self, name: str, idx: Index) -> Array: ...
    def column(self, name: str) -> Array: ...
    def put(self, name: str, idx: Index, value: Any) -> None: ...
    def fork(self) -> "Store": ...


class Columns:
    """One numpy array per field; a fork shares all arrays and copies one when it first writes to it."""

    def __init__(self, columns: dict[str, Array], owned: set[str]) -> None:
        self._columns, self._owned, self.copy_ns = columns, owned, 0

    def at(self, name: str, i: int) -> int:
        return int(self._columns[name][i])

    def gather(self, name: str, idx: Index) -> Array:
        return np.asarray(self._columns[name][idx])

    def column(self, name: str) -> Array:
        return self._columns[name]

    def put(self, name: str, idx: Index, value: Any) -> None:
        if name not in self._owned:
            begin = perf_counter_ns()
            self._columns[name] = self._columns[name].copy()
            self._owned.add(name)
            self.copy_ns += perf_counter_ns() - begin
        self._columns[name][idx] = value

    def fork(self) -> "Columns":
        return Columns(dict(self._columns), set())


@dataclass(frozen=True, slots=True)
class Node:
    liveness: int
    service: int
    witness: int


@dataclass(frozen=True, slots=True)
class Device:
    state: int
    account: int
    holder: int
    runner: int


@dataclass(frozen=True, slots=True)
class Rank:
    node: int
    device: int
    state: int
    weak: int


class Objects:
    """One frozen dataclass per node, device and rank, in dicts; a fork copies a dict when it first writes to it."""

    KINDS: dict[str, type[Any]] = {"node": Node, "device": Device, "rank": Rank}

    def __init__(self, rows: dict[str, dict[int, Any]], owned: set[str]) -> None:
        self._rows, self._owned, self.copy_ns = rows, owned, 0

    @classmethod
    def of(cls, columns: dict[str, Array]) -> "Objects":
        rows = {}
        for entity, kind in cls.KINDS.items():
            lists = [columns[f"{entity}_{f.name}"].tolist() for f in fields(kind)]
            rows[entity] = {i: kind(*values) for i, values in enumerate(zip(*lists, strict=True))}
        return cls(rows, set(rows))

    def at(self, name: str, i: int) -> int:
        entity, _, field = name.partition("_")
        return int(getattr(self._rows[entity][i], field))

    def gather(self, name: str, idx: Index) -> Array:
        entity, _, field = name.partition("_")
        rows = self._rows[entity]
        return np.array([getattr(rows[i], field) for i in _ints(idx, len(rows))], dtype=np.int32)

    def column(self, name: str) -> Array:
        entity, _, field = name.partition("_")
        return np.array([getattr(row, field) for row in self._rows[entity].values()], dtype=np.int32)

    def put(self, name: str, idx: Index, value: Any) -> None:
        entity, _, field = name.partition("_")
        if entity not in self._owned:
            begin = perf_counter_ns()
            self._rows[entity] = self._rows[entity].copy()
            self._owned.add(entity)
            self.copy_ns += perf_counter_ns() - begin
        rows, which = self._rows[entity], _ints(idx, len(self._rows[entity]))
        values = [int(value)] * len(which) if np.ndim(value) == 0 else [int(v) for v in value]
        for i, v in zip(which, values, strict=True):
            rows[i] = replace(rows[i], **{field: v})

    def fork(self) -> "Objects":
        return Objects(dict(self._rows), set())


def _ints(idx: Index, size: int) -> Sequence[int]:
    if isinstance(idx, int):
        return (idx,)
    if isinstance(idx, slice):
        return range(*idx.indices(size))
    return [int(i) for i in idx]
