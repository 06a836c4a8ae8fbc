"""The long matrix: every kind of kill, several times each, every training compared with the undisturbed one."""

from __future__ import annotations

import random

import pytest

from cli.commands.fault import Target
from tests.e2e.site import RunningSite, poll

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

ROUNDS = 3


@pytest.mark.parametrize("what", [Target.PROCESS, Target.HOST])
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("attempt", range(ROUNDS))
@pytest.mark.timeout(600)
def test_one_rank(site: RunningSite, reference: str, what: Target, rank: int, attempt: int) -> None:
    name = f"soak-{what}-{rank}-{attempt}"
    site.submit(name)
    choice = random.Random(f"{name}")
    before = site.running(name, step=choice.randrange(5, 100))
    site.kill(name, rank, what)
    site.recovered(name, before)
    assert site.finished(name).result["weights_sha256"] == reference


@pytest.mark.parametrize("unit", ["controller", "cell-agent", "store", "gcs", "cell-head"])
@pytest.mark.parametrize("attempt", range(ROUNDS))
@pytest.mark.timeout(600)
def test_one_unit_and_a_rank_at_once(site: RunningSite, reference: str, unit: str, attempt: int) -> None:
    name = f"soak-{unit}-{attempt}"
    site.submit(name)
    choice = random.Random(f"{name}")
    before = site.running(name, step=choice.randrange(5, 100))
    restarts = site.units()[unit]["restarts"]
    site.kill(name, choice.randrange(4))
    site.kill_unit(unit)
    site.unit_back(unit, restarts)
    site.recovered(name, before)
    assert site.finished(name).result["weights_sha256"] == reference


@pytest.mark.timeout(1800)
def test_nodes_one_after_another(site: RunningSite, reference: str) -> None:
    """Destroy a node, repair it, destroy the next; the job moves on each time."""
    site.submit("soak-nodes")
    for round_number in range(ROUNDS):
        job = site.running("soak-nodes", step=15 + 40 * round_number)
        node = job.ranks[round_number % 4].node
        site.phalanx("inject", "destroy-node", node)
        site.recovered("soak-nodes", job)
        site.phalanx("inject", "restart-node", node)
        poll(lambda node=node: site.nodes()[node].cell_member, f"{node} is back", 90)
    assert site.finished("soak-nodes", 400).result["weights_sha256"] == reference
