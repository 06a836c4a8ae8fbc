"""Manifests: a `TrainingJob` document to a `JobSpec` and back, and the rules that a specification must keep.

Every violation of a document is reported at once, with the path that a user sees in the file (`spec.parallel.ep`). The
same paths come back from the server, so one renderer serves both. Durations are text with a unit (`200ms`, `2s`, `5m`,
`1h`): a bare number would leave the unit to memory.
"""

from __future__ import annotations

import json

from controlplane.core.durations import format_duration, parse_duration
from controlplane.core.manifest_restart import policy_document, read_restart_policy
from controlplane.core.manifest_rules import MAX_MUTED, check_spec, complete, findings, touches
from controlplane.core.manifest_section import Section
from controlplane.core.spec import (
    AUTO,
    CheckpointPolicy,
    Elastic,
    JobSpec,
    Parallel,
    ParsedManifest,
    SparePolicy,
    Timeouts,
    Violation,
    Workload,
)

__all__ = ["check_spec", "complete", "format_duration", "parse_duration", "parse_manifest", "spec_to_document"]

API_VERSION = "phalanx/v1"
KIND = "TrainingJob"


def parse_manifest(document: object) -> ParsedManifest:
    """Reads a document (plain values from YAML or JSON). All violations at once; a spec only when there is none."""
    violations: list[Violation] = []
    root = Section(document, "", violations)
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
            "spares": {
                "warmNodes": _or_auto(spec.spares.warm_nodes),
                "parkedPerNode": spec.spares.parked_per_node,
                "coldNodes": spec.spares.cold_nodes,
            },
            "checkpoint": {
                "folder": spec.checkpoint.folder,
                "everySteps": _or_auto(spec.checkpoint.every_steps),
                "minSteps": spec.checkpoint.min_steps,
                "maxSteps": spec.checkpoint.max_steps,
                "keep": spec.checkpoint.keep,
                "replicated": spec.checkpoint.replicated,
                "resumeFrom": spec.checkpoint.resume_from,
                "localEverySteps": spec.checkpoint.local_every_steps,
            },
            "restartPolicy": policy_document(spec.restart_policy),
            "timeouts": {
                "start": format_duration(spec.timeouts.start_ms),
                "join": format_duration(spec.timeouts.join_ms),
                "stop": format_duration(spec.timeouts.stop_ms),
            },
            "priority": spec.priority,
            "elastic": {"minReplicas": spec.elastic.min_replicas},
            **({"mutedFaults": list(spec.muted_faults)} if spec.muted_faults else {}),
        },
    }


def _or_auto(value: int) -> int | str:
    return "auto" if value == AUTO else value


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_spec(metadata: Section, spec: Section) -> JobSpec:
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
        restart_policy=read_restart_policy(spec.section("restartPolicy")),
        timeouts=_read_timeouts(spec.section("timeouts")),
        priority=spec.integer("priority", 0),
        elastic=_read_elastic(spec.section("elastic")),
        muted_faults=spec.words("mutedFaults", MAX_MUTED),
    )
    spec.finish()
    return result


def _read_workload(section: Section) -> Workload:
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


def _read_parallel(section: Section) -> Parallel:
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


def _read_elastic(section: Section) -> Elastic:
    elastic = Elastic(section.integer("minReplicas", Elastic().min_replicas))
    section.finish()
    return elastic


def _read_spares(section: Section) -> SparePolicy:
    default = SparePolicy()
    spares = SparePolicy(
        section.integer_or_auto("warmNodes", default.warm_nodes),
        section.integer("parkedPerNode", default.parked_per_node),
        section.integer("coldNodes", default.cold_nodes),
    )
    section.finish()
    return spares


def _read_checkpoint(section: Section) -> CheckpointPolicy:
    default = CheckpointPolicy()
    checkpoint = CheckpointPolicy(
        section.text("folder", default.folder),
        section.integer_or_auto("everySteps", default.every_steps),
        section.integer("keep", default.keep),
        section.integer("minSteps", default.min_steps),
        section.integer("maxSteps", default.max_steps),
        section.flag("replicated"),
        section.text("resumeFrom"),
        section.integer("localEverySteps", default.local_every_steps),
    )
    section.finish()
    return checkpoint


def _read_timeouts(section: Section) -> Timeouts:
    default = Timeouts()
    timeouts = Timeouts(
        section.duration("start", default.start_ms),
        section.duration("join", default.join_ms),
        section.duration("stop", default.stop_ms),
    )
    section.finish()
    return timeouts
