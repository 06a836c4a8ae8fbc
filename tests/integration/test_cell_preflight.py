"""Preflight through the real agent: what it says of modules, paths and checkpoint folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from phalanx.v1 import cell_pb2, types_pb2

from cli.code import pack
from tests.fixtures.cell_peers import wait_for

if TYPE_CHECKING:  # at run time pytest imports it as a plugin, once
    from tests.fixtures.cell_fixtures import CellSite

pytest_plugins = ["tests.fixtures.cell_fixtures"]


@pytest.fixture
def site(cell_site: CellSite) -> CellSite:
    return cell_site


@pytest.fixture
def code(tmp_path: Path) -> Iterator[Path]:
    """A folder of a user: one module that must not be run, and two packages."""
    folder = tmp_path / "code"
    (folder / "llm").mkdir(parents=True)
    (folder / "broken").mkdir()
    (folder / "train_moe.py").write_text("raise SystemExit('the module was imported')\n")
    (folder / "llm" / "__init__.py").write_text("")
    (folder / "llm" / "pretrain.py").write_text("raise SystemExit('the module was imported')\n")
    (folder / "broken" / "__init__.py").write_text("import no_such_dependency\n")
    (folder / "broken" / "train.py").write_text("")
    return folder


def ask(
    site: CellSite, module: str, path: str = "", folder: str = "", *, shipped: tuple[Path, str] | None = None
) -> list[types_pb2.FieldViolation]:
    request = cell_pb2.PreflightRequest(preflight_id=f"{module}|{path}|{folder}|{shipped}", checkpoint_folder=folder)
    request.workload.module = module
    request.workload.path = path
    if shipped is not None:
        request.code_archive, request.workload.code_digest = str(shipped[0]), shipped[1]
    site.controller.send(cell_pb2.CellInstruction(preflight=request))
    result = wait_for("preflight result", lambda: site.controller.preflights.get(request.preflight_id))
    return list(result.violations)


def test_a_good_workload_and_a_folder_that_is_not_there_yet(site: CellSite, code: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "deep"
    assert ask(site, "train_moe", str(code), str(folder)) == []
    assert ask(site, "llm.pretrain", str(code)) == []
    assert not folder.parent.exists()  # nothing is left behind
    assert ask(site, "json.tool") == []


def test_a_wrong_module_gets_a_suggestion(site: CellSite, code: Path) -> None:
    (found,) = ask(site, "train_mo", str(code))
    assert found.path == "spec.workload.module"
    assert "no module named train_mo" in found.reason
    assert found.fix == "did you mean train_moe?"
    (found,) = ask(site, "llm.pretraining", str(code))
    assert found.fix == "did you mean llm.pretrain?"
    (found,) = ask(site, "llm.pretrain.x", str(code))
    assert "not a package" in found.reason
    (found,) = ask(site, "broken.train", str(code))
    assert "no_such_dependency" in found.reason
    (found,) = ask(site, "not a name", str(code))
    assert "not a module name" in found.reason


def test_a_wrong_path(site: CellSite, code: Path) -> None:
    (found,) = ask(site, "train_moe", str(code / "missing"))
    assert found.path == "spec.workload.path"
    assert "does not exist" in found.reason
    (found,) = ask(site, "train_moe", "relative/code")
    assert "absolute" in found.reason


def test_a_folder_that_cannot_be_written(site: CellSite, code: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (found,) = ask(site, "train_moe", str(code), str(tmp_path / "file" / "checkpoints"))
    assert found.path == "spec.checkpoint.folder"
    assert "Not a directory" in found.reason
    both = ask(site, "nothing_like_it", str(code), "relative")
    assert {violation.path for violation in both} == {"spec.workload.module", "spec.checkpoint.folder"}


def ship(tmp_path: Path, **files: str) -> tuple[Path, str]:
    source = tmp_path / "src"
    for name, text in files.items():
        path = source / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    packed = pack(source)
    archive = tmp_path / "shipped.tar.gz"
    archive.write_bytes(packed.data)
    return archive, packed.digest


def test_shipped_code_is_imported_and_its_mistakes_are_placed(site: CellSite, tmp_path: Path) -> None:
    good = ship(tmp_path, train="import lib.model\ndef main(context): ...\n", lib__model="SIZE = 4\n")
    assert ask(site, "train", shipped=good) == []
    (found,) = ask(site, "tran", shipped=good)
    assert "no module named tran in the shipped folder" in found.reason
    assert found.fix == "did you mean train?"
    (found,) = ask(site, "lib.model", shipped=good)
    assert "lib.model (lib/model.py in the shipped folder) has no main(context)" in found.reason


@pytest.mark.parametrize(
    ("text", "reason", "fix"),
    [
        ("\nimport no_such_package\n", "lib/model.py line 2: ModuleNotFoundError", "put no_such_package into"),
        ("def broken(:\n", "lib/model.py line 1: SyntaxError", "correct the file"),
        ("raise SystemExit(3)\n", "lib/model.py line 1: SystemExit: 3", "correct the file"),
    ],
)
def test_an_import_that_fails_is_named_by_file_and_line(
    site: CellSite, tmp_path: Path, text: str, reason: str, fix: str
) -> None:
    shipped = ship(tmp_path, train="import lib.model\n", lib__model=text)
    (found,) = ask(site, "train", shipped=shipped)
    assert found.path == "spec.workload.module"
    assert reason in found.reason
    assert fix in found.fix


def test_an_archive_that_is_not_what_was_shipped(site: CellSite, tmp_path: Path) -> None:
    archive, digest = ship(tmp_path, train="")
    archive.write_bytes(b"something else")
    (found,) = ask(site, "train", shipped=(archive, digest))
    assert found.path == "spec.workload.codeDigest"
    assert "has digest sha256:" in found.reason
