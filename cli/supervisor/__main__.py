"""`python -m cli.supervisor PLAN`: the supervisor process. Started by `phalanx up`."""

from __future__ import annotations

import sys
from pathlib import Path

from cli.supervisor.daemon import Supervisor
from cli.supervisor.plan import read_plan

if __name__ == "__main__":
    Supervisor(read_plan(Path(sys.argv[1]))).run()
