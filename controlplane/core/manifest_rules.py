"""The rules that a job specification must keep, each with the path of the field, the reason and the fix."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace

from controlplane.core.rule_checks import check_rules
from controlplane.core.shipped import is_digest
from controlplane.core.spec import AUTO, UNLIMITED, Budget, JobSpec, RestartPolicy, Violation

MAX_NAME = 40
MAX_COUNT = 2**31 - 1
"""Largest count that every wire field carries (uint32 fields, int32 priority)."""
MAX_DURATION_MS = 10 * 365 * 24 * 3_600_000
MAX_ARGS_DEPTH = 32
MAX_ARGS_VALUES = 10_000
MAX_EXACT_INTEGER = 2**53
"""Workload arguments travel as JSON numbers (doubles): larger integers would change on the way."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]{0,400}@sha256:[0-9a-f]{64}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")

MAX_MUTED = 16
"""Fault codes that one job may mute; who has more to mute overrides the table of the site."""
_LONGEST_CODE = 64

Finding = tuple[Violation, tuple[str, ...]]
"""A violation and the paths of all fields that the rule read: a broken field must not cause a second message."""


def check_spec(spec: JobSpec) -> tuple[Violation, ...]:
    """The rules between and within fields, for a spec from anywhere (`dp` 0 means: derive it). Empty: it is good."""
    return tuple(violation for violation, _ in findings(complete(spec)))


