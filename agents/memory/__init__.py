"""State of ranks in shared memory: the format that rank processes write and node agents read. No torch, no grpc."""
