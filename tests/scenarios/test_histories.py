"""Old journals must keep replaying: every committed history still gives the state that it gave when it was written.

A digest that changes because a new field has a default is regenerated with `--regenerate-golden`; a history is not: a
record that can no longer be read needs an upcaster.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from controlplane.core import records as r
from controlplane.core.invariants import check
from controlplane.core.state import State
from controlplane.engine.ports import JournalEntry
from controlplane.engine.turn import replay
from tests.support.histories import eventful

FOLDER = Path(__file__).parent / "histories"
HISTORIES = sorted(FOLDER.glob("v*.jsonl"))


def read(path: Path) -> list[JournalEntry]:
    return [JournalEntry(**json.loads(line)) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def first_history() -> None:
    """Without any history there is nothing to guard: the first one is written from a rich run, and committed."""
    path = FOLDER / "v1.jsonl"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        entries = eventful().journal.read(0, 100_000)
        path.write_text("".join(json.dumps(asdict(entry), sort_keys=True) + "\n" for entry in entries))


@pytest.mark.parametrize("name", [path.stem for path in HISTORIES] or ["v1"])
def test_history_replays(name: str, regenerate_golden: bool) -> None:
    entries = read(FOLDER / f"{name}.jsonl")
    state = replay(State(), entries)
    golden = FOLDER / f"{name}.digest"
    if regenerate_golden:
        golden.write_text(state.digest() + "\n")
    assert state.digest() == golden.read_text().strip()
    assert check(state) == []
    assert State.from_json(state.to_json()).digest() == state.digest()


def test_the_first_history_holds_every_type_of_its_time() -> None:
    types = {entry.type for entry in read(FOLDER / "v1.jsonl")}
    assert len(types) >= 35
    assert types <= {*r.TYPES, *r.FORMER}
