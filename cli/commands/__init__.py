"""Commands, one module per noun. Each has `register(app)`."""
