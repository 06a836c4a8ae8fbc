"""Generate `phalanx.v1` from the .proto files, or check that the committed code is what they give.

python proto/generate.py           write proto/gen/python
python proto/generate.py --check   compare, exit 1 when stale
"""

from __future__ import annotations

import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
TARGET = ROOT / "gen" / "python" / "phalanx"


def generate(folder: Path) -> None:
    """Write the package `phalanx` below `folder`."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "phalanx" / "v1").glob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    outputs = ("python_out", "mypy_out", "grpc_python_out", "mypy_grpc_out")
    flags = [f"--{name}={'quiet:' if 'mypy' in name else ''}{folder}" for name in outputs]
    status = protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *flags, *sources])
    if status:
        raise SystemExit(f"protoc failed with {status}: see its messages above")
    for package in ("phalanx", "phalanx/v1"):
        (folder / package / "__init__.py").write_text("")


def differences(left: Path, right: Path) -> list[str]:
    """Relative paths of files that differ or exist on one side only."""
    names = {p.relative_to(left) for p in left.rglob("*.py*")} | {p.relative_to(right) for p in right.rglob("*.py*")}
    return sorted(
        str(name)
        for name in names
        if "__pycache__" not in name.parts
        and not ((left / name).exists() and (right / name).exists() and filecmp.cmp(left / name, right / name, False))
    )


def main() -> int:
    """Entry point; see the module's text."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = Path(scratch) / "phalanx"
        if "--check" in sys.argv[1:]:
            stale = differences(fresh, TARGET)
            if stale:
                sys.stderr.write(f"generated code is stale: {', '.join(stale)}\nrun `make proto` and commit\n")
            return 1 if stale else 0
        shutil.rmtree(TARGET, ignore_errors=True)
        shutil.copytree(fresh, TARGET)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
