"""What saving costs a step and what restoring takes, for each tier."""
