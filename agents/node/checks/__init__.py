"""Checks of the machine by its own agent: work with a known answer, each in a child process with a deadline."""
