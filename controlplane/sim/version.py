"""Which simulator a seed belongs to."""

from __future__ import annotations

SIM_VERSION = 3
"""Grows with every change after which a seed means another run: of the world, the faults, or how a seed becomes a scenario."""
