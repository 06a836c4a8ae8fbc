"""`phalanx demo`: a real training job loses a rank, then a node, and ends with the weights it would have had."""
