"""What may be believed of nodes."""
