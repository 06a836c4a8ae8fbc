"""Manifests: a `TrainingJob` document to a `JobSpec` and back, and the rules that a specification must keep.

Every violation of a document is reported at once, with the path that a user sees in the file (`spec.parallel.ep`). The
same paths come back from the server, so one renderer serves both. Durations are text with a unit (`200ms`, `2s`, `5m`,
`1h`): a bare number would leave the unit to memory.
"""

from __future__ import annotations

import difflib
import json
import re
from fractions import Fraction

from controlplane.core.manifest_rules import check_spec, complete, findings, json_problems, touches
from controlplane.core.spec import (
    UNLIMITED,
    Backoff,
    Budget,
    CheckpointPolicy,
    JobSpec,
    Parallel,
    ParsedManifest,
    RestartPolicy,
    SparePolicy,
    Timeouts,
    Violation,
    Workload,
)

__all__ = ["check_spec", "complete", "format_duration", "parse_duration", "parse_manifest", "spec_to_document"]

API_VERSION = "phalanx/v1"
KIND = "TrainingJob"

_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_DURATION_FIX = "write a number with a unit: 200ms, 2s, 5m or 1h"


def parse_manifest(document: object) -> ParsedManifest:
    """Reads a document (plain values from YAML or JSON). All violations at once; a spec only when there is none."""
    violations: list[Violation] = []
    root = _Section(document, "", violations)
    if not root.usable:
        return ParsedManifest(None, tuple(violations))
    root.constant("apiVersion", API_VERSION)
    root.constant("kind", KIND)
    spec = complete(_read_spec(root.section("metadata", required=True), root.section("spec", required=True)))
    root.finish()
    broken = {violation.path for violation in violations}
    violations += [found for found, reads in findings(spec) if not any(touches(path, broken) for path in reads)]
    return ParsedManifest(None, tuple(violations)) if violations else ParsedManifest(spec)


def spec_to_document(spec: JobSpec) -> dict[str, object]:
    """The full document of a spec, defaults written out: `parse_manifest` of it gives the spec back."""
    policy = spec.restart_policy
    parallel = {name: getattr(spec.parallel, name) for name in ("tp", "pp", "cp", "dp", "ep")}
    if spec.parallel.dp == 0:
        del parallel["dp"]
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": spec.name, "labels": dict(spec.labels)},
        "spec": {
            "workload": {
                "module": spec.workload.module,
                "path": spec.workload.path,
                "codeDigest": spec.workload.code_digest,
                "image": spec.workload.image,
                "args": json.loads(spec.workload.args),
            },
            "ranks": spec.ranks,
            "acceleratorsPerRank": spec.accelerators_per_rank,
            "parallel": parallel,
            "spares": {"warmNodes": spec.spares.warm_nodes, "parkedPerNode": spec.spares.parked_per_node},
            "checkpoint": {
                "folder": spec.checkpoint.folder,
                "everySteps": spec.checkpoint.every_steps,
                "keep": spec.checkpoint.keep,
            },
            "restartPolicy": {
                "collectWindow": format_duration(policy.collect_window_ms),
                "budgets": {
                    "user": _budget_document(policy.user),
                    "infrastructure": _budget_document(policy.infrastructure),
                    "preemption": _budget_document(policy.preemption),
                },
                "backoff": {
                    "initial": format_duration(policy.backoff.initial_ms),
                    "factor": policy.backoff.factor,
                    "max": format_duration(policy.backoff.max_ms),
                },
            },
            "timeouts": {
                "start": format_duration(spec.timeouts.start_ms),
                "join": format_duration(spec.timeouts.join_ms),
                "stop": format_duration(spec.timeouts.stop_ms),
            },
            "priority": spec.priority,
        },
    }


def format_duration(duration_ms: int) -> str:
    """The shortest exact text of a duration: 3600000 is `1h`, 1500 is `1500ms`."""
    for unit in ("h", "m", "s"):
        if duration_ms and duration_ms % _UNIT_MS[unit] == 0:
            return f"{duration_ms // _UNIT_MS[unit]}{unit}"
    return f"{duration_ms}ms"


