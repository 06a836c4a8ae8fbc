"""Effective training time of one large synchronous job: exact formulas, phases, policies, calibration, tables and charts."""
