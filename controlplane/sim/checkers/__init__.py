"""Oracles of the simulation: every invariant of docs/language.md, judged from the journal and the world's truth alone.

They share no code with `core.invariants`, and keep their own book of what the journal says. What they know of the core is
the vocabulary: record types, states, effects.
"""
