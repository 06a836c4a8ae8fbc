"""Node ranges and selectors: what they mean, and that nonsense is a usage error with a way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.errors import CliError, Exit
from cli.names import node_names_of
from cli.selectors import parse_fields, parse_labels, rows_by_field, rows_by_label
from controlplane.core.noderange import MAX_NAMES, NodeRangeError, expand

LABELS = [{"rack": "r1", "pool": "a"}, {"rack": "r2"}, {"rack": "r3", "pool": "b", "spare": ""}, {}]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node-1", ["node-1"]),
        ("node-[1-4,7]", ["node-1", "node-2", "node-3", "node-4", "node-7"]),
        ("node[0008-0011]", ["node0008", "node0009", "node0010", "node0011"]),
        ("node-[8-11]", ["node-8", "node-9", "node-10", "node-11"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("a,b,a", ["a", "b"]),
        ("n[1],x[2-3]y", ["n1", "x2y", "x3y"]),
    ],
)
def test_ranges(text: str, names: list[str]) -> None:
    assert list(expand(text)) == names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,",
        "n[1-",
        "n]1[",
        "n[[1]]",
        "n[]",
        "n[a-b]",
        "n[3-1]",
        "n[1-2-3]",
        "n[1,]",
        "n[0-999999]",
        "n[0-999][0-999]",
    ],
)
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(NodeRangeError) as refused:
        expand(text)
    assert refused.value.fix
    with pytest.raises(CliError) as told:
        node_names_of([text])
    assert told.value.code == Exit.USAGE


@given(st.text(alphabet="n[]-,01 9", max_size=30))
def test_any_text_is_bounded(text: str) -> None:
    try:
        names = expand(text)
    except NodeRangeError:
        return
    assert 0 < len(names) <= MAX_NAMES
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("selector", "rows"),
    [
        ("", [0, 1, 2, 3]),
        ("rack=r1", [0]),
        ("rack==r1", [0]),
        ("pool!=a", [1, 2, 3]),
        ("rack in (r1, r3)", [0, 2]),
        ("rack notin (r1,r3)", [1, 3]),
        ("pool", [0, 2]),
        ("!pool", [1, 3]),
        ("rack in (r1,r2),pool=a", [0]),
        ("spare=", [2]),
    ],
)
def test_label_selectors(selector: str, rows: list[int]) -> None:
    assert rows_by_label(LABELS, parse_labels(selector)) == rows


@pytest.mark.parametrize("selector", [",", "a=b,", "a in b", "a in (b", "=b", "a b", "a=b=c", "x" * 20_000, "a," * 200])
def test_what_is_no_label_selector(selector: str) -> None:
    with pytest.raises(CliError) as refused:
        parse_labels(selector)
    assert refused.value.code == Exit.USAGE


def test_field_selectors() -> None:
    columns = {"state": ["RUNNING", "FAILED"], "name": ["a", "b"]}
    assert rows_by_field(columns, parse_fields("state=running", columns), [0, 1]) == [0]
    assert rows_by_field(columns, parse_fields("state!=RUNNING,name=b", columns), [0, 1]) == [1]
    for text, said in (
        ("stat=x", "did you mean `state`?"),
        ("state", "write FIELD=VALUE"),
        ("zzz=1", "fields: name, state"),
    ):
        with pytest.raises(CliError) as refused:
            parse_fields(text, columns)
        assert said in refused.value.fix
