"""The folding of records into state, by noun."""
