"""The map of `phalanx top`: how a node is judged, how fine the map is, and where the cursor goes. No screen."""

import math
import random
from collections.abc import Iterator

import pytest
from phalanx.v1 import agent_pb2, fleet_pb2
from phalanx.v1 import types_pb2 as t

from cli.errors import CliError
from cli.top.conditions import LOOKS, TROUBLE, Condition, judge
from cli.top.fleet import NodeRow, nodes_of
from cli.top.sitemap import Cell, Level, Rack, Scope, SiteMap, draw_up, moved, next_trouble, racks_of

ALIVE, IN_SERVICE = t.NODE_LIVENESS_ALIVE, t.NODE_SERVICE_IN_SERVICE


@pytest.mark.parametrize(
    ("liveness", "service", "cordoned", "bad", "used", "expected"),
    [
        (ALIVE, IN_SERVICE, False, False, True, Condition.IN_USE),
        (ALIVE, IN_SERVICE, False, False, False, Condition.FREE),
        (ALIVE, IN_SERVICE, True, False, True, Condition.CORDONED),
        (ALIVE, IN_SERVICE, True, True, True, Condition.FAULTY),
        (t.NODE_LIVENESS_SUSPECT, IN_SERVICE, True, True, True, Condition.SUSPECT),
        (t.NODE_LIVENESS_DEAD, t.NODE_SERVICE_QUARANTINED, False, False, False, Condition.DEAD),
        (t.NODE_LIVENESS_DEAD, t.NODE_SERVICE_RETIRED, False, False, False, Condition.RETIRED),
        (ALIVE, t.NODE_SERVICE_DRAINING, True, False, True, Condition.DRAINING),
        (ALIVE, t.NODE_SERVICE_JOINING, False, False, False, Condition.JOINING),
        (t.NODE_LIVENESS_UNSPECIFIED, IN_SERVICE, False, False, True, Condition.UNKNOWN),
        (99, IN_SERVICE, False, False, True, Condition.UNKNOWN),
        (ALIVE, 99, False, False, True, Condition.UNKNOWN),
    ],
)
def test_the_worst_that_is_true_is_shown(
    *, liveness: int, service: int, cordoned: bool, bad: bool, used: bool, expected: Condition
) -> None:
    assert judge(liveness, service, cordoned=cordoned, bad_devices=bad, used=used) is expected


def test_signs_alone_tell_conditions_apart() -> None:
    signs = [LOOKS[condition].sign for condition in Condition]
    assert len(set(signs)) == len(Condition)
    assert all(len(sign) == 1 for sign in signs)


def messages() -> list[fleet_pb2.Node]:
    device = agent_pb2.AcceleratorStatus(state=t.ACCELERATOR_STATE_HEALTHY)
    broken = agent_pb2.AcceleratorStatus(state=t.ACCELERATOR_STATE_FAILED)
    place = {"rack": "r1", "superpod": "s1"}
    return [
        fleet_pb2.Node(name="n10", liveness=ALIVE, service=IN_SERVICE, labels=place, accelerators=[device] * 2),
        fleet_pb2.Node(name="n2", liveness=ALIVE, service=IN_SERVICE, labels=place, accelerators=[broken], jobs=["a"]),
        fleet_pb2.Node(name="n1", liveness=t.NODE_LIVENESS_DEAD, service=IN_SERVICE),
    ]


def columns() -> fleet_pb2.NodeColumns:
    return fleet_pb2.NodeColumns(
        names=["n10", "n2", "n1"],
        service=[IN_SERVICE] * 3,
        liveness=[ALIVE, ALIVE, t.NODE_LIVENESS_DEAD],
        healthy=[2, 0, 0],
        accelerators=[2, 1, 0],
        last_beat_age_s=[0, 0, 0],
        session_open=[False] * 3,
        cell_member=[False] * 3,
        labels=[1, 1, 0],
        jobs=[0, 2, 0],
        cordons=[0, 0, 0],
        versions=[0, 0, 0],
        addresses=[0, 0, 0],
        texts=["", "rack=r1,superpod=s1", "a"],
    )


def test_both_forms_of_a_listing_give_the_same_nodes_in_natural_order() -> None:
    from_columns = nodes_of(fleet_pb2.ListNodesResponse(columns=columns()))
    assert from_columns == nodes_of(fleet_pb2.ListNodesResponse(nodes=messages()))
    assert [(node.name, node.condition) for node in from_columns] == [
        ("n1", Condition.DEAD),
        ("n2", Condition.FAULTY),
        ("n10", Condition.FREE),
    ]
    assert [(node.superpod, node.rack) for node in from_columns] == [("-", "-"), ("s1", "r1"), ("s1", "r1")]


@pytest.mark.parametrize("damage", ["shorter", "beyond"])
def test_columns_that_do_not_belong_together_are_refused(damage: str) -> None:
    damaged = columns()
    if damage == "shorter":
        del damaged.service[2]
    else:
        damaged.labels[0] = 7
    with pytest.raises(CliError, match="damaged"):
        nodes_of(fleet_pb2.ListNodesResponse(columns=damaged))


