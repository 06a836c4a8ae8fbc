"""Manifests from anybody: every file is either a specification or a refusal with a place and a fix, in bounded time."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.errors import CliError
from cli.manifest_file import read_manifest
from cli.wire import spec_to_message
from controlplane.core.manifest import check_spec, parse_manifest, spec_to_document
from controlplane.core.spec import JobSpec
from controlplane.rpc.codec import missing_sections, spec_value

EXAMPLES = int(os.environ.get("PHALANX_FUZZ_EXAMPLES", "100"))
GOOD = """\
apiVersion: phalanx/v1
kind: TrainingJob
metadata: {name: counter, labels: {team: a}}
spec:
  workload: {module: counter, path: /srv/code, args: {steps: 500}}
  ranks: 2
  parallel: {dp: 2, ep: 1}
  spares: {warmNodes: 1}
  checkpoint: {everySteps: 50, keep: 3}
  restartPolicy: {collectWindow: 2s, budgets: {user: {max: 3, window: 1h}}, backoff: {initial: 1s, max: 5m}}
  timeouts: {start: 2m}
"""
BOMB = b"spec:\n  workload:\n    args:\n      k0: &k0 [1]\n" + b"".join(
    f"      k{number}: &k{number} [*k{number - 1}, *k{number - 1}]\n".encode() for number in range(1, 60)
)
"""Sixty doublings: 2^60 values, in a file of two KiB."""
HOSTILE = (
    b"&a [*a]", b"a: &x [x, x]\nb: [*x, *x]", b"!!python/object/apply:os.system ['true']", b"[" * 600, b"{a: " * 600,
    b"- " * 20_000, b"\xff\xfe\x00", b"\x00", b"a: 2020-99-99", b"? {a: b}\n: c", b"%YAML 9.9\n---\na", b"--- a\n--- b",
    b"1e9999999", b"a: .inf", b"a: 0x" + b"f" * 5_000, b"!!binary x", b"!!set {a}", b"<<: 1", b"\xef\xbb\xbfa: 1",
BOMB,
    b"spec: {workload: {folder: /proc/1}}", b"spec: {workload: {folder: \"\\0\"}}", b"spec: {workload: {path: \"\\0\"}}",
    b"spec: {checkpoint: {folder: \"" + b"a/" * 5_000 + b"\"}}", b"metadata: {name: \"\\ud800\"}",
)  # fmt: skip

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates() | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)
bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def refused_or_read(path: Path) -> None:
    try:
        manifest = read_manifest(str(path))
    except CliError as error:
        refusal = error.lines()
    else:
        crosses_the_wire(manifest.spec)
        return
    assert refusal


def crosses_the_wire(spec: JobSpec) -> None:
    message = spec_to_message(spec)
    assert not missing_sections(message)
    assert spec_value(type(message).FromString(message.SerializeToString())) == spec


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_files(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(data)
    refused_or_read(file)


@bounded
@given(st.binary(max_size=300))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(data)
    refused_or_read(file)


@bounded
@given(st.data())
def test_a_good_file_with_some_bytes_changed(tmp_path: Path, data: st.DataObject) -> None:
    text = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    file = tmp_path / "job.yaml"
    file.write_bytes(bytes(text))
    refused_or_read(file)


def test_standard_input_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\xfd"), encoding="utf-8"))
    with pytest.raises(CliError):
        read_manifest("-")


@bounded
@given(st.data())
def test_any_value_in_any_field(data: st.DataObject) -> None:
    """Documents, not files: all violations have a path and a fix, and what passes survives the wire."""
    document = yaml.safe_load(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        place = document
        while True:
            key = data.draw(st.sampled_from(sorted(place, key=str)))
            inner = place[key]
            if not isinstance(inner, dict) or not inner or data.draw(st.booleans()):
                break
            place = inner
        place[key] = data.draw(plain)
        if not all(isinstance(document.get(name), dict) for name in ("metadata", "spec")):
            break
    parsed = parse_manifest(document)
    assert (parsed.spec is None) == bool(parsed.violations)
    assert all(violation.reason and violation.fix for violation in parsed.violations)
    if parsed.spec is not None:
        assert not check_spec(parsed.spec)
        assert parse_manifest(spec_to_document(parsed.spec)).spec == parsed.spec
        assert spec_value(spec_to_message(parsed.spec)) == parsed.spec
