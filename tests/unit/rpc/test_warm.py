"""The first verdict loads nothing."""

from __future__ import annotations

import subprocess
import sys

ASK = """
import sys
import numpy as np
from controlplane.warm import load_late
before = {*sys.modules}
load_late()
loaded = {*sys.modules}
np.unique(np.zeros(3, dtype=np.uint8))
print("numpy.ma" in before, {*sys.modules} - loaded)
"""


def test_unique_finds_everything_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False set()"
