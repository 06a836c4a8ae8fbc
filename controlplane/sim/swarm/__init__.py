"""The swarm: one random scenario per seed, run under every checker, and what all of them together have covered."""
