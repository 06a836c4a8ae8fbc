"""Records survive the way to JSON text and back; what this version does not know is refused by name."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from enum import Enum
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.core import codec
from controlplane.core import records as r
from controlplane.core.checkpoints import Shard
from controlplane.core.events import HostRow
from controlplane.core.jobs import Exit
from controlplane.core.vocabulary import RankState

LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=12),
    bool: st.booleans(),
    type(None): st.none(),
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a declared type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in LEAVES:
        return LEAVES[kind]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(list(kind))
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{f.name: values_of(hints[f.name]) for f in dataclasses.fields(kind)})
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, arguments))
    if origin is dict:
        return st.dictionaries(st.text(max_size=5), values_of(arguments[1]), max_size=3)
    if origin in (types.UnionType, typing.Union):
        return st.one_of(*map(values_of, arguments))
    raise TypeError(f"no strategy for {kind!r}")


@pytest.mark.parametrize("record_type", r.TYPES.values(), ids=r.TYPES.keys())
@settings(max_examples=20, derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_record_type_survives(record_type: type[Any], data: st.DataObject) -> None:
    record = data.draw(values_of(record_type))
    name, version, body = r.encode(record)
    again = r.decode(name, version, body)
    assert again == record
    assert r.encode(again) == (name, version, body), "equal records give equal text"
    assert hash(again.__class__) == hash(record_type)


def test_every_type_is_frozen_with_slots() -> None:
    for cls in r.TYPES.values():
        assert dataclasses.fields(cls)
        assert cls.__dataclass_params__.frozen
        assert hasattr(cls, "__slots__")


def test_a_newer_type_is_refused_by_name() -> None:
    with pytest.raises(r.UnknownRecord, match=r"JobTeleported version 1.*does not know the type"):
        r.decode("JobTeleported", 1, "{}")


def test_a_newer_version_is_refused_by_number() -> None:
    with pytest.raises(r.UnknownRecord, match=r"JobEnded version 2.*knows version 1"):
        r.decode("JobEnded", 2, "{}")


def test_an_unknown_field_is_no_silent_loss() -> None:
    with pytest.raises(ValueError, match="has no fields"):
        r.decode("ControllerStarted", 1, '{"epoch":1,"version":"0","colour":"red"}')


def test_a_field_that_came_later_takes_its_default() -> None:
    record = r.decode("NodeCordoned", 1, '{"node":"n","owner":"operator","reason":"look"}')
    assert record == r.NodeCordoned("n", "operator", "look", ())


def test_upcasters_lift_version_by_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(r, "VERSIONS", {"NodeUncordoned": 3})
    lifted = {
        ("NodeUncordoned", 1): lambda body: {"node": body["host"], "by": body["by"]},
        ("NodeUncordoned", 2): lambda body: {"node": body["node"], "owner": body["by"]},
    }
    monkeypatch.setattr(r, "UPCASTERS", lifted)
    assert r.decode("NodeUncordoned", 1, '{"host":"n","by":"operator"}') == r.NodeUncordoned("n", "operator")
    assert r.decode("NodeUncordoned", 2, '{"node":"n","by":"operator"}') == r.NodeUncordoned("n", "operator")


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.int64, np.bool_])
def test_columns_keep_type_and_shape(kind: Any) -> None:
    encode, decode = codec.codec_of(np.ndarray)
    column = np.arange(6).reshape(2, 3).astype(kind)
    again = decode(encode(column))
    assert again.dtype == column.dtype
    assert np.array_equal(again, column)
    empty = np.zeros((0, 4), dtype=kind)
    assert decode(encode(empty)).shape == (0, 4)


def test_a_type_without_codec_is_refused() -> None:
    with pytest.raises(TypeError, match="no codec"):
        codec.codec_of(set)


def test_subject() -> None:
    assert r.subject(r.JobEnding("a-1", 8, "", {})) == ("a-1", "")  # type: ignore[arg-type]
    assert r.subject(r.NodeUncordoned("n1", "operator")) == ("", "n1")
    assert r.subject(r.HostsObserved("a-1", (3,), ())) == ("a-1", ""), "a node number is not a name"


def test_a_former_type_is_read_as_the_one_that_tells_the_same() -> None:
    body = (
        '{"checkpoint":"c","folder":"/s/c","generation":1,"job":"moe-1",'
        '"shard":{"files":[],"rank":3,"reached_ns":5,"save_stall_ns":7},"step":20}'
    )
    told = r.ShardsReported("moe-1", "c", 1, 20, "/s/c", (Shard(3, (), 7, 5),))
    assert r.decode("ShardReported", 1, body) == told
    assert r.type_names([r.ShardsReported, r.HostsLost]) == ("ShardsReported", "HostsLost", "ShardReported")
    with pytest.raises(r.UnknownRecord, match="ShardReported version 2"):
        r.decode("ShardReported", 2, body)


def test_processes_of_one_node_are_read_as_those_of_several() -> None:
    assert r.decode("HostsObserved", 1, '{"job":"moe-1","node":3,"rows":[]}') == r.HostsObserved("moe-1", (3,), ())


def _row(serial: int, **changes: Any) -> HostRow:
    return dataclasses.replace(HostRow("moe-1", serial, RankState.JOINING, serial, 3, 10, 9, 5), **changes)


@pytest.mark.parametrize(
    "rows",
    [(), (_row(1),), (_row(1), _row(2)), (_row(1), _row(2, exit=Exit(observed=True, code=1)), _row(3, since_ns=7))],
    ids=["none", "one", "two", "an exit"],
)
def test_rows_by_column_come_back_as_they_were(rows: tuple[HostRow, ...]) -> None:
    record = r.HostsObserved("moe-1", (3,), rows)
    kind, version, body = r.encode(record)
    assert r.decode(kind, version, body) == record
    former = json.dumps({"job": "moe-1", "nodes": [3], "rows": [codec.encode(row) for row in rows]})
    assert r.decode("HostsObserved", 2, former) == record, "as version 2 wrote it"


def test_what_all_rows_have_in_common_stands_once() -> None:
    body = json.loads(r.encode(r.HostsObserved("moe-1", (3,), tuple(map(_row, range(1, 4)))))[2])
    assert body["rows"]["count"] == 3
    assert body["rows"]["job"] == ["moe-1"]
    assert body["rows"]["serial"] == [1, 2, 3]


@pytest.mark.parametrize("damage", [{"rank": [1, 2]}, {"colour": ["red"]}], ids=["ragged", "unknown"])
def test_columns_that_do_not_fit_are_refused(damage: dict[str, Any]) -> None:
    kind, version, body = r.encode(r.HostsObserved("moe-1", (3,), tuple(map(_row, range(1, 4)))))
    data = json.loads(body)
    data["rows"].update(damage)
    with pytest.raises(ValueError, match=r"argument|colour"):
        r.decode(kind, version, json.dumps(data))
