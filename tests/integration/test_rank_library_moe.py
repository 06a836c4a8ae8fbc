"""The MoE trainer through kills, stops and corruption: whatever happens, the final state has the undisturbed bits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from phalanx.v1 import types_pb2

from tests.fixtures.rank_fake_agent import RankSite

STEPS, EVERY = 12, 4
ARGS = {
    "steps": STEPS,
    "hidden": 32,
    "layers": 1,
    "ffn": 32,
    "expert_ffn": 16,
    "q_rank": 16,
    "kv_rank": 8,
    "sequence": 16,
    "batch": 2,
    "data_bytes": 200_000,
    "step_floor_ms": 20,
}
FIXTURES = str(Path(__file__).resolve().parents[1] / "fixtures")
RESTORING = types_pb2.RANK_STATE_RESTORING


@pytest.fixture(scope="module")
def site() -> Iterator[RankSite]:
    """Trainers whose final marker is never acknowledged, so that they can be used for the next test."""
    with RankSite("training_jobs.moe.train", ARGS) as site:
        site.pool = 5
        site.agent.ack_finals = False
        yield site


@pytest.fixture(scope="module")
def undisturbed(site: RankSite) -> str:
    """Digest of a run in which nothing went wrong."""
    site.announce(site.take(4), ep=2, every_steps=EVERY)
    return final_digest(site)


def final_digest(site: RankSite) -> str:
    """Wait until all ranks of the generation have finished; they must agree."""
    finals = []
    for host in site.members:

        def found(host: str = host) -> str | None:
            site.alive(host)
            markers = site.agent.hosts[host].finals
            done = markers and markers[-1].generation == site.generation
            return markers[-1].result["weights_sha256"] if done else None

        finals.append(site.agent.wait(f"{host} finishes generation {site.generation}", found))
    assert len(set(finals)) == 1, finals
    return finals[0]


def test_checkpoints_are_written_once_and_metrics_name_every_step(site: RankSite, undisturbed: str) -> None:
    assert len(undisturbed) == 64
    points = site.agent.wait("the last one is committed", lambda: (found := site.committed(1)).get(STEPS) and found)
    assert sorted(points) == [4, 8, 12]
    parts = sorted({file.path.split("/")[0] for file in points[4].files})
    assert parts == ["dense", "experts-0-3", "experts-4-7"]
    assert len({file.path for file in points[4].files}) == len(points[4].files), "a file was written twice"
    writers = [host for host in site.members if any(s.files for s in site.agent.hosts[host].shards)]
    assert len(writers) == 3, "spread over the ranks; the fourth reports an empty list"
    rows = [json.loads(line) for line in (site.checkpoints / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["generation"] == 1] == list(range(1, STEPS + 1))
    assert rows[0]["loss"] == pytest.approx(5.5, abs=0.2)


def test_a_rank_killed_in_a_step_and_replaced_changes_no_bit(site: RankSite, undisturbed: str) -> None:
    a, b, c, d, spare = site.take(5)
    site.announce([a, b, c, d], ep=2, every_steps=EVERY)
    point = site.wait_committed(4)
    site.wait_step(6)
    pids = {host: site.agent.hosts[host].pid for host in (a, c, d)}
    site.kill(b)
    site.announce([a, spare, c, d], ep=2, every_steps=EVERY, restore=point)
    site.wait_step(5)
    assert final_digest(site) == undisturbed
    assert {host: site.agent.hosts[host].pid for host in pids} == pids


def test_a_rank_killed_while_restoring_changes_no_bit(site: RankSite, undisturbed: str) -> None:
    a, b, c, d, spare = site.take(5)
    site.announce([a, b, c, d], ep=2, every_steps=EVERY)
    point = site.wait_committed(8)
    site.announce([a, b, c, d], ep=2, every_steps=EVERY, restore=point)
    site.agent.wait("d restores", lambda: site.agent.hosts[d].statuses[-1].generation == site.generation)
    site.kill(d)  # joining or restoring
    site.announce([a, b, c, spare], ep=2, every_steps=EVERY, restore=point)
    assert final_digest(site) == undisturbed


def test_a_stopped_rank_is_replaced_and_changes_no_bit(site: RankSite, undisturbed: str) -> None:
    a, b, c, d, spare = site.take(5)
    site.announce([a, b, c, d], ep=2, every_steps=EVERY)
    point = site.wait_committed(4)
    site.freeze(c)
    site.announce([a, b, spare, d], ep=2, every_steps=EVERY, restore=point)
    assert final_digest(site) == undisturbed
    site.kill(c)


def test_rank_zero_and_another_lost_at_once(site: RankSite, undisturbed: str) -> None:
    a, b, c, d, first, second = site.take(6)
    site.announce([a, b, c, d], ep=2, every_steps=EVERY)
    point = site.wait_committed(4)
    site.kill(a)
    site.kill(b)  # both holders of a place in every group
    site.announce([first, second, c, d], ep=2, every_steps=EVERY, restore=point)
    assert final_digest(site) == undisturbed


def test_a_corrupt_byte_is_found_before_use_and_an_older_point_works(site: RankSite, undisturbed: str) -> None:
    hosts = site.take(4)
    generation = site.announce(hosts, ep=2, every_steps=EVERY)
    newest, older = site.wait_committed(8), site.wait_committed(4)
    bad = next(file for file in newest.files if file.path.startswith("experts-0-3") and file.path.endswith("distcp"))
    path = Path(newest.folder) / bad.path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    site.announce(hosts, ep=2, every_steps=EVERY, restore=newest)
    failed = site.agent.wait("failure", lambda: [f for h in hosts for f in site.agent.hosts[h].restore_failures])[-1]
    assert (failed.file, failed.generation) == (bad.path, generation + 1)
    assert failed.checkpoint_id == newest.checkpoint_id
    assert "SHA-256" in failed.reason
    site.announce(hosts, ep=2, every_steps=EVERY, restore=older)
    assert final_digest(site) == undisturbed


def test_another_expert_parallel_degree_restores_the_same_checkpoint(site: RankSite) -> None:
    hosts = site.take(4)
    site.announce(hosts, ep=2, every_steps=EVERY)
    point = site.wait_committed(12)
    digest = final_digest(site)
    site.announce(hosts, ep=4, every_steps=EVERY, restore=point)  # at the last step: finishes at once
    assert final_digest(site) == digest


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(site: RankSite, undisturbed: str) -> None:
    hosts = site.take(4)
    blocked = site.checkpoints / f"g{site.generation + 1}"
    blocked.write_text("a file where the folder should be: every save of this generation fails")
    generation = site.announce(hosts, ep=2, every_steps=EVERY)
    assert final_digest(site) == undisturbed
    assert site.committed(generation) == {}
    assert "checkpoint of step 4 not written" in site.tail(hosts[0])


def test_replicas_that_differ_are_found_at_the_end(site: RankSite) -> None:
    workload = json.dumps({**site.workload, "args": {**ARGS, "drop_buffer": STEPS, "step_floor_ms": 0}})
    odd = site.start(1, PHALANX_WORKLOAD=workload)
    site.parked(odd)
    hosts = site.take(3) + odd
    site.announce(hosts, ep=2)
    assert [site.processes[host].wait(60) for host in hosts] == [17] * 4
    assert "blocks.0.moe.router.bias (rank 3 against rank 0)" in site.tail(hosts[0])


def test_ddp_leaves_a_backward_pass_when_its_peer_is_stopped() -> None:
    """At the order, not when the patience with a silent peer ends, which is ten minutes."""
    with RankSite("rank_ddp_workload", {"steps": 60, "endless": 1}, path=FIXTURES) as ddp:
        a, b, spare = ddp.start(3)
        ddp.parked([a, b, spare])
        ddp.announce([a, b])
        ddp.wait_step(10)
        ddp.freeze(b)
        ddp.wait_still(a)  # in the backward pass, and not in the report that follows one
        flagged = time.monotonic()
        ddp.announce([a, spare])
        results = ddp.results()
        ended = json.loads(next(line for line in ddp.log(a).read_text().splitlines() if line.startswith("{")))
        assert ended["generation"] == 1
        assert ended["at"] - flagged < 120.0
        assert results == [{"equal": "True"}] * 2
