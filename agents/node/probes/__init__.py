"""Probes: one module per vendor, each reads accelerators and reports their state as it is."""
