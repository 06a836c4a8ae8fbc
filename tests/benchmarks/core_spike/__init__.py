"""Benchmark behind docs/design/0001: can one Python machine be the production brain and the simulator's?

A reduced core (one job, node / rack / accelerator / process faults, spares, checkpoints, ledger) runs under
a virtual clock through the engine's turn. All times are integer nanoseconds of virtual time unless a name says
otherwise. The state lives in numpy columns or in frozen dataclasses (``--representation``); the turn forks a
working copy or applies in place (``--turn``). All four combinations must write the same records.
"""
