"""A whole site of sessions against one real controller: `make bench-fleet`."""
