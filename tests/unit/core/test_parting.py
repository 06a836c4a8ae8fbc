"""Saving on the way out, saves that fail, and the scrubber, on the simulated site. Story 37 tells the rest."""

from __future__ import annotations

from typing import TypeVar

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.checkpoints import StoragePolicy
from controlplane.core.draft import Policy
from controlplane.core.effects import EffectKind
from controlplane.core.spec import CheckpointPolicy
from controlplane.core.state import State
from controlplane.core.vocabulary import CheckpointState, JobState, SaveWord
from controlplane.engine.recover import load
from tests.support.world import World, spec

Kind = TypeVar("Kind")


def running(policy: Policy | None = None, **changes: object) -> World:
    world = World(4, policy=policy)
    world.submit(spec("moe", 4, **changes))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(1)
    return world


def written(world: World, kind: type[Kind]) -> list[Kind]:
    entries = world.journal.newest(2_000, types=(kind.__name__,))
    found = [r.decode(entry.type, entry.version, entry.body) for entry in entries]
    return [record for record in found if isinstance(record, kind)]


def asked(world: World) -> int:
    return sum(effect.kind is EffectKind.SAVE_NOW for effect in world.sent)


def save_row(world: World, word: SaveWord, *, step: int = 40, rank: int = 0, generation: int = 1) -> ev.SaveRow:
    return ev.SaveRow(world.job("moe").uid, generation, step, rank, word, "No space left on device")


def tell(world: World, row: ev.SaveRow, node: str = "node-00") -> None:
    world.turn(ev.NodeReport(node, world.nodes[node].boot_id, saves=(row,)))


def test_a_drain_loses_what_was_made_while_the_save_was_written_and_nothing_else() -> None:
    world = running()
    world.turn(ev.DrainNode("", "node-00", "ann", "firmware"))
    world.run_until(lambda: world.job("moe").generation == 2)
    job = world.job("moe")
    (ended,) = written(world, r.SaveEnded)
    assert job.restore_step == ended.step > 0
    assert f"step {ended.step} saved first" in written(world, r.RecoveryDecided)[0].reason
    assert job.saving is None, "the next planned stop asks anew"
    assert asked(world) == 1, "one node is told"


def test_a_job_that_never_saves_is_not_waited_for() -> None:
    world = running(checkpoint=CheckpointPolicy(every_steps=0))
    world.turn(ev.RestartJob("", "moe", ""))
    assert world.job("moe").state is JobState.RECOVERING
    assert not asked(world)


def test_a_site_may_do_without() -> None:
    world = running(Policy(checkpoints=StoragePolicy(save_first_ms=0)))
    world.turn(ev.RestartJob("", "moe", ""))
    assert world.job("moe").state is JobState.RECOVERING
    assert not asked(world)


def test_ranks_that_cannot_save_on_request_are_not_waited_for() -> None:
    world = running()
    world.stores.slow = 1_000.0
    world.turn(ev.RestartJob("", "moe", ""))
    assert world.job("moe").state is JobState.RUNNING
    tell(world, save_row(world, SaveWord.UNABLE, step=0, generation=7))
    assert world.job("moe").state is JobState.RUNNING, "word of another generation"
    tell(world, save_row(world, SaveWord.UNABLE, step=0, rank=3))
    assert world.job("moe").state is JobState.RUNNING, "node-00 does not speak for rank 3"
    tell(world, save_row(world, SaveWord.UNABLE, step=0))
    assert world.job("moe").state is JobState.RECOVERING
    assert "not saved: rank 0" in world.job("moe").incident.cause  # type: ignore[union-attr]  # it recovers


def test_an_older_agent_that_knows_no_such_order_is_not_waited_for() -> None:
    world = running()
    world.stores.slow = 1_000.0
    world.nodes["node-00"].deaf = True
    world.turn(ev.RestartJob("", "moe", ""))
    (effect,) = [one for one in world.state().effects.values() if one.kind is EffectKind.SAVE_NOW]
    world.turn(ev.EffectDone(effect.id, ok=False, message="this agent does not know this kind of effect"))
    assert world.job("moe").state is JobState.RECOVERING


