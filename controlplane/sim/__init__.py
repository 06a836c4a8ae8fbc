"""The simulated site: the production turn under a seeded world, its faults and its checkers. Part of the product."""