def parse_duration(text: str) -> int | None:
    """Milliseconds of `200ms`, `2s`, `1.5m`, `1h`; None when the text is no duration of whole milliseconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    value = Fraction(match[1]) * _UNIT_MS[match[2]]
    return int(value) if value.denominator == 1 else None


def _budget_document(budget: Budget) -> dict[str, object]:
    return {
        "max": "unlimited" if budget.max == UNLIMITED else budget.max,
        "window": format_duration(budget.window_ms),
        "resetOnProgress": budget.reset_on_progress,
    }


# --- reading ---------------------------------------------------------------------------------------------------------


class _Section:
    """One mapping of the document: typed reads that note violations, and what was read, for unknown fields."""

    def __init__(self, value: object, path: str, violations: list[Violation]) -> None:
        self._path = path
        self._violations = violations
        self._known: list[str] = []
        self.usable = isinstance(value, dict)
        self.fields: dict[object, object] = value if isinstance(value, dict) else {}
        if not self.usable:
            self.note("", f"must be a mapping, not {_kind_of(value)}", "write it as `key: value` lines, or remove it")

    def at(self, name: str) -> str:
        """The full path of a field of this section."""
        return ".".join(part for part in (self._path, name) if part)

    def note(self, name: str, reason: str, fix: str) -> None:
        """Records a violation at a field of this section."""
        self._violations.append(Violation(self.at(name), reason, fix))

    def take(self, name: str, *, required: bool = False) -> tuple[bool, object]:
        """Whether the field is there, and its value; marks it as known."""
        self._known.append(name)
        if name in self.fields:
            return True, self.fields[name]
        if required and self.usable:
            self.note(name, "is missing", f"add `{name}`")
        return False, None

    def constant(self, name: str, expected: str) -> None:
        """A field that must hold exactly this text."""
        present, value = self.take(name, required=True)
        if present and value != expected:
            self.note(name, f"must be `{expected}`, not {_kind_of(value)}", f"write `{name}: {expected}`")

    def section(self, name: str, *, required: bool = False) -> _Section:
        """A nested mapping; an absent one reads as empty."""
        present, value = self.take(name, required=required)
        nested = _Section(value if present else {}, self.at(name), self._violations)
        if required and not present:
            nested.usable = False  # its own required fields would only repeat the message
        return nested

    def text(self, name: str, default: str = "", *, required: bool = False) -> str:
        """A text field."""
        present, value = self.take(name, required=required)
        if not present:
            return default
        if not isinstance(value, str):
            self.note(name, f"must be text, not {_kind_of(value)}", "put the value in quotes")
            return default
        return value

    def integer(self, name: str, default: int, *, required: bool = False) -> int:
        """A whole number (true and false are not numbers)."""
        present, value = self.take(name, required=required)
        if not present:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            self.note(
                name, f"must be a whole number, not {_kind_of(value)}", f"write for example `{name}: {max(default, 1)}`"
            )
            return default
        return value

    def number(self, name: str, default: float) -> float:
        """A number, whole or not."""
        present, value = self.take(name)
        if not present:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            self.note(name, f"must be a number, not {_kind_of(value)}", f"write for example `{name}: {default}`")
            return default
        return float(value)

    def duration(self, name: str, default_ms: int) -> int:
        """A duration with a unit, in milliseconds."""
        present, value = self.take(name)
        if not present:
            return default_ms
        if not isinstance(value, str):
            self.note(name, f"must be a duration with a unit, not {_kind_of(value)}", _DURATION_FIX)
            return default_ms
        parsed = parse_duration(value)
        if parsed is None:
            self.note(name, f"{_shown(value)} is not a duration", _DURATION_FIX)
            return default_ms
        return parsed

    def labels(self, name: str) -> tuple[tuple[str, str], ...]:
        """A flat mapping of text to text, sorted."""
        nested = self.section(name)
        for key, value in nested.fields.items():
            if not isinstance(key, str) or not isinstance(value, str):
                nested.note(str(key), "label names and values must be text", "put both in quotes")
        return tuple(sorted((k, v) for k, v in nested.fields.items() if isinstance(k, str) and isinstance(v, str)))

    def json_object(self, name: str) -> str:
        """A mapping of JSON values, as canonical JSON."""
        nested = self.section(name)
        problems = list(json_problems(nested.fields, nested.at("")))
        self._violations += problems
        return "{}" if problems else json.dumps(nested.fields, sort_keys=True)

    def budget(self, name: str, default: Budget) -> Budget:
        """One restart budget."""
        nested = self.section(name)
        if nested.fields.get("max") == "unlimited":
            nested.take("max")
            maximum = UNLIMITED
        else:
            maximum = nested.integer("max", default.max)
            if "max" in nested.fields and maximum < 0 and not touches(nested.at("max"), self.broken()):
                nested.note("max", "must be 0 or more", "write a number, or `max: unlimited`")
        budget = Budget(
            maximum,
            nested.duration("window", default.window_ms),
            nested.integer("resetOnProgress", default.reset_on_progress),
        )
        nested.finish()
        return budget

    def broken(self) -> set[str]:
        """Paths that have a violation so far."""
        return {violation.path for violation in self._violations}

    def finish(self) -> None:
        """Notes every field that nobody asked for, with the nearest known name."""
        for key in self.fields:
            if key in self._known:
                continue
            near = _nearest(str(key), self._known)
            fix = f"did you mean `{near}`?" if near else f"remove it; known here: {', '.join(self._known)}"
            self.note(str(key), "unknown field", fix)


def _read_spec(metadata: _Section, spec: _Section) -> JobSpec:
    name = metadata.text("name", required=True)
    labels = metadata.labels("labels")
    metadata.finish()
    result = JobSpec(
        name=name,
        labels=labels,
        workload=_read_workload(spec.section("workload", required=True)),
        ranks=spec.integer("ranks", 1, required=True),
        accelerators_per_rank=spec.integer("acceleratorsPerRank", 1),
        parallel=_read_parallel(spec.section("parallel")),
        spares=_read_spares(spec.section("spares")),
        checkpoint=_read_checkpoint(spec.section("checkpoint")),
        restart_policy=_read_restart_policy(spec.section("restartPolicy")),
        timeouts=_read_timeouts(spec.section("timeouts")),
        priority=spec.integer("priority", 0),
    )
    spec.finish()
    return result


def _read_workload(section: _Section) -> Workload:
    workload = Workload(
        section.text("module", required=True),
        section.text("path"),
        section.json_object("args"),
        section.text("codeDigest"),
        section.text("image"),
    )
    if section.take("folder")[0]:
        section.note("folder", "was not packed", "submit with `phalanx submit`, which packs it and sends its digest")
    section.finish()
    return workload


def _read_parallel(section: _Section) -> Parallel:
    parallel = Parallel(
        tp=section.integer("tp", 1),
        pp=section.integer("pp", 1),
        cp=section.integer("cp", 1),
        dp=section.integer("dp", 0),
        ep=section.integer("ep", 1),
    )
    if parallel.dp == 0 and "dp" in section.fields:
        section.note("dp", "must be at least 1", "leave it out to have it derived from ranks")
    section.finish()
    return parallel


def _read_spares(section: _Section) -> SparePolicy:
    default = SparePolicy()
    spares = SparePolicy(
        section.integer("warmNodes", default.warm_nodes), section.integer("parkedPerNode", default.parked_per_node)
    )
    section.finish()
    return spares


def _read_checkpoint(section: _Section) -> CheckpointPolicy:
    default = CheckpointPolicy()
    checkpoint = CheckpointPolicy(
        section.text("folder", default.folder),
        section.integer("everySteps", default.every_steps),
        section.integer("keep", default.keep),
    )
    section.finish()
    return checkpoint


def _read_restart_policy(section: _Section) -> RestartPolicy:
    default = RestartPolicy()
    budgets = section.section("budgets")
    backoff = section.section("backoff")
    policy = RestartPolicy(
        collect_window_ms=section.duration("collectWindow", default.collect_window_ms),
        user=budgets.budget("user", default.user),
        infrastructure=budgets.budget("infrastructure", default.infrastructure),
        preemption=budgets.budget("preemption", default.preemption),
        backoff=Backoff(
            backoff.duration("initial", default.backoff.initial_ms),
            backoff.number("factor", default.backoff.factor),
            backoff.duration("max", default.backoff.max_ms),
        ),
    )
    for part in (budgets, backoff, section):
        part.finish()
    return policy


def _read_timeouts(section: _Section) -> Timeouts:
    default = Timeouts()
    timeouts = Timeouts(
        section.duration("start", default.start_ms),
        section.duration("join", default.join_ms),
        section.duration("stop", default.stop_ms),
    )
    section.finish()
    return timeouts


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {_shown(value)}"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"


def _shown(value: str) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + '..."'


def _nearest(name: str, known: list[str]) -> str | None:
    """The known field that a user most likely meant: `every_steps` and `everystep` both mean `everySteps`."""
    folded = {re.sub(r"[^a-z0-9]", "", candidate.lower()): candidate for candidate in known}
    found = difflib.get_close_matches(re.sub(r"[^a-z0-9]", "", name.lower()), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None