def test_a_save_that_fails_ends_the_waiting() -> None:
    world = running()
    world.stores.slow = 1_000.0
    world.turn(ev.RestartJob("", "moe", ""))
    tell(world, save_row(world, SaveWord.FAILED, step=world.job("moe").saving.from_step + 1))  # type: ignore[union-attr]  # it waits
    assert world.job("moe").state is JobState.RECOVERING


def test_a_restart_waits_over_a_restart_of_the_controller() -> None:
    world = running()
    world.turn(ev.RestartJob("", "moe", ""))
    world.restart_controller()
    world.run_until(lambda: world.job("moe").generation == 2)
    assert written(world, r.SaveEnded)[0].step > 0


def test_failing_saves_are_written_down_once_a_minute_and_end_with_a_later_checkpoint() -> None:
    world = running()
    for rank in (0, 1):
        tell(world, save_row(world, SaveWord.FAILED, rank=rank))
    (first,) = written(world, r.SavesFailing)
    assert (first.step, first.rank, first.word) == (40, 0, SaveWord.FAILED)
    world.run(61)
    tell(world, save_row(world, SaveWord.SLOW, step=60, rank=1))
    assert len(written(world, r.SavesFailing)) == 2
    trouble = world.job("moe").save_trouble
    assert trouble is not None
    assert trouble.told_ns - trouble.since_ns > 60e9
    assert State.from_json(world.state().to_json()).digest() == world.state().digest()
    assert world.job("moe").state is JobState.RUNNING, "a failed save never ends training"
    world.checkpoint("moe", 40)
    assert world.job("moe").save_trouble is not None, "that is the one before the last that failed"
    world.checkpoint("moe", 80)
    assert world.job("moe").save_trouble is None
    assert [record.step for record in written(world, r.SavesRecovered)] == [80]
    assert load(world.journal).digest() == world.state().digest()


SCRUBS = Policy(checkpoints=StoragePolicy(scrub_every_ms=60_000))


def verified(policy: Policy) -> World:
    world = running(policy)
    for step in (20, 40):
        world.checkpoint("moe", step)
        world.run(1)
    assert {c.state for c in world.job("moe").checkpoints.values()} == {CheckpointState.VERIFIED}
    return world


def test_verified_checkpoints_are_read_again_by_a_node_without_ranks() -> None:
    world = verified(SCRUBS)
    world.run(100, 1)
    scrubs = written(world, r.ScrubStarted)
    assert sorted(one.checkpoint.rpartition("-")[2] for one in scrubs) == ["20", "40"], "each once in its time"
    ranks_on = {world.state().fleet.name(node) for node in world.job("moe").nodes()}
    assert not {one.node for one in scrubs} & ranks_on
    (effect, *_) = [e for e in world.sent if e.kind is EffectKind.VERIFY_CHECKPOINT and len(e.items) == 2]
    assert effect.items[1] == "100", "megabytes a second at most"
    assert all(c.verified_ns > c.committed_ns + 59e9 for c in world.job("moe").checkpoints.values())


def test_rot_is_found_before_the_checkpoint_is_needed() -> None:
    world = verified(SCRUBS)
    uid = world.job("moe").uid
    world.stores.damage(f"{uid}/g1/step-40")
    world.run(100, 1)
    assert world.job("moe").checkpoints[f"{uid}/g1/step-40"].state is CheckpointState.POISONED
    world.kill_rank(uid, 1)
    world.run_until(lambda: world.job("moe").generation == 2)
    assert world.job("moe").restore_step == 20


def test_one_at_a_time_and_not_again_at_once_when_nobody_answers() -> None:
    world = verified(SCRUBS)
    for node in world.nodes.values():
        node.deaf = True
    world.run(80, 1)
    assert len(written(world, r.ScrubStarted)) == 1
    world.run(200, 1)
    assert len(written(world, r.ScrubStarted)) <= 3, "each once, and one of them a second time"


def test_a_site_may_do_without_scrubbing() -> None:
    world = verified(Policy(checkpoints=StoragePolicy(scrub_every_ms=0)))
    world.run(300, 5)
    assert not written(world, r.ScrubStarted)
