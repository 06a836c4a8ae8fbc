"""Sentences for people about faults, quarantines and the detector."""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.core import records as r
from controlplane.core.health.book import FaultNote
from controlplane.core.health.canaries import Outcome

SHOWN = 8
"""Stragglers and their nodes that are named in a sentence."""

Health = (
    r.DetectorDegraded | r.DetectorRestored | r.LinksReported | r.FaultsReported | r.FaultsJudged | r.SourcesReported
    | r.NodeQuarantined | r.ActRefused | r.ChecksStarted | r.ChecksFailed | r.TrialStarted | r.TrialPassed | r.NodeReleased
    | r.IncidentReblamed | r.FaultShadowed
    | r.PairsAwaited | r.ValidationStarted | r.PairsStarted | r.PairAnswered | r.ValidationEnded | r.CanaryReleased | r.CanaryEnded
)  # fmt: skip
"""Records that this module words."""


def narrate_health(record: Health) -> str:
    """The sentence."""
    match record:
        case r.DetectorDegraded():
            return f"the detector is degraded, silence convicts nobody: {'; '.join(record.reasons)}"
        case r.DetectorRestored():
            return f"the detector is well again after {record.after_ms / 1000:.1f} s"
        case r.LinksReported():
            names = ", ".join(record.broken)
            return f"{record.node} says that its links " + (f"to {names} are broken" if names else "are whole")
        case r.FaultsReported():
            return f"{record.node}: {_faults(record.notes)}"
        case r.FaultShadowed():
            return (
                f"{record.node}: the rule of {record.vendor} {record.code} is in shadow mode; {record.entity} would have been "
                f"handled as {record.level.name}"
            )
        case r.CanaryReleased():
            return f"{record.node} is to raise canary {record.number}: a fault on purpose, to measure detection"
        case r.CanaryEnded():
            return f"{record.node}: canary {record.number} {_canary(record)}"
        case r.FaultsJudged():
            return f"{record.node}, judged anew: {_faults(record.notes)}"
        case r.SourcesReported():
            return _sources(record)
        case r.IncidentReblamed():
            ranks = ", ".join(map(str, record.ranks))
            return f"the loss of ranks {ranks} is charged to {record.blame.value}: {record.reason}"
        case r.NodeQuarantined():
            return f"{record.node} was quarantined ({record.level.name}): {record.reason}"
        case r.ActRefused():
            return f"{record.node}: the action budget refused to {record.act}: {record.reason}"
        case (
            r.ChecksStarted() | r.ChecksFailed() | r.TrialStarted() | r.TrialPassed() | r.NodeReleased()
        ):  # fmt: skip
            return f"{record.node} {_way_back(record)}"
        case r.PairsAwaited() | r.ValidationStarted() | r.PairsStarted() | r.PairAnswered() | r.ValidationEnded():
            return _in_pairs(record)


def stragglers_text(record: r.StragglersFound | r.StragglersGone) -> str:
    """Who is slow, and where several are; or who is no more."""
    if isinstance(record, r.StragglersGone):
        ranks = f"rank{'s' * (len(record.ranks) > 1)} {', '.join(map(str, record.ranks))}"
        return f"{ranks} slow no more: {record.reason}"
    listed = [one.text for one in record.found[:SHOWN]]
    more = f"; and {len(record.found) - SHOWN} more" if len(record.found) > SHOWN else ""
    several = f"; several ranks of {', '.join(record.nodes[:SHOWN])} are slow" if record.nodes else ""
    return f"slower than those that do the same work: {'; '.join(listed)}{more}{several}"


def _in_pairs(
    record: r.PairsAwaited | r.ValidationStarted | r.PairsStarted | r.PairAnswered | r.ValidationEnded,
) -> str:
    match record:
        case r.PairsAwaited():
            return f"{record.node} waits to be tested with others: {record.reason}"
        case r.ValidationStarted():
            lent = f", with {', '.join(record.lent)} of those in service" if record.lent else ""
            return f"{', '.join(record.waiting) or 'nodes of a new gang'} are tested in pairs{lent}"
        case r.PairsStarted():
            return "are tested together: " + "; ".join(f"{one} and {other}" for one, other in record.pairs)
        case r.PairAnswered():
            found = record.answer
            return f"{record.node} with {found.peer}: {found.word.name.lower()}: {found.text}"
        case r.ValidationEnded():
            parts = (("sound", record.cleared), ("bad", record.convicted), ("not known", record.suspects))
            return "tests in pairs: " + "; ".join(f"{word}: {', '.join(nodes)}" for word, nodes in parts if nodes)


def _canary(record: r.CanaryEnded) -> str:
    match record.outcome:
        case Outcome.CAUGHT:
            return f"was recorded {record.after_ms / 1000:.2f} s after it was raised"
        case Outcome.MISSED:
            return f"was missed: {record.reason}"
        case Outcome.CALLED_OFF:
            return f"was called off: {record.reason}"


def _faults(notes: Iterable[FaultNote]) -> str:
    return "; ".join(f"{note.entity} {note.assertion.value} {note.code}: {note.reason}" for note in notes)


def _sources(record: r.SourcesReported) -> str:
    if not record.unreadable:
        return f"every health source of {record.node} can be read"
    named = "; ".join(f"{source.name} ({source.reason})" for source in record.unreadable)
    return f"health sources of {record.node} cannot be read, what they speak for is UNKNOWN: {named}"


def _way_back(record: r.ChecksStarted | r.ChecksFailed | r.TrialStarted | r.TrialPassed | r.NodeReleased) -> str:
    match record:
        case r.ChecksStarted():
            return "is repaired and checked by its agent"
        case r.ChecksFailed():
            return f"stays in quarantine, its checks failed: {record.reason}"
        case r.TrialStarted():
            return f"is back, on trial: {record.reason}"
        case r.TrialPassed():
            return "has passed its trial"
        case r.NodeReleased():
            return f"is back: {record.reason}"
