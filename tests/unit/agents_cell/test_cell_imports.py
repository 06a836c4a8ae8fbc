"""The package must be importable without Ray."""

from __future__ import annotations

import subprocess
import sys


def test_only_the_agent_imports_ray() -> None:
    light = "agents.cell, agents.cell.actor, agents.cell.bootstrap, agents.cell.__main__, agents.cell.rank_host"
    code = f"import sys, {light}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
