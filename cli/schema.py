"""What a manifest may say, defined once: the JSON schema for editors and `phalanx explain` are both made from it.

The reader of manifests (`controlplane.core.manifest`) decides; a test holds this description against it, field by field.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli.errors import CliError, Exit
from cli.schema_field import Field
from cli.schema_rules import JOB_RULES, NODE_RULES
from controlplane.core.rule_checks import MAX_RULES, MAX_VALUES

FILE = Path(__file__).parent / "trainingjob.schema.json"
"""The schema as committed; `phalanx explain -o schema` prints the same."""

DURATION = r"^[0-9]{1,15}(\.[0-9]{1,6})?(ms|s|m|h)$"
NAME = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
MAX_COUNT = 2**31 - 1


def _budget(name: str, meaning: str, most: str | int, window: str, back: int) -> Field:
    return Field(
        name,
        "section",
        meaning,
        fields=(
            Field("max", "count", "Restarts that are allowed in the window, or `unlimited`.", most, least=0),
            Field("window", "duration", "The sliding window.", window),
            Field(
                "resetOnProgress",
                "integer",
                "Steps of new progress that give the budget back; 0: never.",
                back,
                least=0,
            ),
        ),
    )


def _degree(name: str, meaning: str) -> Field:
    return Field(name, "integer", meaning, None if name == "dp" else 1, least=1)


ROOT = Field(
    "TrainingJob",
    "section",
    "A training job: what runs, on how much, and what is done when something breaks.",
    fields=(
        Field("apiVersion", "text", "Version of this form.", required=True, choices=("phalanx/v1",)),
        Field("kind", "text", "What this document describes.", required=True, choices=("TrainingJob",)),
        Field(
            "metadata",
            "section",
            "How the job is called.",
            required=True,
            fields=(
                Field(
                    "name",
                    "text",
                    "Name of the job: lower-case letters, digits and inner hyphens, at most 40.",
                    required=True,
                    pattern=NAME,
                    example="moe-run-7",
                ),
                Field(
                    "labels", "labels", "Texts to select by: `phalanx get jobs -l team=vision`.", example="team: vision"
                ),
            ),
        ),
        Field(
            "spec",
            "section",
            "What is wanted.",
            required=True,
            fields=(
                Field(
                    "workload",
                    "section",
                    "The code that every rank runs.",
                    required=True,
                    fields=(
                        Field(
                            "module",
                            "text",
                            "Importable module with `main(context)`.",
                            required=True,
                            example="training_jobs.moe.train",
                        ),
                        Field(
                            "path",
                            "text",
                            "Folder put in front of sys.path on every node; relative to the manifest. Empty: installed packages.",
                            "",
                        ),
                        Field(
                            "folder",
                            "text",
                            "Folder that is packed and shipped with the job; relative to the manifest. Replaces path.",
                            example="./src",
                        ),
                        Field(
                            "codeDigest",
                            "text",
                            "Digest of an archive that was shipped before; replaces path and folder.",
                            "",
                            example="sha256:<64 hex digits>",
                        ),
                        Field(
                            "image",
                            "text",
                            "Container image by digest; replaces path, folder and codeDigest.",
                            "",
                            example="registry/name@sha256:<64 hex digits>",
                        ),
                        Field(
                            "args", "arguments", "Handed to the workload unchanged.", example="{steps: 200, seed: 7}"
                        ),
                    ),
                ),
                Field("ranks", "integer", "Processes of the job; all run together.", required=True, least=1),
                Field("acceleratorsPerRank", "integer", "Devices that each rank holds, of one node.", 1, least=1),
                Field(
                    "parallel",
                    "section",
                    "Parallel degrees: tp x pp x cp x dp = ranks, and ep divides dp.",
                    fields=(
                        _degree("tp", "Tensor parallel."),
                        _degree("pp", "Pipeline parallel."),
                        _degree("cp", "Context parallel."),
                        _degree("dp", "Data parallel; left out it is derived from ranks."),
                        _degree("ep", "Expert parallel; divides dp."),
                    ),
                ),
                Field(
                    "spares",
                    "section",
                    "What is held back, so that a recovery does not wait for imports or for nodes.",
                    fields=(
                        Field(
                            "warmNodes",
                            "automatic",
                            "Whole nodes held back, processes parked on them; `auto`: the job's share of the site's pool.",
                            0,
                            least=0,
                        ),
                        Field("parkedPerNode", "integer", "Parked processes on each node that runs ranks.", 0, least=0),
                        Field(
                            "coldNodes", "integer", "Whole nodes held back with nothing started on them.", 0, least=0
                        ),
                    ),
                ),
                Field(
                    "checkpoint",
                    "section",
                    "Where and how often state is saved.",
                    fields=(
                        Field(
                            "folder",
                            "text",
                            "Folder on shared storage; relative to the manifest. Empty: the site's default.",
                            "",
                        ),
                        Field(
                            "everySteps",
                            "automatic",
                            "Steps between checkpoints; 0: never; `auto`: from the measured stall and failures.",
                            100,
                            least=0,
                        ),
                        Field("minSteps", "integer", "Least steps between checkpoints with `auto`.", 1, least=1),
                        Field("maxSteps", "integer", "Most steps between checkpoints with `auto`.", 10_000, least=1),
                        Field("keep", "integer", "Checkpoints kept; the newest verified one always is.", 3, least=1),
                        Field(
                            "replicated",
                            "flag",
                            "Data-parallel replicas hold the same state as a whole (no sharded optimizer).",
                            False,
                        ),
                        Field(
                            "resumeFrom",
                            "text",
                            "Checkpoint of another job to start from, or that job's name: its newest. Empty: from the start.",
                            "",
                        ),
                        Field(
                            "localEverySteps",
                            "integer",
                            "Steps between versions on each node's own disk, beside the steps; 0: none.",
                            50,
                            least=0,
                        ),
                    ),
                ),
                Field(
                    "restartPolicy",
                    "section",
                    "How often the job may be restarted, by who is to blame.",
                    fields=(
                        Field(
                            "collectWindow",
                            "duration",
                            "Failures within it are one incident; the earliest root decides.",
                            "200ms",
                        ),
                        Field(
                            "budgets",
                            "section",
                            "Restarts that are allowed, one budget for each who can be to blame.",
                            fields=(
                                _budget("user", "The job's own code.", 3, "1h", 200),
                                _budget("infrastructure", "Hardware and the site.", 200, "24h", 0),
                                _budget("preemption", "Others who needed the place.", "unlimited", "1h", 0),
                            ),
                        ),
                        Field(
                            "backoff",
                            "section",
                            "Waiting time before a restart charged to the user: initial x factor^(n-1), at most max.",
                            fields=(
                                Field("initial", "duration", "Before the first restart.", "1s"),
                                Field(
                                    "factor", "number", "Growth from one restart to the next, 1 to 1000.", 2.0, least=1
                                ),
                                Field("max", "duration", "No wait is longer.", "5m"),
                                Field(
                                    "jitter",
                                    "number",
                                    "Share by which a wait is shortened at random, 0 to 1.",
                                    0.2,
                                    least=0,
                                    most=1,
                                ),
                            ),
                        ),
                        Field(
                            "retryStep",
                            "flag",
                            "Ranks keep their state when a collective fails, and can do the step again.",
                        ),
                        JOB_RULES,
                        NODE_RULES,
                    ),
                ),
                Field(
                    "timeouts",
                    "section",
                    "Limits of the phases of a start.",
                    fields=(
                        Field("start", "duration", "A process must be ready after this.", "2m"),
                        Field(
                            "join", "duration", "All ranks must run this long after a generation was announced.", "1m"
                        ),
                        Field("stop", "duration", "From SIGTERM to SIGKILL.", "10s"),
                    ),
                ),
                Field("priority", "integer", "Larger goes first.", 0, least=-MAX_COUNT),
                Field(
                    "elastic",
                    "section",
                    "Whether the job may run with fewer data-parallel replicas while there is no room for all.",
                    fields=(
                        Field("minReplicas", "integer", "The fewest; 0: with all of them or not at all.", 0, least=0),
                    ),
                ),
                Field(
                    "mutedFaults",
                    "words",
                    "Fault codes that do not take ranks of this job; at most 16.",
                    example="XID-13",
                ),
            ),
        ),
    ),
)


def walk(field: Field, path: str) -> Iterator[tuple[str, Field]]:
    """A field and all below it, with their paths."""
    yield path, field
    for one in field.fields:
        yield from walk(one, f"{path}.{one.name}" if path else one.name)


def field_at(path: str) -> Field:
    """The field of `trainingjob.spec.spares` (or `spec.spares`); a `CliError` (not found) with the nearest path."""
    words = path.strip(".").split(".")
    if words[0].lower() in ("trainingjob", "trainingjobs"):
        words = words[1:]
    known = {name.lower(): field for name, field in walk(ROOT, "")}
    found = known.get(".".join(words).lower())
    if found is not None:
        return found
    names = [name for name, _ in walk(ROOT, "trainingjob")]
    near = difflib.get_close_matches(".".join(["trainingjob", *words]), names, n=1, cutoff=0.5)
    fix = f"did you mean `{near[0]}`?" if near else "`phalanx explain` shows the fields"
    raise CliError(f"a manifest has no field `{path}`", fix=fix, code=Exit.NOT_FOUND)


# --- JSON schema -----------------------------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """The schema of a manifest, in the draft that editors' YAML language servers read."""
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Phalanx TrainingJob"}
    return {**head, **_schema(ROOT)}


