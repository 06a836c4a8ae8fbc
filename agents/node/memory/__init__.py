"""States of ranks in this node's memory: its own ranks', and copies of other nodes'."""
