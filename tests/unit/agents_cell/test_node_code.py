"""Unpacking shipped code: exactly what was shipped, once a node, and nothing outside of its folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from agents.cell import code
from agents.cell.code import CodeRefused, NodeCode, unpack
from agents.cell.with_code import environment_with


def archive_of(folder: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> tuple[str, str]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return store(folder, gzip.compress(buffer.getvalue()))


def store(folder: Path, data: bytes) -> tuple[str, str]:
    digest = hashlib.sha256(data).hexdigest()
    path = folder / f"{digest}.tar.gz"
    path.write_bytes(data)
    return str(path), f"sha256:{digest}"


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


@pytest.fixture
def shipped(tmp_path: Path) -> tuple[str, str]:
    return archive_of(tmp_path, [(member("train.py"), b"X = 1\n"), (member("lib/run.sh", mode=0o755), b"#!")])


def test_unpacked_once_and_what_was_damaged_is_made_good(tmp_path: Path, shipped: tuple[str, str]) -> None:
    store = NodeCode(tmp_path / "code")
    folder = store.acquire(*shipped)
    assert folder.name == shipped[1].removeprefix("sha256:")
    assert (folder / "train.py").read_text() == "X = 1\n"
    assert os.access(folder / "lib" / "run.sh", os.X_OK)
    born = folder.stat().st_ino
    assert store.acquire(*shipped).stat().st_ino == born
    for damage in (
        lambda: (folder / "train.py").chmod(0o644) or (folder / "train.py").write_text("X = 2\n"),
        (folder / "lib" / "run.sh").unlink,
        lambda: (folder / "planted.py").write_text(""),
    ):
        damage()
        assert (store.acquire(*shipped) / "train.py").read_text() == "X = 1\n"
        assert sorted(path.name for path in folder.rglob("*")) == ["lib", "run.sh", "train.py"]
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "train.pyc").write_text("")
    born = folder.stat().st_ino
    assert store.acquire(*shipped).stat().st_ino == born
    note = folder.with_suffix(".json")
    note.write_text(json.dumps(json.loads(note.read_text()) | {"boot": "an earlier one"}))
    assert store.acquire(*shipped).stat().st_ino != born  # a crash may have torn it


def test_the_archive_must_be_what_its_digest_says(tmp_path: Path, shipped: tuple[str, str]) -> None:
    Path(shipped[0]).write_bytes(Path(shipped[0]).read_bytes() + b"\0")
    with pytest.raises(CodeRefused, match="has digest sha256:"):
        NodeCode(tmp_path / "code").acquire(*shipped)
    assert [path.name for path in (tmp_path / "code").iterdir()] == [".lock"]
    with pytest.raises(CodeRefused, match="is shared storage mounted"):
        NodeCode(tmp_path / "code").acquire(str(tmp_path / "gone.tar.gz"), shipped[1])


@pytest.mark.parametrize(
    "bad",
    [
        member("../out.py"),
        member("a/../../out.py"),
        member("/out.py"),
        member("link.py", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard.py", tarfile.LNKTYPE, "train.py"),
        member("null", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
        member("."),
    ],
    ids=lambda info: info.name,
)
def test_nothing_leaves_the_folder(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    packed = archive_of(tmp_path, [(member("train.py"), b""), (bad, b"")])
    with pytest.raises(CodeRefused):
        NodeCode(tmp_path / "code").acquire(*packed)
    assert [path.name for path in (tmp_path / "code").iterdir()] == [".lock"]
    assert not (tmp_path / "out.py").exists()
    assert not (tmp_path.parent / "out.py").exists()


def test_bombs_end_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = archive_of(tmp_path, [(member("zeros"), bytes(1 << 20))])
    monkeypatch.setattr(code, "MAX_UNPACKED_BYTES", 1 << 16)
    with pytest.raises(CodeRefused, match="more than"):
        unpack(*packed, tmp_path / "a")
    monkeypatch.setattr(code, "_TAR_OVERHEAD_BYTES", 0)
    hidden = member("x")
    hidden.pax_headers = {"comment": "z" * (1 << 20)}  # size of the member: nothing
    with pytest.raises(CodeRefused, match="more than"):
        unpack(*archive_of(tmp_path, [(hidden, b"")]), tmp_path / "b")
    monkeypatch.setattr(code, "MAX_FILES", 1)
    with pytest.raises(CodeRefused, match="more than 1 files"):
        unpack(*archive_of(tmp_path, [(member("a"), b""), (member("b"), b"")]), tmp_path / "c")


@pytest.mark.parametrize(
    "data",
    [b"", b"no gzip at all", gzip.compress(b"no tar"), gzip.compress(b"x" * 5000)[:-9]],
    ids=["nothing", "no gzip", "no tar", "cut off"],  # a name must not change with the time in the gzip header
)
def test_rubbish_is_named_as_such(tmp_path: Path, data: bytes) -> None:
    packed = store(tmp_path, data)
    with pytest.raises(CodeRefused, match="is no gzipped tar archive"):
        unpack(*packed, tmp_path / "code")


def test_a_file_twice_is_refused(tmp_path: Path) -> None:
    packed = archive_of(tmp_path, [(member("a"), b"1"), (member("a"), b"2")])
    with pytest.raises(CodeRefused, match="twice"):
        unpack(*packed, tmp_path / "code")


def test_unused_folders_are_swept_and_held_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "KEPT_FOLDERS", 1)
    root = tmp_path / "code"
    packed = [archive_of(tmp_path, [(member("a"), str(number).encode())]) for number in range(4)]
    (root / ".0123456789abcdef.77").mkdir(parents=True)  # of one that was killed
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root), *packed[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    first = Path(holder.stdout.readline().decode().strip())
    for archive, digest in packed[1:3]:
        subprocess.run([sys.executable, "-c", HOLD, str(root), archive, digest], stdin=subprocess.DEVNULL, check=True)
    last = NodeCode(root).acquire(*packed[3])
    assert {path for path in root.iterdir() if path.is_dir()} == {first, last}
    holder.communicate(b"\n")
    assert holder.returncode == 0


HOLD = """
import os, sys
from pathlib import Path
from agents.cell.code import NodeCode
print(NodeCode(Path(sys.argv[1])).acquire(sys.argv[2], sys.argv[3]), flush=True)
os.execv("/bin/sh", ["sh", "-c", "read line || true"])
"""


def test_the_rank_finds_its_module_in_the_folder() -> None:
    environ = {"PHALANX_WORKLOAD": '{"module": "train", "path": "", "args": {"a": 1}}', "PATH": "/bin"}
    made = environment_with(environ, Path("/node/code/abc"))
    assert json.loads(made["PHALANX_WORKLOAD"]) == {"module": "train", "path": "/node/code/abc", "args": {"a": 1}}
    assert made["PATH"] == "/bin"