def _schema(field: Field) -> dict[str, Any]:
    body: dict[str, Any] = {"description": field.meaning, **_type(field)}
    if field.default is not None:
        body["default"] = field.default
    if field.choices and field.kind == "text":
        body["enum"] = list(field.choices)
    if field.pattern:
        body["pattern"] = field.pattern
    return body


def _type(field: Field) -> dict[str, Any]:
    whole: dict[str, Any] = {"type": "integer", "minimum": field.least, "maximum": MAX_COUNT}
    match field.kind:
        case "section":
            return _section(field)
        case "integer":
            return whole
        case "count":
            return {"anyOf": [whole, {"const": "unlimited"}]}
        case "automatic":
            return {"anyOf": [whole, {"const": "auto"}]}
        case "number":
            return {"type": "number", "minimum": field.least, "maximum": field.most}
        case "flag":
            return {"type": "boolean"}
        case "words":
            word: dict[str, Any] = {"type": "string"} | ({"enum": list(field.choices)} if field.choices else {})
            return _one_or_more(word)
        case "numbers" | "ranks":
            return _one_or_more({"type": ["integer", "string"]})
        case "sections":
            return {"type": "array", "maxItems": MAX_RULES, "items": _section(field)}
        case "duration":
            return {"type": "string", "pattern": DURATION}
        case "labels":
            return {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}}
        case "arguments":
            return {"type": "object"}
        case _:
            return {"type": "string"}


def _section(field: Field) -> dict[str, Any]:
    required = [one.name for one in field.fields if one.required]
    body: dict[str, Any] = {"type": "object", "additionalProperties": False}
    body["properties"] = {one.name: _schema(one) for one in field.fields}
    return body | ({"required": required} if required else {})


def _one_or_more(one: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_VALUES}]}
