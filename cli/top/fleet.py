"""The nodes of a site as the screen needs them, from either form in which a controller lists them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from phalanx.v1 import fleet_pb2
from phalanx.v1 import types_pb2 as pb

from cli.errors import CliError
from cli.top.conditions import Condition, judge

RACK = "rack"
SUPERPOD = "superpod"
UNLABELLED = "-"
MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node. `jobs` and `cordons` are texts as they are shown; `beat_age_s` may be NaN or infinite: never."""

    name: str
    condition: Condition
    service: int
    liveness: int
    healthy: int
    accelerators: int
    beat_age_s: float
    superpod: str
    rack: str
    jobs: str
    cordons: str


def nodes_of(answer: fleet_pb2.ListNodesResponse) -> tuple[NodeRow, ...]:
    """All nodes of an answer, by super-pod, rack and name. A controller one version older answers without columns.

    Raises:
        CliError: the columns do not belong together.
    """
    try:
        found = list(_from_columns(answer.columns)) or [_from_message(node) for node in answer.nodes]
    except (ValueError, IndexError) as error:
        raise CliError("the controller's list of nodes is damaged", why=str(error)) from error
    return tuple(sorted(found, key=lambda row: (_natural(row.superpod), _natural(row.rack), _natural(row.name))))


def _from_columns(columns: fleet_pb2.NodeColumns) -> Iterator[NodeRow]:
    texts = list(columns.texts)
    places: dict[int, tuple[str, str]] = {}
    for name, service, liveness, healthy, accelerators, age, label, job, cordon in zip(
        columns.names,
        columns.service,
        columns.liveness,
        columns.healthy,
        columns.accelerators,
        columns.last_beat_age_s,
        columns.labels,
        columns.jobs,
        columns.cordons,
        strict=True,
    ):
        if label not in places:
            pairs = dict(pair.partition("=")[::2] for pair in texts[label].split(","))
            places[label] = (pairs.get(SUPERPOD) or UNLABELLED, pairs.get(RACK) or UNLABELLED)
        superpod, rack = places[label]
        jobs, cordons = texts[job], texts[cordon]
        bad = healthy < accelerators
        condition = judge(liveness, service, cordoned=bool(cordons), bad_devices=bad, used=bool(jobs))
        yield NodeRow(
            name, condition, service, liveness, healthy, accelerators, age, superpod, rack, jobs, cordons
        )  # fmt: skip


def _from_message(node: fleet_pb2.Node) -> NodeRow:
    healthy = sum(device.state == pb.ACCELERATOR_STATE_HEALTHY for device in node.accelerators)
    bad = healthy < len(node.accelerators)
    return NodeRow(
        name=node.name,
        condition=judge(
            node.liveness, node.service, cordoned=bool(node.cordons), bad_devices=bad, used=bool(node.jobs)
        ),
        service=node.service,
        liveness=node.liveness,
        healthy=healthy,
        accelerators=len(node.accelerators),
        beat_age_s=node.last_beat_age_s,
        superpod=node.labels.get(SUPERPOD) or UNLABELLED,
        rack=node.labels.get(RACK) or UNLABELLED,
        jobs=",".join(node.jobs),
        cordons="; ".join(f"{reason.owner}: {reason.reason}" for reason in node.cordons),
    )


def _natural(text: str) -> tuple[str, int, str]:
    """A key that puts node-2 before node-10."""
    stem = text.rstrip("0123456789")
    digits = text[len(stem) :]
    return stem, int(digits[-MAX_DIGITS:] or 0), text