def site(nodes: int, *, per_rack: int, per_superpod: int = 0, bad: tuple[int, ...] = ()) -> tuple[Rack, ...]:
    def row(number: int) -> NodeRow:
        superpod = f"s{number // per_superpod}" if per_superpod else "-"
        condition = Condition.DEAD if number in bad else Condition.IN_USE
        return NodeRow(
            f"n{number}", condition, IN_SERVICE, ALIVE, 8, 8, 0.1, superpod, f"r{number // per_rack}", "moe", ""
        )

    return racks_of([row(number) for number in range(nodes)])


def cells(found: SiteMap) -> list[Cell]:
    return [spot.cell for _, spot in found.cells() if spot.cell is not None]


def walk(found: SiteMap, width: int) -> Iterator[str]:
    """Problems of a drawing: things on top of each other or outside."""
    for y, line in enumerate(found.lines):
        end = 0
        for spot in line:
            length = 1 if spot.cell else len(spot.text)
            if spot.x < end:
                yield f"line {y}: {spot} overlaps"
            end = spot.x + length
        if end > width and found.level is not Level.SUPERPOD:
            yield f"line {y} ends at {end}"


@pytest.mark.parametrize(
    ("nodes", "per_rack", "per_superpod", "width", "height", "level"),
    [
        (4, 2, 0, 77, 7, Level.NODE),
        (64, 16, 0, 77, 7, Level.NODE),
        (6250, 16, 512, 77, 7, Level.RACK),
        (6250, 8, 250, 77, 7, Level.SUPERPOD),
        (6250, 16, 512, 197, 60, Level.NODE),
        (6250, 16, 0, 77, 7, Level.RACK),
        (6250, 10_000, 0, 77, 7, Level.NODE),
        (3, 1, 1, 1, 1, Level.SUPERPOD),
    ],
)
def test_the_map_is_as_fine_as_the_room_allows(
    *, nodes: int, per_rack: int, per_superpod: int, width: int, height: int, level: Level
) -> None:
    found = draw_up(site(nodes, per_rack=per_rack, per_superpod=per_superpod), Scope(), width, height)
    assert found.level is level
    assert sum(len(cell.nodes) for cell in cells(found)) == nodes


def test_no_drawing_overlaps_or_leaves_its_room() -> None:
    random.seed(3)
    for _ in range(200):
        size = random.randint(0, 400)
        rows = site(size, per_rack=random.randint(1, 60), per_superpod=random.choice([0, 64, 128]))
        width = random.randint(20, 200)
        found = draw_up(rows, Scope(), width, random.randint(1, 40))
        assert not list(walk(found, width))
        assert sum(len(cell.nodes) for cell in cells(found)) == size


def test_a_rack_is_shown_by_its_worst_node_and_named_below() -> None:
    found = draw_up(site(6250, per_rack=16, per_superpod=512, bad=(20, 21)), Scope(), 77, 7)
    second = cells(found)[1]
    assert second.condition is Condition.DEAD
    assert second.words() == "super-pod s0, rack r1: 16 nodes: 14 in use, 2 dead (n20, n21)"
    inside = draw_up(site(6250, per_rack=16, per_superpod=512, bad=(20,)), second.scope, 77, 7)
    assert (inside.level, [cell.name for cell in cells(inside)][:2]) == (Level.NODE, ["n16", "n17"])
    assert second.scope.outer() == Scope("s0")
    assert second.scope.outer().outer() == Scope()


def test_the_cursor_moves_along_and_across_and_stays_inside() -> None:
    found = draw_up(site(40, per_rack=10), Scope(), 30, 4)
    order = cells(found)
    first, last = order[0], order[-1]
    assert moved(found, None, 0, 0) is first
    assert moved(found, first.key, -1, 0) is first
    assert moved(found, first.key, 1, 0) is order[1]
    assert moved(found, last.key, 1, 0) is last
    below = moved(found, order[3].key, 0, 1)
    assert below is not None
    assert below.name in {"n13", "n23"}  # the same column of the next line
    assert moved(found, first.key, 0, -1) is first
    assert moved(SiteMap(Level.NODE, Scope(), ()), None, 1, 1) is None


def test_trouble_is_found_in_order_and_round_again() -> None:
    found = draw_up(site(40, per_rack=10, bad=(5, 30)), Scope(), 60, 10)
    names = []
    at = None
    for _ in range(3):
        cell = next_trouble(found, at.key if at else None)
        assert cell is not None
        at = cell
        names.append(cell.name)
    assert names == ["n5", "n30", "n5"]
    assert next_trouble(draw_up(site(3, per_rack=1), Scope(), 60, 10), None) is None
    assert Condition.CORDONED not in TROUBLE


def test_an_age_of_never_is_no_number() -> None:
    from cli.top.text import age

    assert [age(0.5), age(math.nan), age(math.inf)] == ["0.50 s ago", "never", "never"]
