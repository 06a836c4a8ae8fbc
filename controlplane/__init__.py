"""Phalanx control plane: the decisions, the turn that makes them durable, and the edges around it."""

__version__ = "0.2.0"
