"""The folder of states of a node: what is said of it, and what goes when a generation begins or a job ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from phalanx.v1 import agent_pb2

from agents.memory.state_file import MAX_STEP, Layout, Phase, StateFile, Word
from agents.node.memory.store import MAX_RANK, REPLICATED, MemoryStore

SURVIVOR, MEMORY = agent_pb2.HELD_KIND_SURVIVOR, agent_pb2.HELD_KIND_MEMORY
UNIQUE = agent_pb2.HELD_KIND_MEMORY_UNIQUE
EXPERTS = Layout(1, 100, 50)


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path)


def own(store: MemoryStore, host: str, rank: int, *steps: int, layout: Layout = EXPERTS) -> StateFile:
    assert store.folder is not None
    file = StateFile.create(store.folder / "own" / f"{host}.state", layout, rank)
    return written(file, *steps)


def peer(store: MemoryStore, job: str, rank: int, *steps: int) -> StateFile:
    file = StateFile.create(store.peer_path(job, rank), Layout(1, 100, 0), rank, partial=True)
    store.keep_peer(job, rank, file)
    return written(file, *steps)


def written(file: StateFile, *steps: int) -> StateFile:
    for step in steps:
        file.finish(file.begin(), step, 1)
    return file


def rows(store: MemoryStore, job: str = "job-1", **living: int) -> set[tuple[int, int, int]]:
    named = {name.replace("_", "-"): rank for name, rank in living.items()}
    return {(row.rank, row.step, row.kind) for row in store.rows(job, named)}


def test_what_is_held_is_said_by_rank_step_and_kind(store: MemoryStore) -> None:
    own(store, "job-1-0", 0, 4, 5).mark(5, Phase.DONE)
    own(store, "job-1-1", 1, 4, 5).mark(6, Phase.OPTIMIZER)
    peer(store, "job-1", 7, 5)
    own(store, "job-12-0", 3, 9)
    assert rows(store, job_1_0=0, job_1_1=1) == {
        (0, 5, SURVIVOR), (0, 5, MEMORY), (0, 4, MEMORY), (1, 5, MEMORY), (1, 4, MEMORY), (7, 5, UNIQUE),
    }  # fmt: skip


def test_a_dead_process_holds_nothing_itself_nor_does_one_of_another_rank(store: MemoryStore) -> None:
    own(store, "job-1-0", 0).mark(5, Phase.DONE)
    assert rows(store) == rows(store, job_1_0=1) == set()
    assert rows(store, job_1_0=0) == {(0, 5, SURVIVOR)}


def test_states_that_replicas_hold_say_so(store: MemoryStore) -> None:
    own(store, "job-1-0", 0, 4, layout=Layout(1, 0, 50))
    assert rows(store) == {(0, 4, MEMORY | REPLICATED)}


def test_numbers_that_make_no_sense_are_not_said(store: MemoryStore) -> None:
    """One of them, and the controller refuses all that the node says."""
    own(store, "job-1-0", 0, 4, MAX_STEP + 1).mark(MAX_STEP + 1, Phase.DONE)
    own(store, "job-1-1", 1, 4).put(Word.RANK, MAX_RANK + 1)
    assert rows(store, job_1_0=0) == {(0, 4, MEMORY)}


def test_files_of_dead_processes_do_not_grow_in_number(store: MemoryStore, tmp_path: Path) -> None:
    """Two hundred recoveries of one job, each with another process of rank 0."""
    for turn in range(1, 201):
        own(store, f"job-1-{turn}", 0, 10 * turn - 1, 10 * turn)
        store.rewind("job-1", ((turn + 1, 10 * turn),), {f"job-1-{turn}"})
        assert len(list((tmp_path / "own").iterdir())) <= 2
    assert rows(store) == {(0, 1999, MEMORY), (0, 2000, MEMORY)}


def test_what_a_generation_starts_from_is_kept_until_another_starts_elsewhere(store: MemoryStore) -> None:
    own(store, "job-1-0", 0, 9, 10)
    for _ in range(3):  # generation after generation starts from step 10 and fails
        store.rewind("job-1", ((2, 10),))
        assert (0, 10, MEMORY) in rows(store)
    store.rewind("job-1", ((2, 11),))
    assert rows(store) == set()


def test_copies_of_a_rank_that_has_moved_go(store: MemoryStore, tmp_path: Path) -> None:
    peer(store, "job-1", 3, 9, 10)
    store.rewind("job-1", ((2, 10),))
    assert rows(store) == {(3, 10, UNIQUE)}
    store.rewind("job-1", ((2, 20),))
    assert rows(store) == set()
    store.rewind("job-1", ((2, 30),))
    assert list((tmp_path / "peer").iterdir()) == []


def test_what_was_fetched_for_one_job_is_not_anothers(store: MemoryStore) -> None:
    paths = [store.fetched_path(job, generation, 0) for job in ("job-1", "job-2") for generation in (2, 3)]
    assert len({*paths}) == 4
    for path in paths:
        path.touch()
    store.forget_fetched("job-1", 3)
    assert [path.exists() for path in paths] == [False, True, True, True]


def test_a_job_that_ends_takes_its_own_with_it(store: MemoryStore, tmp_path: Path) -> None:
    own(store, "job-1-0", 0, 4)
    peer(store, "job-1", 7, 5)
    store.fetched_path("job-1", 2, 0).touch()
    other = [own(store, "job-12-0", 0, 4).path, peer(store, "job-12", 7, 5).path]
    store.forget("job-1")
    assert sorted(path for path in tmp_path.glob("*/*")) == sorted(other)


def test_a_new_life_of_the_agent_keeps_what_its_jobs_have(store: MemoryStore, tmp_path: Path) -> None:
    own(store, "job-1-0", 0, 4)
    peer(store, "job-1", 7, 5)
    own(store, "job-2-0", 0, 4)
    peer(store, "job-2", 7, 5)
    (tmp_path / "own" / "rubbish").touch()
    again = MemoryStore(tmp_path)
    again.keep_only({"job-1"})
    assert rows(again) == {(0, 4, MEMORY), (7, 5, UNIQUE)}
    assert again.job_uids() == {"job-1"}
    assert len(list(tmp_path.glob("*/*"))) == 2


def test_without_a_folder_nothing_is_held(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for store in (MemoryStore(None), MemoryStore(tmp_path / "file" / "below")):
        assert store.refused
        assert (store.room(), store.left(), rows(store), store.own("job-1-0")) == (0, 0, set(), None)
