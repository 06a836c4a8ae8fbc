"""The decisions of Phalanx: deterministic, without I/O, fed with plain values and a time."""
