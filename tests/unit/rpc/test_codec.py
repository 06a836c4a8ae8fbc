"""Values to messages and back; what a peer may not send."""

from __future__ import annotations

import math
from typing import Any

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st
from phalanx.v1 import agent_pb2, types_pb2

from cli.wire import spec_to_message
from controlplane.core.draft import Refusal
from controlplane.core.manifest import complete, parse_manifest
from controlplane.core.spec import JobSpec, Violation, Workload
from controlplane.core.state import State
from controlplane.rpc import codec, errors, observations

NOW_NS = 1_800_000_000_000_000_000


def manifest(**spec: Any) -> JobSpec:
    document = {
        "apiVersion": "phalanx/v1",
        "kind": "TrainingJob",
        "metadata": {"name": "moe", "labels": {"team": "x"}},
        "spec": {
            "workload": {"module": "a.b", "args": {"steps": 200, "lr": 0.5, "deep": {"list": [1, 2.5, None, True]}}},
            "ranks": 8,
            "parallel": {"tp": 2, "ep": 2},
            "restartPolicy": {"budgets": {"preemption": {"max": "unlimited"}}},
            **spec,
        },
    }
    parsed = parse_manifest(document)
    assert parsed.spec is not None, parsed.violations
    return parsed.spec


def test_a_manifest_survives_the_way_from_the_client_to_the_core_and_back() -> None:
    spec = manifest()
    message = spec_to_message(spec)
    assert codec.missing_sections(message) == ()
    assert codec.spec_value(message) == spec
    assert codec.spec_value(codec.spec_message(spec)) == spec
    assert codec.spec_message(spec) == message


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda x: st.lists(x, max_size=3)
    )
)
def test_arguments_arrive_as_they_were_written(value: object) -> None:
    import json

    args = json.dumps({"value": value}, sort_keys=True)
    spec = complete(JobSpec("n", Workload("m", "", args), 1))
    assert codec.spec_value(codec.spec_message(spec)).workload.args == args


def test_every_section_of_a_specification_must_be_there() -> None:
    assert [v.path for v in codec.missing_sections(types_pb2.TrainingJobSpec(name="x"))] == [
        "spec.workload", "spec.parallel", "spec.spares", "spec.checkpoint", "spec.restartPolicy", "spec.timeouts",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_does_not_know_are_named(number: float) -> None:
    message = codec.spec_message(JobSpec("x", Workload("m"), 1))
    message.workload.args.update({"deep": [{"lr": number}]})
    assert [v.path for v in codec.missing_sections(message)] == ["spec.workload.args"]


@pytest.mark.parametrize(
    ("at_ns", "text"),
    [(0, ""), (1, "1970-01-01T00:00:00.000Z"), (1_795_328_738_349_999_999, "2026-11-22T06:25:38.349Z")],
)
def test_times_are_rfc_3339(at_ns: int, text: str) -> None:
    assert codec.rfc3339(at_ns) == text


@given(st.integers(0, 2**64 - 1))
def test_an_age_never_leaves_what_a_column_holds(age_ms: int) -> None:
    assert 1 <= codec.at_from_age(age_ms, NOW_NS) <= NOW_NS


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -1.0, 1e300])
def test_what_is_no_duration_is_none(value: float) -> None:
    assert codec.duration_ns(value) == 0


def good_hello() -> agent_pb2.AgentHello:
    device = agent_pb2.AcceleratorStatus(index=0, serial="a", state=types_pb2.ACCELERATOR_STATE_HEALTHY)
    host = agent_pb2.HostStatus(host_id="moe-1-3", state=types_pb2.RANK_STATE_RUNNING, rank=2, generation=4, age_ms=5)
    snapshot = agent_pb2.Report(full=True, accelerators=[device], hosts=[host])
    return agent_pb2.AgentHello(node="n-1", boot_id="b", address="10.0.0.1", snapshot=snapshot)


def test_a_hello_becomes_an_event() -> None:
    event = observations.node_hello(good_hello(), NOW_NS, State())
    row = event.hosts[0]
    assert (row.job, row.serial, row.rank, row.since_ns) == ("moe-1", 3, 2, NOW_NS - 5_000_000)
    assert (row.joining_ns, row.first_step_ns) == (0, 0)


def change(hello: agent_pb2.AgentHello, path: str, value: Any) -> None:
    *parents, name = path.split(".")
    target: Any = hello
    for parent in parents:
        target = target[int(parent)] if parent.isdigit() else getattr(target, parent)
    setattr(target, name, value)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("node", "", "hello.node"),
        ("node", "../etc", "hello.node"),
        ("boot_id", "", "hello.boot_id"),
        ("address", "", "hello.address"),
        ("snapshot.full", False, "hello.snapshot"),
        ("snapshot.hosts.0.host_id", "nonsense", "hello.snapshot.hosts[0].host_id"),
        ("snapshot.hosts.0.host_id", "moe-1-99999999999", "hello.snapshot.hosts[0].host_id"),
        ("snapshot.hosts.0.state", 0, "hello.snapshot.hosts[0].state"),
        ("snapshot.hosts.0.state", 77, "hello.snapshot.hosts[0].state"),
        ("snapshot.hosts.0.state", 8, "hello.snapshot.hosts[0].exit"),
        ("snapshot.hosts.0.rank", -2, "hello.snapshot.hosts[0].rank"),
        ("snapshot.accelerators.0.state", 0, "hello.snapshot.accelerators[0].state"),
        ("snapshot.accelerators.0.index", 3, "hello.snapshot.accelerators"),
        ("snapshot.accelerators.0.index", 2**32 - 1, "hello.snapshot.accelerators[0].index"),
    ],
)
def test_a_hello_that_makes_no_sense_is_refused_by_field(path: str, value: Any, named: str) -> None:
    hello = good_hello()
    change(hello, path, value)
    with pytest.raises(errors.RequestRefused) as error:
        observations.node_hello(hello, NOW_NS, State())
    assert named in [violation.path for violation in error.value.refusal.violations]


def test_the_error_table_and_its_bounds() -> None:
    assert errors.status_of(Refusal("conflict", "JOB_EXISTS", "")) is StatusCode.ALREADY_EXISTS
    assert errors.status_of(Refusal("conflict", "NODE_DEAD", "")) is StatusCode.FAILED_PRECONDITION
    assert errors.status_of(Refusal("of the future", "X", "")) is StatusCode.UNKNOWN
    many = tuple(Violation(f"spec.field{number}", "reason " * 20, "fix " * 20) for number in range(1_000))
    rows = errors.metadata_of(Refusal("invalid", "X", "", many))
    assert rows[0] == ("phalanx-reason", "X")
    assert 1 < len(rows) < 100
    assert sum(len(key) + len(value) for key, value in rows) < 8_192
    assert len(errors.message_of(Refusal("invalid", "X", "x" * 100_000))) == errors.MAX_MESSAGE
