"""The first program of a rank process with shipped code: it gets the code ready, then becomes the rank process.

`python -m agents.cell.with_code ARCHIVE DIGEST`, in the environment of `python -m agents.rank`. Its own process, so that
a slow disk never makes the rank host deaf; the same process as the rank afterwards, so that nothing else changes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from agents.cell.code import CodeRefused, NodeCode

EXIT_USAGE = 2
EXIT_NO_CODE = 1


def environment_with(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment of the rank process with its module found in `folder` first."""
    workload = json.loads(environ["PHALANX_WORKLOAD"])
    return {**environ, "PHALANX_WORKLOAD": json.dumps(workload | {"path": str(folder)})}


def main() -> int:
    """Entry point. Returns only when the process must not become a rank; what is wrong is in the log then."""
    if len(sys.argv) != 3:
        sys.stderr.write(f"{__doc__}\n")
        return EXIT_USAGE
    archive, digest = sys.argv[1:]
    try:
        folder = NodeCode(Path(os.environ["PHALANX_NODE_DIR"]) / "code").acquire(archive, digest)
        os.execve(sys.executable, [sys.executable, "-u", "-m", "agents.rank"], environment_with(os.environ, folder))
    except (CodeRefused, OSError) as error:
        sys.stderr.write(f"phalanx: the shipped code cannot be used on this node: {error}\n")
    return EXIT_NO_CODE


if __name__ == "__main__":
    sys.exit(main())
