"""A line per decision: every type of record is either told or named as silent."""

from __future__ import annotations

import json
import re
from pathlib import Path

from controlplane.core import records as r
from controlplane.core.audit import AuditEntry
from controlplane.core.evidence import Reason
from controlplane.core.health.book import FaultNote, Source
from controlplane.core.health.canaries import Outcome
from controlplane.core.health.cell import PairAnswer
from controlplane.core.health.numbers import Skip
from controlplane.core.health.standstill import StackGroup, Verdict
from controlplane.core.health.stragglers import Cause, Straggler
from controlplane.core.vocabulary import Blame, HandlingLevel, PairWord, Phase, Rung, SaveWord
from controlplane.observability.chronicle import SHOWN, SILENT, describe, some

HISTORY = Path(__file__).parents[2] / "scenarios" / "histories" / "v1.jsonl"
NOTE = FaultNote("accelerator/1", "79", HandlingLevel.ISOLATE)
LATER: list[r.Record] = [
    r.NodeDrained("n1"),
    r.JournalRestored(1_000),
    r.NumbersSuspected("j", 2, Reason.LOSS_NOT_FINITE, 41, 42, "the loss is no number", Blame.USER, skip=Skip(41, 42)),
    r.JobUnplaced("j", "n1 was cordoned"),
    r.NodesRegistered((r.NodeRegistered("n1", "1", "127.0.0.1", "0", (), (), ()),)),
    r.DetectorDegraded(("the journal is slow",)),
    r.DetectorRestored(1_500),
    r.FaultsReported("n1", (NOTE,)),
    r.FaultsJudged("n1", (NOTE,)),
    r.SourcesReported("n1", (Source("smi", "no answer", (), 1),)),
    r.LinksReported("n1", ("n2",)),
    r.NodeQuarantined("n1", "XID 79", HandlingLevel.ISOLATE, ("probe",)),
    r.ChecksStarted("n1"),
    r.ChecksFailed("n1", "memory bandwidth", 1),
    r.TrialStarted("n1", 1, "checks passed"),
    r.TrialPassed("n1"),
    r.NodeReleased("n1", "uncordoned"),
    r.FaultShadowed("n1", "accelerator/1", "nvidia", "79", HandlingLevel.ISOLATE),
    r.CanaryReleased("n1", 7),
    r.CanaryEnded("n1", 7, Outcome.MISSED, 60_000, "not recorded"),
    r.StragglersFound("j", (Straggler(3, "n1", (1,), Cause.DATA, 1.5, 0.9),)),
    r.StragglersGone("j", (3,), "they keep up again"),
    r.ActRefused("n1", "quarantine", "the budget is used up"),
    r.IncidentReblamed("j", (1,), Blame.USER, "site", "many devices of one job show it"),
    r.SparesWanted("j", 2, "P99 of failures"),
    r.CheckpointIntervalSet("j", 40, "Young/Daly"),
    r.SaveAsked("j", 1, "drain of n1", 30, 20),
    r.SaveEnded("j", 1, 21, "step 21 saved first, 0.8 s"),
    r.SavesFailing("j", 1, 40, 3, SaveWord.FAILED, "No space left on device"),
    r.SavesRecovered("j", 60),
    r.ScrubStarted("j", "j/g1/step-20", "n2"),
    r.CorruptionSuspected("j", 1, 21, 2, "results disagree"),
    r.NodeJudged("j", "n1", ("nodeRules[0]: matches, cordonNode",), "cordonNode", "it matches"),
    r.CorruptionCleared("j", "ann", "replay agrees"),
    r.RungFailed("j", Rung.RESTART_RANK, (3,), "no process parked on n3 within 30 s"),
    r.ReplicasDropped("j", (2, 3)),
    r.HangSuspected("j", 1, 5, 10_000_000_000, "e7"),
    r.HangJudged("j", 1, Verdict.ODD, "rank 2 sleeps", (2,), (StackGroup(((2, 1),), 1, "data.py:load"),)),
    r.NodeRetired("n1", "sold"),
    r.PolicyChanged({"hang_ms": 60_000}, "0a1b", ("hang_ms 1m (was 10m)",)),
    r.PairsAwaited("n1", "its own checks passed"),
    r.ValidationStarted(("n1",), ("n2", "n3")),
    r.PairsStarted((("n1", "n2"),), {"n1": "1", "n2": "1"}),
    r.PairAnswered("n1", PairAnswer("n1", "n2", PairWord.FAILED, "a sum came out wrong")),
    r.ValidationEnded(("n2", "n3"), ("n1",), ()),
    r.Audited(AuditEntry(1, 0, "spiffe://prod/operator/ada", "ADMIN", "", "CordonNode", "n1", "", "", "q-1", "", "")),
]
"""Told types that are younger than the committed history."""


def records() -> list[r.Record]:
    lines = (json.loads(line) for line in HISTORY.read_text().splitlines())
    return [*(r.decode(line["type"], line["version"], line["body"]) for line in lines), *LATER]


def test_every_type_of_record_is_told_or_named_as_silent() -> None:
    seen = {}
    for record in records():
        name = type(record).__name__
        if isinstance(record, r.GenerationReached) and record.phase is not Phase.FIRST_STEP:
            assert describe(record) is None
            continue
        line = describe(record)
        assert (line is None) is (name in SILENT), f"{name} must be told, or stand in SILENT"
        seen[name] = line
    assert r.TYPES.keys() >= SILENT
    untold = r.TYPES.keys() - SILENT - seen.keys()
    assert not untold, f"add one of each to LATER: {untold}"
    for level, event, fields in filter(None, seen.values()):
        assert level in {"info", "warning", "error"}
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", event)
        assert not {"event", "level", "timestamp", "revision"} & fields.keys()


def test_lists_are_cut() -> None:
    assert some(range(SHOWN)) == list(range(SHOWN))
    assert some(range(6_250)) == [*range(SHOWN), f"and {6_250 - SHOWN} more"]
