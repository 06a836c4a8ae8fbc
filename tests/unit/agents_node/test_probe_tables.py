"""Every code that a probe can give has its level in the vendor's table, and so has every common one."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from agents.node.probes import boards
from controlplane.catalogues import built_in
from tests.fixtures.recorded_machine import recorded_machine, recorded_names

ROOT = Path(boards.__file__).parent
TABLE = built_in()
COMMON = frozenset({
    "DEVICE-LOST", "LINK-DOWN", "PCIE-WIDTH", "THERMAL", "ECC-UNCORRECTED", "PAGES-PENDING", "VENDOR-UNHEALTHY",
    "PROBE-HUNG", "PROBE-CRASHED", "PROBE-SILENT",
})  # fmt: skip
OF_THE_PROBE = frozenset({"PROBE-HUNG", "PROBE-CRASHED", "PROBE-SILENT"})
VENDORS = sorted({vendor for vendor, _ in recorded_names()})
SHARED = {
    "amd": ("amdgpu_log",),
    "hygon": ("amdgpu_log",),
    "nvidia": ("driver_states", "nvml"),
    "thead": ("driver_states", "nvml"),
}
"""Modules with codes that several vendors use."""
CODE = re.compile(r"[A-Z][A-Z0-9]*(?:-[A-Z0-9]+)+")
NOT_CODES = {"PCI-E"}


def codes_in(path: Path) -> set[str]:
    """Texts in a module that read like codes."""
    texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    return {text for text in texts if isinstance(text, str) and CODE.fullmatch(text)} - NOT_CODES


def modules_of(vendor: str) -> list[Path]:
    own = [ROOT / f"{vendor}.py"] if (ROOT / f"{vendor}.py").exists() else sorted((ROOT / vendor).glob("*.py"))
    return own + [ROOT / f"{name}.py" for name in SHARED.get(vendor, ())]


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_code_is_in_the_table(vendor: str) -> None:
    assert vendor == importlib.import_module(f"agents.node.probes.{vendor}").VENDOR
    used = {code for path in modules_of(vendor) for code in codes_in(path)}
    common = OF_THE_PROBE if vendor == "host" else COMMON  # the machine itself has no devices
    assert used | common <= {code for owner, code in TABLE.rules if owner == vendor}


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_table_says_where_it_is_from(vendor: str) -> None:
    origins = {rule.origin for (owner, _), rule in TABLE.rules.items() if owner == vendor}
    assert all(re.search(r"https://\S+.*, \d{4}-\d\d-\d\d$", origin) for origin in origins), origins


def test_common_codes_are_those_of_the_shared_modules() -> None:
    shared = set().union(*(codes_in(ROOT / f"{name}.py") for name in ("inventory", "findings", "boards")))
    assert shared <= COMMON


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_page_says_how_far_a_probe_is_proven(vendor: str) -> None:
    page = (ROOT.parents[2] / "docs" / "probes.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{vendor}` |")]
    assert row.endswith(f"| {importlib.import_module(f'agents.node.probes.{vendor}').PROVEN} |")


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_proven_probe_has_a_recorded_machine_with_that_source(vendor: str) -> None:
    sources = {recorded_machine(owner, name).source for owner, name in recorded_names(vendor)}
    proven = importlib.import_module(f"agents.node.probes.{vendor}").PROVEN != "constructed"
    assert proven == any(source.startswith("https://") for source in sources)
