"""Where ranks go."""
