"""Packing a folder: the same files make the same archive, and nothing leaves that should not."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from phalanx.v1 import code_pb2

from agents.cell import code as node_code
from cli import code
from cli.client import Client
from cli.code import CannotPack, pack, take_folder
from cli.commands.submit import ship
from controlplane.core import shipped


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    (folder / "lib").mkdir(parents=True)
    (folder / "train.py").write_text("import lib.model\n")
    (folder / "lib" / "model.py").write_text("SIZE = 4\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


def members(packed: code.PackedFolder) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed.data))) as tar:
        return {member.name: member for member in tar}


def test_equal_content_makes_an_equal_digest_whatever_times_owners_and_order(source: Path, tmp_path: Path) -> None:
    first = pack(source)
    os.utime(source / "train.py", (1, 1))
    other = tmp_path / "other"
    (other / "lib").mkdir(parents=True)
    for name in ("lib/model.py", "run.sh", "train.py"):  # created in another order
        (other / name).write_bytes((source / name).read_bytes())
    (other / "run.sh").chmod(0o700)
    assert pack(other).digest == first.digest == pack(source).digest
    (source / "train.py").write_text("import lib.model \n")
    assert pack(source).digest != first.digest
    assert shipped.is_digest(first.digest)
    assert [(m.uid, m.uname, m.mtime) for m in members(first).values()] == [(0, "", 0)] * 3


def test_what_is_left_out(source: Path) -> None:
    for name in ("__pycache__/train.pyc", ".git/config", "data/big.bin", "lib/data/kept.bin", "logs/a.log", "a.log"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("x")
    (source / ".phalanxignore").write_text("# not needed to run\n\n*.log\n/data/\n.phalanxignore\n")
    assert list(members(pack(source))) == ["lib/data/kept.bin", "lib/model.py", "run.sh", "train.py"]
    (source / ".phalanxignore").write_text("!a.log\n")
    with pytest.raises(CannotPack, match="`!`"):
        pack(source)


def test_links(source: Path, tmp_path: Path) -> None:
    (source / "alias.py").symlink_to("train.py")
    packed = members(pack(source))
    assert packed["alias.py"].isreg()
    (tmp_path / "secret").write_text("s")
    (source / "alias.py").unlink()
    for target in ("../secret", "/etc/hostname", "lib", "nowhere"):
        (source / "alias.py").symlink_to(target)
        with pytest.raises(CannotPack, match=r"alias\.py is a link"):
            pack(source)
        (source / "alias.py").unlink()


def test_what_is_no_file_is_named(source: Path) -> None:
    os.mkfifo(source / "pipe")
    with pytest.raises(CannotPack, match="pipe is neither"):
        pack(source)


def test_limits(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "MAX_FILES", 2)
    with pytest.raises(CannotPack, match="more than 2 files"):
        pack(source)
    monkeypatch.setattr(code, "MAX_FILES", 10)
    monkeypatch.setattr(code, "MAX_ARCHIVE_BYTES", 10)
    with pytest.raises(CannotPack, match="packs to"):
        pack(source)


def test_agents_and_clients_have_the_same_limits() -> None:
    for name in ("MAX_ARCHIVE_BYTES", "MAX_UNPACKED_BYTES", "MAX_FILES"):
        assert getattr(node_code, name) == getattr(shipped, name), name


def test_a_folder_in_a_manifest_becomes_its_digest(source: Path) -> None:
    document = {"spec": {"workload": {"module": "train", "folder": "./src"}}}
    packed, flaws = take_folder(document, source.parent)
    assert packed is not None
    assert not flaws
    assert document["spec"]["workload"] == {"module": "train", "codeDigest": packed.digest}


@pytest.mark.parametrize(
    ("workload", "reason"),
    [
        ({"folder": "missing"}, "is no folder"),
        ({"folder": 7}, "must be the path"),
        ({"folder": ""}, "must be the path"),
        ({"folder": "src", "path": "/srv"}, "beside spec.workload.path"),
        ({"folder": "src", "image": "a@b"}, "beside spec.workload.image"),
    ],
)
def test_a_folder_that_cannot_be_shipped(source: Path, workload: dict[str, object], reason: str) -> None:
    packed, flaws = take_folder({"spec": {"workload": workload}}, source.parent)
    assert packed is None
    assert [(flaw.path, reason in flaw.reason) for flaw in flaws] == [("spec.workload.folder", True)]


def test_documents_without_a_folder_pass(tmp_path: Path) -> None:
    for document in (None, [], {}, {"spec": 1}, {"spec": {"workload": []}}, {"spec": {"workload": {"module": "m"}}}):
        assert take_folder(document, tmp_path) == (None, ())


class CodeStub:
    """The site's side of shipping: remembers what came."""

    def __init__(self) -> None:
        self.archives: dict[str, bytes] = {}

    def FindCode(self, request: code_pb2.FindCodeRequest, timeout: float) -> code_pb2.FindCodeResponse:
        return code_pb2.FindCodeResponse(found=request.digest in self.archives)

    def UploadCode(self, chunks: Iterable[code_pb2.UploadCodeRequest], timeout: float) -> None:
        first, *rest = chunks
        self.archives[first.digest] = b"".join(chunk.data for chunk in rest)


def test_a_dry_run_ships_nothing_and_says_so(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed, stub = pack(source), CodeStub()
    client = cast("Client", SimpleNamespace(code=stub))
    ship(client, packed, dry_run=True)
    assert stub.archives == {}
    assert f"would ship {source}: 3 files, {packed.digest}" in capsys.readouterr().err
    ship(client, packed, dry_run=False)
    assert stub.archives == {packed.digest: packed.data}
    assert capsys.readouterr().err.startswith("shipped ")
    ship(client, packed, dry_run=True)
    assert capsys.readouterr().err == ""


def test_a_site_beside_the_code_stays_at_home(source: Path) -> None:
    alone = pack(source).digest
    keys = source / ".phalanx" / "site" / "pki" / "admin"
    keys.mkdir(parents=True)
    (keys / "identity.key").write_text("private")
    assert pack(source).digest == alone
