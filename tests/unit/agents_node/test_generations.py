"""Rank tables: merging, keeping, and their store."""

from __future__ import annotations

from pathlib import Path

import pytest
from phalanx.v1 import agent_pb2

from agents.node.generations import TABLES_PER_JOB, GenerationStore, GenerationTables, Rejected


def order(generation: int, rows: dict[int, str], *, base: int = 0, world: int = 3) -> agent_pb2.ApplyGeneration:
    table = [agent_pb2.RankRow(rank=rank, node=node) for rank, node in rows.items()]
    return agent_pb2.ApplyGeneration(
        job_uid="j",
        generation=generation,
        base_generation=base,
        world_size=world,
        rows=table,
        store_address=f"s{generation}",
    )


WHOLE = {0: "a", 1: "b", 2: "c"}


def with_whole(*generations: int) -> GenerationTables:
    tables = GenerationTables()
    for generation in generations:
        whole = tables.merge(order(generation, WHOLE))
        assert not isinstance(whole, Rejected)
        tables.keep(whole)
    return tables


def nodes(whole: agent_pb2.ApplyGeneration | Rejected) -> list[str]:
    assert not isinstance(whole, Rejected), whole.message
    assert whole.base_generation == 0
    return [row.node for row in whole.rows]


def test_a_patch_replaces_rows_and_takes_the_rest_of_the_order() -> None:
    tables = with_whole(1)
    whole = tables.merge(order(2, {1: "x"}, base=1))
    assert nodes(whole) == ["a", "x", "c"]
    assert not isinstance(whole, Rejected)
    assert whole.store_address == "s2"


def test_patches_on_an_older_base_and_resized_worlds() -> None:
    tables = with_whole(1, 2)
    assert nodes(tables.merge(order(3, {2: "x"}, base=1))) == ["a", "b", "x"]
    assert nodes(tables.merge(order(3, {}, base=2, world=2))) == ["a", "b"]
    assert nodes(tables.merge(order(3, {3: "d"}, base=2, world=4))) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("message", "wanted", "need_full"),
    [
        (order(5, {1: "x"}, base=3), "need full table", True),
        (order(5, {}, base=1, world=4), "need full table: the table holds 3 ranks", True),
        (order(5, {0: "a", 1: "b"}), "the table holds 2 ranks", False),
        (order(5, {0: "a", 1: "b", 7: "c"}), "the table holds 3 ranks", False),
        (order(5, {}, world=0), "world size above 0", False),
        (order(0, WHOLE), "older than 1", False),
        (order(5, {0: "a" * (1 << 20), 1: "b", 2: "c"}), "a frame to a rank holds", False),
    ],
)
def test_what_cannot_be_applied(message: agent_pb2.ApplyGeneration, wanted: str, need_full: bool) -> None:
    rejected = with_whole(1).merge(message)
    assert isinstance(rejected, Rejected)
    assert wanted in rejected.message
    assert rejected.need_full == need_full


def test_older_generations_are_rejected_and_repeats_are_not() -> None:
    tables = with_whole(2, 4)
    assert isinstance(tables.merge(order(3, WHOLE)), Rejected)
    assert nodes(tables.merge(order(4, WHOLE))) == ["a", "b", "c"]


def test_tables_per_job_are_bounded() -> None:
    tables = with_whole(*range(1, TABLES_PER_JOB + 3))
    assert tables.table("j", 2) is None
    assert tables.table("j", 3) is not None


def test_the_store_outlives_the_agent(tmp_path: Path) -> None:
    store = GenerationStore(tmp_path / "generations")
    for generation in (1, 2):
        whole = store.tables.merge(order(generation, WHOLE))
        assert not isinstance(whole, Rejected)
        store.keep(whole)
    again = GenerationStore(tmp_path / "generations")
    assert again.tables.newest("j") == 2
    assert again.tables.table("j", 1) == store.tables.table("j", 1)
    again.drop("j")
    assert GenerationStore(tmp_path / "generations").tables.newest("j") == 0


def test_a_broken_table_file_only_costs_a_full_table(tmp_path: Path) -> None:
    store = GenerationStore(tmp_path / "generations")
    whole = store.tables.merge(order(1, WHOLE))
    assert not isinstance(whole, Rejected)
    store.keep(whole)
    path = next((tmp_path / "generations").iterdir())
    path.write_bytes(path.read_bytes()[:-3])
    GenerationStore(tmp_path / "generations")
    assert not path.exists()


def own(generation: int, rows: dict[int, str], bound: int) -> agent_pb2.ApplyGeneration:
    message = order(generation, rows, world=50_000)
    message.own_rows = True
    message.bindings.add(rank=bound, host_id="j-1")
    return message


def test_rows_of_this_nodes_ranks_are_enough() -> None:
    tables = GenerationTables()
    kept = tables.merge(own(7, {41_000: "a"}, 41_000))
    assert nodes(kept) == ["a"]
    assert isinstance(tables.merge(own(7, {41_000: "a"}, 41_001)), Rejected)


def test_a_patch_of_rows_that_were_never_told_needs_the_whole_table() -> None:
    tables = GenerationTables()
    kept = tables.merge(own(1, {0: "a"}, 0))
    assert not isinstance(kept, Rejected)
    tables.keep(kept)
    patch = tables.merge(order(2, {1: "x"}, base=1))
    assert isinstance(patch, Rejected)
    assert patch.need_full
    assert nodes(tables.merge(order(2, WHOLE))) == ["a", "b", "c"]
