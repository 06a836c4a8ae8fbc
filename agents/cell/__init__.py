"""The cell agent and the rank host: one Ray cluster's dispatcher and the tiny parents that it starts on nodes.

This package must stay importable without Ray: the rank host and the supervisor use it too.
"""
