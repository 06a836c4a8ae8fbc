"""Effective training time at 50,000 accelerators, and how fast it is simulated: `make bench-ettr`."""
