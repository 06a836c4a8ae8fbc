"""Saves at the edge: orders to save and to read back as messages, and what ranks say of saves as rows."""

from __future__ import annotations

import math

import pytest
from phalanx.v1 import agent_pb2

from controlplane.core import events as ev
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.state import State
from controlplane.core.vocabulary import JobState, SaveWord
from controlplane.rpc.effects import Superseded, agent_effect
from controlplane.rpc.errors import RequestRefused
from controlplane.rpc.generations import GenerationMessages
from controlplane.rpc.observations import MAX_ROWS, node_report
from controlplane.rpc.upkeep_views import failing_saves, save_interval_message
from tests.support.world import World, spec


def running() -> World:
    world = World(3)
    world.submit(spec("moe", 4))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(1)
    return world


def sent(effect: Effect, state: State, now_ns: int) -> agent_pb2.AgentEffect:
    return agent_effect(effect, state, "node-00", "/s", now_ns, prepared=GenerationMessages()).effect


def test_an_order_to_save_goes_out_while_somebody_waits() -> None:
    world = running()
    world.stores.slow = 1_000.0
    world.turn(ev.RestartJob("", "moe", "new data"))
    state = world.state()
    (effect,) = [one for one in world.sent if one.kind is EffectKind.SAVE_NOW] or [
        one for one in state.effects.values() if one.kind is EffectKind.SAVE_NOW
    ]
    message = sent(effect, state, world.now_ns)
    assert (message.save_now.job_uid, message.save_now.generation) == (world.job("moe").uid, 1)
    assert 0 < message.save_now.deadline_ms <= 30_000
    assert "waits for a save" in save_interval_message(world.job("moe")).first
    world.turn(ev.RestartJob("", "moe", "at once"))
    with pytest.raises(Superseded):
        sent(effect, world.state(), world.now_ns)


def test_a_scrub_has_a_rate_and_the_first_reading_none() -> None:
    world = running()
    world.checkpoint("moe", 20)
    world.run(1)
    name = f"{world.job('moe').uid}/g1/step-20"
    for items, rate in (((name,), 0), ((name, "25"), 25_000_000)):
        effect = Effect("e", EffectKind.VERIFY_CHECKPOINT, "node:node-00", 2**62, world.job("moe").uid, items=items)
        assert sent(effect, world.state(), world.now_ns).verify_checkpoint.most_bytes_per_s == rate


def finding(uid: str, **changes: object) -> agent_pb2.SaveFinding:
    body = {
        "job_uid": uid,
        "generation": 1,
        "step": 40,
        "rank": 1,
        "word": agent_pb2.SAVE_WORD_FAILED,
        "reason": "full",
    }
    return agent_pb2.SaveFinding(**(body | changes))  # type: ignore[arg-type]


def test_what_ranks_say_is_taken_over_and_what_cannot_be_is_left_out() -> None:
    world = running()
    uid = world.job("moe").uid
    told = [
        finding(uid, reason="x" * 2_000),
        finding(uid, word=agent_pb2.SAVE_WORD_SLOW),
        finding(uid, word=agent_pb2.SAVE_WORD_UNABLE, step=0),
        finding(uid, word=agent_pb2.SAVE_WORD_UNSPECIFIED),
        finding(uid, word=77),
        finding(uid, rank=4),
        finding(uid, step=2**63),
        finding(uid, generation=2**40),
    ]
    message = agent_pb2.Report(sequence=1, save_findings=told)
    rows = node_report("node-00", "b", message, world.now_ns, world.state()).saves
    assert [(row.step, row.word) for row in rows] == [(40, SaveWord.FAILED), (40, SaveWord.SLOW), (0, SaveWord.UNABLE)]
    assert len(rows[0].reason) == 500


def test_too_many_rows_are_refused() -> None:
    world = running()
    message = agent_pb2.Report(sequence=1, save_findings=[finding("moe-1")] * (MAX_ROWS + 1))
    with pytest.raises(RequestRefused, match="save_findings"):
        node_report("node-00", "b", message, world.now_ns, world.state())


def test_a_job_that_cannot_save_says_so() -> None:
    world = running()
    uid = world.job("moe").uid
    row = ev.SaveRow(uid, 1, 40, 1, SaveWord.SLOW, "the save before is still being written")
    world.turn(ev.NodeReport("node-00", world.nodes["node-00"].boot_id, saves=(row,)))
    told = save_interval_message(world.job("moe"))
    assert told.trouble == "step 40 waits to be saved: rank 1: the save before is still being written"
    assert not told.first


def test_failing_saves_of_all_jobs_are_told_the_longest_first() -> None:
    world = World(6)
    for name in ("moe", "dense"):
        world.submit(spec(name, 2))
    world.run_until(lambda: all(world.job(name).state is JobState.RUNNING for name in ("moe", "dense")))
    assert failing_saves(world.state(), "/s", world.now_ns) == []
    for name, word in (("dense", SaveWord.SLOW), ("moe", SaveWord.FAILED), ("dense", SaveWord.FAILED)):
        _tell(world, name, ev.SaveRow(world.job(name).uid, 1, 40, 1, word, "full"))
        world.run(61)
    world.checkpoint("moe", 20)
    world.run(5)
    dense, moe = failing_saves(world.state(), "/s/", world.now_ns)
    assert (dense.job, dense.word, dense.step, dense.rank, dense.reason) == (
        "dense", agent_pb2.SAVE_WORD_FAILED, 40, 1, "full",
    )  # fmt: skip
    assert (round(dense.age_s), round(dense.told_age_s)) == (188, 66)
    assert dense.node == world.state().fleet.name(int(world.job("dense").rank_node[1]))
    assert dense.folder == f"/s/{world.job('dense').uid}"
    assert math.isnan(dense.saved_age_s)
    assert (moe.job, moe.saved_step, round(moe.saved_age_s)) == ("moe", 20, 5)
    world.checkpoint("dense", 60)
    assert [one.job for one in failing_saves(world.state(), "/s", world.now_ns)] == ["moe"]
    world.turn(ev.CancelJob("", "moe", ""))
    world.run_until(lambda: world.job("moe").terminal)
    assert failing_saves(world.state(), "/s", world.now_ns) == [], "nobody saves any more"


def _tell(world: World, name: str, row: ev.SaveRow) -> None:
    node = world.state().fleet.name(int(world.job(name).rank_node[row.rank]))
    world.turn(ev.NodeReport(node, world.nodes[node].boot_id, saves=(row,)))
