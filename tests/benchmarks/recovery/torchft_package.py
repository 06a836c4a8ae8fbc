"""torchft for the comparison only: a folder that nothing else of the product has on its path."""

from __future__ import annotations

import subprocess
import sys

from tests.benchmarks.report import ROOT

VERSION = "0.2.0"
FOLDER = ROOT / ".phalanx" / "peers" / f"torchft-{VERSION}"
PACKAGES = (
    f"torchft=={VERSION}",
    "opentelemetry-exporter-otlp-proto-http==1.45.2",
    "opentelemetry-exporter-http-transport==0.66b2",
)
"""With what it needs beyond torch and the tracing that the product has; the versions of the latter fit together."""
INSTALL_LIMIT_S = 180.0


def provide() -> str:
    """Have the folder; why there is none, or empty."""
    if not FOLDER.exists():
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER), *PACKAGES)
        if reason := _failure(pip):
            return f"torchft {VERSION} cannot be installed: {reason}"
    probe = f"import sys; sys.path.append({str(FOLDER)!r}); import torchft"
    reason = _failure((sys.executable, "-c", probe))
    return f"torchft cannot be imported: {reason}" if reason else ""


def _failure(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"not within {INSTALL_LIMIT_S:g} s"
    if done.returncode == 0:
        return ""
    return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit {done.returncode}")
