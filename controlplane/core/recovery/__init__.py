"""Which rung of the ladder: pure functions over a job, its incident and the fleet."""
