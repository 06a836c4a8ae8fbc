"""A node that comes back: what it says then replaces what it said before, as far as the job has not gone on without it."""

from __future__ import annotations

import pytest
from phalanx.v1 import agent_pb2

from controlplane.core.recovery.restore_point import NO_STEP, Tier
from controlplane.core.spec import Parallel
from controlplane.core.vocabulary import JobState
from controlplane.engine.held import DISK, MEMORY
from controlplane.engine.soft import SoftColumns
from controlplane.rpc.progress import ProgressGate
from tests.support.world import World, spec


class Site:
    """Eight ranks on four nodes; one of them said that it held ranks 0 and 1 in memory at step 126, and went."""

    def __init__(self) -> None:
        self.world = World(nodes=5)
        self.world.submit(spec("moe", 8, parallel=Parallel(dp=8)))
        self.world.run_until(lambda: self.world.job("moe").state is JobState.RUNNING)
        self.columns = SoftColumns(0)
        self.gate = ProgressGate(self.columns)
        job, fleet = self.world.job("moe"), self.world.state().fleet
        self.uid, self.generation = job.uid, job.generation
        self.node = fleet.name(int(job.rank_node[0]))
        self.idle = next(name for name in self.world.nodes if fleet.number(name) not in set(job.rank_node.tolist()))
        self.tell(self.node, 126, MEMORY)

    def tell(self, node: str, step: int, kind: int, *, generation: int = 0) -> None:
        number = self.world.state().fleet.number(node)
        assert number is not None
        self.gate.held(self.world.state, number, self.rows(step, kind, generation), stopped=True, now_ns=1)

    def rows(self, step: int, kind: int, generation: int = 0) -> agent_pb2.HeldStates:
        return agent_pb2.HeldStates(
            job_uid=self.uid, generation=generation or self.generation,
            ranks=[0, 1], steps=[step] * 2, kinds=bytes([kind] * 2),
        )  # fmt: skip

    def returns(self, node: str, *held: agent_pb2.HeldStates, boot: str = "9" * 20) -> None:
        hello = agent_pb2.AgentHello(node=node, boot_id=boot, snapshot=agent_pb2.Report(held=held))
        self.gate.returned(self.world.state, hello, 2)

    def found(self) -> set[tuple[int, int]]:
        """(step, tier) of all that is held."""
        copies = self.columns.held.copies(self.uid)
        return {
            (int(step), int(tier))
            for step, tier in zip(copies.step.ravel(), copies.tier.ravel(), strict=True)
            if step != NO_STEP
        }


@pytest.fixture
def site() -> Site:
    made = Site()
    assert made.found() == {(126, Tier.MEMORY)}
    return made


def test_what_lies_on_its_disk_takes_the_place_of_what_lay_in_its_memory(site: Site) -> None:
    site.returns(site.node, site.rows(125, DISK))
    assert site.found() == {(125, Tier.LOCAL_DISK)}


def test_a_machine_that_comes_back_with_nothing_holds_nothing(site: Site) -> None:
    """What it said before it went was in its memory: `make soak-training` started a generation from there."""
    site.returns(site.node)
    assert site.found() == set()


def test_what_it_holds_of_another_generation_is_not_taken_and_what_it_said_goes(site: Site) -> None:
    site.returns(site.node, site.rows(125, DISK, site.generation + 1))
    assert site.found() == set()


def test_a_node_without_ranks_of_the_job_is_not_asked(site: Site) -> None:
    site.returns(site.idle, site.rows(125, DISK))
    assert site.found() == {(126, Tier.MEMORY)}


def test_an_older_life_of_the_agent_changes_nothing(site: Site) -> None:
    site.returns(site.node, site.rows(125, DISK), boot="0")
    assert site.found() == {(126, Tier.MEMORY)}


def test_a_stranger_says_nothing(site: Site) -> None:
    site.returns("nobody", site.rows(125, DISK))
    assert site.found() == {(126, Tier.MEMORY)}
