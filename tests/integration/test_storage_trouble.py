"""Storage that is full, slow or not there, and saves on request, with real ranks: no step waits, all is told, no bit changes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from phalanx.v1 import agent_pb2

from tests.fixtures.rank_fake_agent import RankSite

STEPS, EVERY = 30, 4
ARGS = {
    "steps": STEPS, "hidden": 32, "layers": 1, "ffn": 32, "expert_ffn": 16, "q_rank": 16, "kv_rank": 8, "sequence": 16, "batch": 2,
    "data_bytes": 200_000, "step_floor_ms": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def site() -> Iterator[RankSite]:
    """Two trainers that stay for the next test."""
    with RankSite("training_jobs.moe.train", ARGS) as site:
        site.pool = 2
        site.agent.ack_finals = False
        yield site


@pytest.fixture(scope="module")
def undisturbed(site: RankSite) -> str:
    site.announce(site.take(2), ep=2, every_steps=EVERY)
    return digest(site)


def digest(site: RankSite) -> str:
    """Of the final state of this generation; all ranks agree."""

    def found(host: str) -> str | None:
        site.alive(host)
        markers = site.agent.hosts[host].finals
        done = markers and markers[-1].generation == site.generation
        return markers[-1].result["weights_sha256"] if done else None

    words = {site.agent.wait(f"{host} finishes", lambda host=host: found(host)) for host in site.members}
    (word,) = words
    return word


def findings(site: RankSite, host: str) -> list[agent_pb2.SaveFinding]:
    return [found for found in site.agent.hosts[host].save_findings if found.generation == site.generation]


def folder_of_next(site: RankSite) -> Path:
    return site.checkpoints / f"g{site.generation + 1}"


def test_one_rank_is_asked_and_all_save_at_the_same_step(site: RankSite, undisturbed: str) -> None:
    hosts = site.take(2)
    generation = site.announce(hosts, ep=2, every_steps=1_000)
    site.wait_step(3)
    site.agent.save_now(hosts[1], generation - 1)  # late, and of another generation: heeded by nobody
    site.agent.save_now(hosts[1], generation)
    points = site.agent.wait("a checkpoint", lambda: site.committed(generation))
    (step,) = [step for step in points if step < STEPS]
    assert step >= 3
    assert digest(site) == undisturbed
    site.announce(hosts, ep=2, every_steps=1_000, restore=points[step])
    assert digest(site) == undisturbed, "what was saved on request restores like any other"


def test_slow_storage_holds_no_step_up_and_is_told(site: RankSite, undisturbed: str) -> None:
    """The first file of rank 0 blocks in the kernel until somebody reads it, as a hanging mount would."""
    hosts = site.take(2)
    stuck = folder_of_next(site) / "step-4" / "dense" / "meta.json"
    stuck.parent.mkdir(parents=True)
    os.mkfifo(stuck)
    generation = site.announce(hosts, ep=2, every_steps=EVERY)
    site.wait_step(14)
    assert site.committed(generation) == {}
    (told,) = site.agent.wait("it is told", lambda: findings(site, hosts[0]))
    assert (told.word, told.step, told.rank) == (agent_pb2.SAVE_WORD_SLOW, 8, 0)
    assert not findings(site, hosts[1]), "only who waits says so"
    reader = os.open(stuck, os.O_RDONLY)
    site.wait_committed(STEPS)
    assert digest(site) == undisturbed
    os.close(reader)
    steps = sorted(step for step in site.committed(generation) if step != 4)
    assert steps[0] > 14, "what was put off follows as soon as nobody writes any more"
    assert len(steps) > 1


@pytest.fixture
def small_disk(site: RankSite) -> Iterator[Path]:
    """A file system of 64 KiB where the next generation saves."""
    folder = folder_of_next(site)
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_with_its_reason_and_costs_checkpoints_only(
    site: RankSite, undisturbed: str, small_disk: Path
) -> None:
    hosts = site.take(2)
    generation = site.announce(hosts, ep=2, every_steps=EVERY)
    told = site.agent.wait("it is told", lambda: findings(site, hosts[0]))[0]
    assert (told.word, told.step) == (agent_pb2.SAVE_WORD_FAILED, 4)
    assert digest(site) == undisturbed
    assert site.committed(generation) == {}
    left = sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file())
    assert left < 64 << 10, "what could not be completed does not keep the disk full"


def test_a_store_that_takes_no_writes_costs_checkpoints_only_until_it_takes_them_again(
    site: RankSite, undisturbed: str, small_disk: Path
) -> None:
    hosts = site.take(2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    generation = site.announce(hosts, ep=2, every_steps=EVERY)
    told = site.agent.wait("it is told", lambda: findings(site, hosts[0]))[0]
    assert "Read-only file system" in told.reason
    subprocess.run(["mount", "-o", "remount,rw,size=64m", str(small_disk)], check=True)
    site.wait_committed(STEPS)
    assert min(site.committed(generation)) > told.step
    assert digest(site) == undisturbed
