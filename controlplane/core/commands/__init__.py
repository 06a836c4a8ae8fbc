"""Commands of operators, one module per noun. Each returns what it changes, or a refusal with the way out."""
