"""Seconds from one kill to the first new step: Phalanx, torchrun elastic and Ray Train v2 on the same workload.

`make bench-recovery`; what is measured and how to read it: docs/benchmarks.md.
"""
