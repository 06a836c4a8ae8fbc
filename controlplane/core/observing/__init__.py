"""Observations of node agents and cells into records: what each witness may conclude, and nothing more."""
