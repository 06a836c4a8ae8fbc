"""Which raylets of a Ray cluster are nodes: every one but the head, and but the heads that there were before."""

from __future__ import annotations

from typing import Any

import pytest

ray = pytest.importorskip("ray")

from agents.cell import ray_cell  # noqa: E402  it imports ray
from agents.cell.ray_cell import NODE_LABEL, HeadLostError, Member, RayCell  # noqa: E402

HEAD = {"node:__internal_head__": 1.0}


def row(ident: str, name: str, *, alive: bool = True, head: bool = False, label: str = "") -> dict[str, Any]:
    resources = {**HEAD, "CPU": 1.0} if head else {}
    labels = {NODE_LABEL: label} if label else {}
    return {"NodeID": ident, "NodeName": name, "Alive": alive, "Resources": resources, "Labels": labels}


def members(monkeypatch: pytest.MonkeyPatch, *rows: dict[str, Any]) -> list[Member]:
    monkeypatch.setattr(ray_cell.ray, "nodes", lambda: list(rows))
    cell = RayCell("127.0.0.1:1", lambda _host, _event: None)
    cell._own_node = "h2"
    return cell.members()


def test_the_head_is_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    found = members(monkeypatch, row("h2", "head", head=True), row("a", "127.0.0.1", label="node-1"))
    assert found == [Member("node-1", True, "a")]


def test_nor_is_a_former_head_of_which_the_cluster_keeps_only_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that was killed, then a restarted GCS: the cell reported on a node `head`, for which it does not speak, and was
    refused for ever."""
    found = members(
        monkeypatch,
        row("h1", "head", alive=False),
        row("h2", "head", head=True),
        row("a", "127.0.0.1", label="node-1"),
    )
    assert found == [Member("node-1", True, "a")]


def test_the_newest_life_of_a_node_counts_and_one_that_died_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = members(
        monkeypatch,
        row("h2", "head", head=True),
        row("a", "x", alive=False, label="node-1"),
        row("b", "x", label="node-1"),
        row("c", "x", alive=False, label="node-2"),
    )
    assert found == [Member("node-1", True, "b"), Member("node-2", False, "c")]


def test_a_head_that_is_dead_ends_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HeadLostError):
        members(monkeypatch, row("h2", "head", alive=False))