def complete(spec: JobSpec) -> JobSpec:
    """The spec with `dp` derived when it is 0 and the other degrees divide the ranks; otherwise unchanged."""
    parallel = spec.parallel
    others = parallel.tp * parallel.pp * parallel.cp
    if parallel.dp or others < 1 or spec.ranks < 1 or spec.ranks % others:
        return spec
    return replace(spec, parallel=replace(parallel, dp=spec.ranks // others))


def findings(spec: JobSpec) -> Iterator[Finding]:
    """Every broken rule of a completed spec."""
    yield from _identity(spec)
    yield from _workload(spec)
    yield from _counts(spec)
    yield from _interval(spec)
    yield from _parallel(spec)
    yield from _elastic(spec)
    yield from policy_findings(spec.restart_policy, "spec.restartPolicy")
    yield from _durations(spec)
    yield from _muted(spec)


def _muted(spec: JobSpec) -> Iterator[Finding]:
    path, codes = "spec.mutedFaults", spec.muted_faults
    if len(codes) > MAX_MUTED:
        yield Violation(path, f"has {len(codes)} codes", f"mute at most {MAX_MUTED}"), (path,)
    if any(not code or len(code) > _LONGEST_CODE for code in codes):
        yield Violation(path, "has an empty or a very long code", "write codes as the vendor's table has them"), (path,)


def touches(path: str, broken: set[str]) -> bool:
    """Whether a field, or a section that holds it, already has a violation."""
    return any(path == other or path.startswith(other + ".") for other in broken)


def json_problems(value: object, path: str) -> Iterator[Violation]:
    """What in a value from YAML is no JSON value, or would not arrive unchanged. Bounded in depth and size."""
    budget = [MAX_ARGS_VALUES]
    yield from _json_problems(value, path, MAX_ARGS_DEPTH, budget)
    if budget[0] < 0:
        yield Violation(
            path, f"holds more than {MAX_ARGS_VALUES} values", "put large inputs in a file and pass its path"
        )


def _json_problems(value: object, path: str, depth: int, budget: list[int]) -> Iterator[Violation]:
    budget[0] -= 1
    if budget[0] < 0:
        return
    match value:
        case None | bool() | str():
            return
        case int() if abs(value) > MAX_EXACT_INTEGER:
            yield Violation(path, "an integer beyond 2^53 does not travel exactly", "put the number in quotes")
        case int():
            return
        case float() if not math.isfinite(value):
            yield Violation(path, f"{value} is no JSON number", "put it in quotes")
        case float():
            return
        case dict() | list() if depth == 0:
            yield Violation(path, f"is nested deeper than {MAX_ARGS_DEPTH} levels", "flatten the arguments")
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    yield Violation(f"{path}.{key}", "names of arguments must be text", "put the name in quotes")
                yield from _json_problems(item, f"{path}.{key}", depth - 1, budget)
        case list():
            for index, item in enumerate(value):
                yield from _json_problems(item, f"{path}[{index}]", depth - 1, budget)
        case _:
            yield Violation(path, f"a {type(value).__name__} is no JSON value", "put the value in quotes")


def _one(path: str, reason: str, fix: str, *also_read: str) -> Finding:
    return Violation(path, reason, fix), (path, *also_read)


def _identity(spec: JobSpec) -> Iterator[Finding]:
    if len(spec.name) > MAX_NAME:
        yield _one("metadata.name", f"has {len(spec.name)} characters", f"use at most {MAX_NAME}")
    elif not _NAME.fullmatch(spec.name):
        fix = "use lower-case letters, digits and inner hyphens, for example `moe-run-7`"
        yield _one("metadata.name", f'"{spec.name}" is no DNS label', fix)
    for key, value in spec.labels:
        if not _LABEL.fullmatch(key) or len(value) > 63:
            fix = "names: letters, digits, `.`, `_`, `/`, `-`; names and values: at most 63 characters"
            yield _one(f"metadata.labels.{key}", "is no valid label", fix)


def _workload(spec: JobSpec) -> Iterator[Finding]:
    module, path = spec.workload.module, spec.workload.path
    if not module or not all(part.isidentifier() for part in module.split(".")):
        fix = "name an importable module with `main(context)`, for example `training_jobs.moe.train`"
        yield _one("spec.workload.module", f'"{module}" is no module name', fix)
    if not path.isprintable():
        yield _one("spec.workload.path", "holds a character that is no text", "remove control characters")
    elif path and not path.startswith("/"):
        fix = "give the full path of the folder that holds the module"
        yield _one("spec.workload.path", f'"{path}" is relative', fix)
    yield from _origin(spec)
    folder = spec.checkpoint.folder
    if not folder.isprintable():
        yield _one("spec.checkpoint.folder", "holds a character that is no text", "remove control characters")
    elif folder and not folder.startswith("/"):
        fix = "give the full path of a folder on shared storage, or leave it out for the site's default"
        yield _one("spec.checkpoint.folder", f'"{folder}" is relative', fix)
    try:
        args = json.loads(spec.workload.args)
    except ValueError as error:
        yield _one("spec.workload.args", f"is no JSON: {error}", "send a JSON object")
        return
    if not isinstance(args, dict):
        yield _one("spec.workload.args", "is no mapping", "send a JSON object")
        return
    for problem in json_problems(args, "spec.workload.args"):
        yield problem, ("spec.workload.args",)


def _origin(spec: JobSpec) -> Iterator[Finding]:
    """Where the module comes from: at most one place, and one that cannot change under a running job."""
    workload = spec.workload
    named = [
        f"spec.workload.{name}"
        for name, value in (("path", workload.path), ("codeDigest", workload.code_digest), ("image", workload.image))
        if value
    ]
    for path in named[1:]:
        yield _one(path, f"stands beside {named[0]}", "keep one of them: code comes from one place", *named)
    if workload.code_digest and not is_digest(workload.code_digest):
        reason = f'"{workload.code_digest[:80]}" is no digest'
        fix = "write `folder: ./src` and let `phalanx submit` pack it, or `sha256:` and 64 lower-case hex digits"
        yield _one("spec.workload.codeDigest", reason, fix)
    if workload.image and not _IMAGE.fullmatch(workload.image):
        reason = f'"{workload.image[:120]}" does not name one image for ever'
        fix = (
            "name it by digest, `registry/name@sha256:<64 hex digits>`: `podman image inspect` shows it; a tag can move"
        )
        yield _one("spec.workload.image", reason, fix)


def _counts(spec: JobSpec) -> Iterator[Finding]:
    for path, value, least in (
        ("spec.ranks", spec.ranks, 1),
        ("spec.acceleratorsPerRank", spec.accelerators_per_rank, 1),
        ("spec.parallel.tp", spec.parallel.tp, 1),
        ("spec.parallel.pp", spec.parallel.pp, 1),
        ("spec.parallel.cp", spec.parallel.cp, 1),
        ("spec.parallel.dp", spec.parallel.dp, 0),
        ("spec.parallel.ep", spec.parallel.ep, 1),
        ("spec.spares.warmNodes", spec.spares.warm_nodes, AUTO),
        ("spec.spares.parkedPerNode", spec.spares.parked_per_node, 0),
        ("spec.spares.coldNodes", spec.spares.cold_nodes, 0),
        ("spec.elastic.minReplicas", spec.elastic.min_replicas, 0),
        ("spec.checkpoint.everySteps", spec.checkpoint.every_steps, AUTO),
        ("spec.checkpoint.minSteps", spec.checkpoint.min_steps, 1),
        ("spec.checkpoint.maxSteps", spec.checkpoint.max_steps, 1),
        ("spec.checkpoint.keep", spec.checkpoint.keep, 1),
        ("spec.checkpoint.localEverySteps", spec.checkpoint.local_every_steps, 0),
        ("spec.priority", spec.priority, -MAX_COUNT),
    ):
        if value < least:
            yield _one(path, f"{value} is too small", f"use {least} or more")
        elif value > MAX_COUNT:
            yield _one(path, f"{value} is too large", f"use at most {MAX_COUNT}")


def _interval(spec: JobSpec) -> Iterator[Finding]:
    least, most = spec.checkpoint.min_steps, spec.checkpoint.max_steps
    if 1 <= most < least:
        path = "spec.checkpoint.maxSteps"
        yield _one(path, f"{most} is less than minSteps ({least})", f"use {least} or more", "spec.checkpoint.minSteps")


def _parallel(spec: JobSpec) -> Iterator[Finding]:
    degrees = spec.parallel
    names = ("tp", "pp", "cp", "dp", "ep")
    read = ("spec.ranks", "spec.parallel", *(f"spec.parallel.{name}" for name in names))
    if spec.ranks < 1 or min(degrees.tp, degrees.pp, degrees.cp, degrees.ep) < 1 or degrees.dp < 0:
        return  # the counts rule has said so
    others = degrees.tp * degrees.pp * degrees.cp
    if degrees.dp == 0:
        fix = f"make ranks a multiple of {others}, or change the degrees"
        yield _one("spec.ranks", f"{spec.ranks} is not divisible by tp*pp*cp = {others}", fix, *read)
    elif others * degrees.dp != spec.ranks:
        product = others * degrees.dp
        fix = f"set ranks to {product}, or leave dp out to have it derived"
        yield _one("spec.ranks", f"{spec.ranks} is not tp*pp*cp*dp = {product}", fix, *read)
    if degrees.dp and degrees.dp % degrees.ep:
        near = math.gcd(degrees.dp, degrees.ep)
        reason = f"{degrees.ep} does not divide dp = {degrees.dp}"
        yield _one("spec.parallel.ep", reason, f"use a divisor of {degrees.dp}, for example {near}", *read)


def _elastic(spec: JobSpec) -> Iterator[Finding]:
    """What leaves and comes back are whole replicas, and sets of those that share one copy of the experts."""
    path, least, degrees = "spec.elastic.minReplicas", spec.elastic.min_replicas, spec.parallel
    read = ("spec.ranks", "spec.parallel", *(f"spec.parallel.{name}" for name in ("tp", "pp", "cp", "dp", "ep")))
    if not least or degrees.dp < 1 or degrees.ep < 1 or degrees.dp % degrees.ep:
        return
    if least > degrees.dp:
        fix = f"use at most {degrees.dp}, or add replicas"
        yield _one(path, f"{least} is more than the job's {degrees.dp} data-parallel replicas", fix, *read)
    elif least % degrees.ep:
        near = -(-least // degrees.ep) * degrees.ep
        reason = f"{least} is no multiple of ep = {degrees.ep}: so many replicas share one copy of the experts"
        yield _one(path, reason, f"use {near}, or another multiple of {degrees.ep}", *read)


def policy_findings(policy: RestartPolicy, path: str) -> Iterator[Finding]:
    """Every broken rule of a restart policy that stands at `path`."""
    budgets: tuple[tuple[str, Budget], ...] = (
        ("user", policy.user),
        ("infrastructure", policy.infrastructure),
        ("preemption", policy.preemption),
    )
    for name, budget in budgets:
        here = f"{path}.budgets.{name}"
        if (budget.max < 0 and budget.max != UNLIMITED) or budget.max > MAX_COUNT:
            fix = f"write a number up to {MAX_COUNT}, or `max: unlimited`"
            yield _one(f"{here}.max", f"{budget.max} is no restart count", fix)
        if not 0 <= budget.reset_on_progress <= MAX_COUNT:
            fix = f"use 0 (never) to {MAX_COUNT} steps"
            yield _one(f"{here}.resetOnProgress", f"{budget.reset_on_progress} is no step count", fix)
        yield from _duration(f"{here}.window", budget.window_ms, 1)
    backoff = policy.backoff
    here = f"{path}.backoff"
    if not (math.isfinite(backoff.factor) and 1 <= backoff.factor <= 1000):
        yield _one(f"{here}.factor", f"{backoff.factor} does not make waiting times grow", "use 1 to 1000")
    if not 0 <= backoff.jitter <= 1:
        yield _one(f"{here}.jitter", f"{backoff.jitter} is no share", "use 0 (none) to 1")
    if backoff.max_ms < backoff.initial_ms:
        reason = f"{backoff.max_ms} ms is less than initial ({backoff.initial_ms} ms)"
        yield _one(f"{here}.max", reason, "use at least the initial waiting time", f"{here}.initial")
    yield from _duration(f"{path}.collectWindow", policy.collect_window_ms, 0)
    yield from _duration(f"{here}.initial", backoff.initial_ms, 0)
    yield from _duration(f"{here}.max", backoff.max_ms, 0)
    for violation in check_rules(policy, path):
        yield violation, (violation.path,)


def _durations(spec: JobSpec) -> Iterator[Finding]:
    timeouts = spec.timeouts
    yield from _duration("spec.timeouts.start", timeouts.start_ms, 1)
    yield from _duration("spec.timeouts.join", timeouts.join_ms, 1)
    yield from _duration("spec.timeouts.stop", timeouts.stop_ms, 1)


def _duration(path: str, value_ms: int, least_ms: int) -> Iterator[Finding]:
    if not least_ms <= value_ms <= MAX_DURATION_MS:
        yield _one(path, f"{value_ms} ms is out of range", f"use {least_ms}ms or more, at most 87600h")
