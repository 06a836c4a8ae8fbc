"""The description of a manifest and its reader agree, and the committed schema is the description."""

import json
from collections.abc import Iterator, Mapping

import pytest
import yaml
from jsonschema import Draft7Validator

from cli.errors import CliError
from cli.schema import FILE, ROOT, Field, field_at, json_schema, walk
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
    return {path: field for path, field in walk(ROOT, "") if path and field.kind != "section"}


def test_the_committed_schema_is_up_to_date() -> None:
    assert json.loads(FILE.read_text()) == json_schema(), "phalanx explain -o schema > cli/trainingjob.schema.json"


def test_every_field_of_a_manifest_is_described_with_its_default() -> None:
    written = dict(leaves(spec_to_document(JobSpec("moe", Workload("m"), ranks=4))))
    fields = described()
    assert set(written) | {"spec.parallel.dp", "spec.workload.folder"} == set(fields)
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


def test_explain_finds_a_field_by_its_path() -> None:
    assert field_at("trainingjob.spec.spares.warmNodes").kind == "integer"
    assert field_at("spec.SPARES.warmnodes").name == "warmNodes"
    assert field_at("trainingjob") is ROOT
    with pytest.raises(CliError) as refused:
        field_at("trainingjob.spec.sparse")
    assert refused.value.fix == "did you mean `trainingjob.spec.spares`?"
