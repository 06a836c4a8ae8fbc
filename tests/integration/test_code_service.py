"""Archives of user code at a real controller: stored when whole, found again, refused when not what they are said to be."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from phalanx.v1 import audit_pb2, audit_pb2_grpc, code_pb2, code_pb2_grpc, job_pb2, types_pb2

from cli.code import PackedFolder, upload
from controlplane.core.shipped import MAX_ARCHIVE_BYTES
from tests.fixtures.controller_process import Controller, refusal, spec_message

DATA = os.urandom(200_000)
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    controller = Controller(tmp_path_factory.mktemp("code"))
    try:
        yield controller.start()
    finally:
        controller.close()


@pytest.fixture
def code(controller: Controller) -> code_pb2_grpc.CodeServiceStub:
    return code_pb2_grpc.CodeServiceStub(controller.channel)


def send(code: code_pb2_grpc.CodeServiceStub, *messages: code_pb2.UploadCodeRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        code.UploadCode(iter(messages), timeout=30)
    return refusal(caught.value)


def folder(controller: Controller) -> Path:
    return controller.folder / "code"


def test_stored_once_and_found_afterwards(controller: Controller, code: code_pb2_grpc.CodeServiceStub) -> None:
    packed = PackedFolder("src", DIGEST, DATA, 3)
    assert upload(code, packed)
    assert not upload(code, packed)
    (stored,) = folder(controller).iterdir()
    assert stored.read_bytes() == DATA
    assert stored.name == f"{DIGEST.removeprefix('sha256:')}.tar.gz"
    found = code.FindCode(code_pb2.FindCodeRequest(digest=DIGEST), timeout=30)
    assert (found.found, found.max_bytes) == (True, MAX_ARCHIVE_BYTES)
    audit = audit_pb2_grpc.AuditServiceStub(controller.channel)
    records = audit.ListAudit(audit_pb2.ListAuditRequest(subject=f"code/{DIGEST}"), timeout=30).records
    assert {record.action for record in records} == {"KeepCode"}


first = code_pb2.UploadCodeRequest
OTHER = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ((), "NOT_A_DIGEST"),
        ((first(digest="../../etc/passwd", bytes=3),), "NOT_A_DIGEST"),
        ((first(digest=OTHER, bytes=0),), "CODE_TOO_LARGE"),
        ((first(digest=OTHER, bytes=MAX_ARCHIVE_BYTES + 1),), "CODE_TOO_LARGE"),
        ((first(digest=OTHER, bytes=3, data=b"abc"),), "CODE_DIGEST_DIFFERS"),
        ((first(digest=OTHER, bytes=3, data=b"abcd"),), "CODE_SIZE_DIFFERS"),
        ((first(digest=OTHER, bytes=30), first(data=b"abcd")), "CODE_SIZE_DIFFERS"),
        ((first(digest=OTHER, bytes=30), first(), first(data=b"abcd")), "EMPTY_CHUNK"),
        ((first(digest=OTHER, bytes=1 << 20), first(data=bytes(1 << 18))), "MESSAGE_TOO_LARGE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_whole_leaves_nothing(
    controller: Controller,
    code: code_pb2_grpc.CodeServiceStub,
    messages: tuple[code_pb2.UploadCodeRequest, ...],
    reason: str,
) -> None:
    assert send(code, *messages) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert not [path for path in folder(controller).glob("*") if path.name.startswith((".upload-", "0" * 64))]


def test_a_job_whose_code_was_never_uploaded_is_not_stored(controller: Controller) -> None:
    workload = types_pb2.WorkloadSpec(module="train", code_digest=OTHER)
    spec = spec_message()
    spec.workload.CopyFrom(workload)
    before = controller.site().revision
    with pytest.raises(grpc.RpcError) as caught:
        controller.jobs.SubmitJob(job_pb2.SubmitJobRequest(request_id="1", spec=spec), timeout=30)
    assert refusal(caught.value) == (grpc.StatusCode.FAILED_PRECONDITION, "CODE_MISSING")
    assert controller.recorded(before) == []


def test_a_dry_run_needs_no_upload_and_leaves_nothing(controller: Controller) -> None:
    spec = spec_message()
    spec.workload.CopyFrom(types_pb2.WorkloadSpec(module="train", code_digest=OTHER))
    before = controller.site().revision
    with pytest.raises(grpc.RpcError) as caught:
        controller.jobs.SubmitJob(job_pb2.SubmitJobRequest(spec=spec, dry_run=True), timeout=30)
    assert refusal(caught.value)[1] == "DOES_NOT_FIT_SITE", "missing code is no objection; that there is no node is one"
    assert controller.recorded(before) == []
    assert not [path for path in folder(controller).glob("*") if path.name.startswith("0" * 64)]


def test_storage_that_cannot_be_written_is_said_plainly(controller: Controller) -> None:
    place = folder(controller)
    place.mkdir(exist_ok=True)
    kept = place.rename(place.with_name("kept"))
    place.write_text("a file where the folder should be")
    try:
        stub = code_pb2_grpc.CodeServiceStub(controller.channel)
        data = b"abc"
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        got = send(stub, first(digest=digest, bytes=3, data=data))
        assert got == (grpc.StatusCode.UNAVAILABLE, "CODE_STORAGE")
    finally:
        place.unlink()
        kept.rename(place)
