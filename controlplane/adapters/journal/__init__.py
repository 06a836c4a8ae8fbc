"""The journal's implementations: `sql.SqlJournal` for a site, `memory.MemoryJournal` for unit tests and the simulator.

Nothing is imported here, so that the simulator does not pay for the database driver.
"""
