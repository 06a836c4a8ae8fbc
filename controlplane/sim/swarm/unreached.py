"""Cells of the coverage table that no seed reaches, each with the reason. tests/simulation holds it against what seeds do."""

from __future__ import annotations

from collections.abc import Mapping

UNREACHED: Mapping[str, str] = {}
