"""The description of a manifest and its reader agree, and the committed schema is the description."""

import json
from collections.abc import Iterator, Mapping

import pytest
import yaml
from jsonschema import Draft7Validator

from cli.errors import CliError
from cli.schema import FILE, ROOT, field_at, json_schema, walk
from cli.schema_field import Field
from controlplane.core.manifest import parse_manifest, spec_to_document
from controlplane.core.spec import JobSpec, Workload

MINIMAL = {
    "apiVersion": "phalanx/v1",
    "kind": "TrainingJob",
    "metadata": {"name": "moe"},
    "spec": {"workload": {"module": "m"}, "ranks": 4},
}


def leaves(document: Mapping[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    for name, value in document.items():
        full = f"{path}.{name}" if path else name
        if isinstance(value, dict) and full not in ("metadata.labels", "spec.workload.args"):
            yield from leaves(value, full)
        else:
            yield full, value


def described() -> dict[str, Field]:
    """What a full document holds; the fields of rules stand in lists."""
    every = {path: field for path, field in walk(ROOT, "") if path and field.kind != "section"}
    return {path: field for path, field in every.items() if "Rules." not in path}


def test_the_committed_schema_is_up_to_date() -> None:
    assert json.loads(FILE.read_text()) == json_schema(), "phalanx explain -o schema > cli/trainingjob.schema.json"


def test_every_field_of_a_manifest_is_described_with_its_default() -> None:
    written = dict(leaves(spec_to_document(JobSpec("moe", Workload("m"), ranks=4))))
    fields = described()
    assert set(written) | {"spec.parallel.dp", "spec.workload.folder", "spec.mutedFaults"} == set(fields)
    parsed = parse_manifest(MINIMAL).spec
    assert parsed is not None
    defaults = dict(leaves(spec_to_document(parsed)))
    durations = {"2m": "2m", "1m": "1m"}
    for path, field in fields.items():
        if field.default is not None:
            assert defaults[path] == durations.get(str(field.default), field.default), path


def test_the_schema_takes_what_the_reader_takes() -> None:
    check = Draft7Validator(json_schema())
    assert check.is_valid(MINIMAL)
    assert check.is_valid(spec_to_document(JobSpec("moe", Workload("m"), ranks=4)))
    for broken in ("ranks: four", "ranks: 0", "rank: 4", "timeouts: {stop: 10}", "priority: true", "spares: [1]"):
        document = {**MINIMAL, "spec": {**MINIMAL["spec"], **yaml.safe_load(broken)}}  # type: ignore[dict-item]
        assert not check.is_valid(document), broken
        assert parse_manifest(document).violations, broken


RULES = """
jobRules:
  - {match: {exitCode: [42, unknown], signal: SIGKILL, sender: oom}, action: fail, reason: bad configuration}
  - {match: {fault: {level: [ISOLATE], code: XID-79}, ranks: [0, 2-3], coordinates: {dp: 1}}, action: replaceRank}
  - {match: {message: loss is nan, blame: user}, action: rollback, checkpoints: 2, thenPoison: true, ledger: user}
  - {match: {reason: nodeDead, ranks: first, failuresOfRank: 2, within: 6h}, action: restartJob}
nodeRules:
  - {match: {failuresOnNode: 3, within: 6h}, action: quarantineNode}
"""


def test_the_schema_knows_restart_rules() -> None:
    check = Draft7Validator(json_schema())
    document = {**MINIMAL, "spec": {**MINIMAL["spec"], "restartPolicy": yaml.safe_load(RULES)}}  # type: ignore[dict-item]
    spec = parse_manifest(document).spec
    assert spec is not None
    assert check.is_valid(document)
    assert check.is_valid(spec_to_document(spec))
    assert parse_manifest(spec_to_document(spec)).spec == spec
    for broken in ("exitCodes: 1", "sender: me", "fault: {levels: [ISOLATE]}", "reason: dead", "within: 6"):
        rules = [{"match": yaml.safe_load("{" + broken + "}"), "action": "fail"}]
        wrong = {**MINIMAL, "spec": {**MINIMAL["spec"], "restartPolicy": {"jobRules": rules}}}  # type: ignore[dict-item]
        assert not check.is_valid(wrong), broken
        assert parse_manifest(wrong).violations, broken


def test_explain_finds_a_field_by_its_path() -> None:
    assert field_at("trainingjob.spec.spares.parkedPerNode").kind == "integer"
    assert field_at("spec.SPARES.warmnodes").name == "warmNodes"
    assert field_at("trainingjob") is ROOT
    with pytest.raises(CliError) as refused:
        field_at("trainingjob.spec.sparse")
    assert refused.value.fix == "did you mean `trainingjob.spec.spares`?"
