"""The simulated site's truth: machines, processes, storage and the paths between them. Decides nothing."""
